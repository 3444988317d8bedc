//! All services of the image as one program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_fused::bound!(cloister_runtime);

use bound::{self as cloister_runtime, FromSlot as _};

include!(env!("CLOISTER_CAPABILITIES"));

::cloister_runtime::program!(|kernel| {
    let inside = cloister_fused::Inside::new(kernel);
    cloister_fused::service(inside, move || capabilities(inside))
});
