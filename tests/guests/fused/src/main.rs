//! All services of the image as one program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use bound::{self as cloister_runtime, FromSlot as _};
use cloister_fused::Inside;

/// What the bindings find under the name `cloister_runtime`: its types over [`Inside`] and
/// [`Part`](cloister_fused::Part).
mod bound {
    use cloister_caps::Slot;
    use cloister_fused::Part;

    pub type Kernel = cloister_fused::Inside<cloister_runtime::Kernel>;
    pub type SharedRegion = Part<cloister_runtime::SharedRegion>;
    pub enum OwnedRegion {}

    /// Makes a region of what the capability in `slot` names.
    pub trait FromSlot {
        fn new(kernel: Kernel, slot: Slot) -> Self;
    }

    impl FromSlot for SharedRegion {
        fn new(kernel: Kernel, slot: Slot) -> Self {
            Part::whole(cloister_runtime::SharedRegion::new(kernel.kernel(), slot))
        }
    }

    impl OwnedRegion {
        #[expect(clippy::new_ret_no_self, reason = "it stands for the runtime's `OwnedRegion::new`")]
        pub fn new(kernel: Kernel, slot: Slot) -> cloister_runtime::OwnedRegion {
            cloister_runtime::OwnedRegion::new(kernel.kernel(), slot)
        }
    }

    pub fn constant_bytes(kernel: Kernel, slot: Slot) -> &'static [u8] {
        cloister_runtime::constant_bytes(kernel.kernel(), slot)
    }
}

include!(env!("CLOISTER_CAPABILITIES"));

::cloister_runtime::program!(|kernel| {
    let inside = Inside::new(kernel);
    cloister_fused::service(inside, move || capabilities(inside))
});
