//! The types that the program's bindings are compiled with.

/// Makes a module `bound` with what bindings expect under the name `cloister_runtime`, over
/// [`Inside`](crate::Inside) and [`Part`](crate::Part). The argument is the path of the runtime:
/// the image's, or its replacement on the host.
#[macro_export]
macro_rules! bound {
    ($($runtime:tt)+) => {
        mod bound {
            use $($runtime)+ as runtime;

            pub type Kernel = $crate::Inside<runtime::Kernel>;
            pub type SharedRegion = $crate::Part<runtime::SharedRegion>;
            pub enum OwnedRegion {}

            /// Finds the region that the capability in `slot` names.
            pub trait FromSlot {
                fn new(kernel: Kernel, slot: cloister_caps::Slot) -> Self;
            }

            impl FromSlot for SharedRegion {
                fn new(kernel: Kernel, slot: cloister_caps::Slot) -> Self {
                    Self::whole(runtime::SharedRegion::new(kernel.kernel(), slot))
                }
            }

            impl OwnedRegion {
                #[expect(clippy::new_ret_no_self, reason = "bindings call it by this name")]
                pub fn new(kernel: Kernel, slot: cloister_caps::Slot) -> runtime::OwnedRegion {
                    runtime::OwnedRegion::new(kernel.kernel(), slot)
                }
            }

            pub fn constant_bytes(kernel: Kernel, slot: cloister_caps::Slot) -> &'static [u8] {
                runtime::constant_bytes(kernel.kernel(), slot)
            }
        }
    };
}
