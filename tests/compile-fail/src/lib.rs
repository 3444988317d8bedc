//! Cases that must not compile. Each file of `cases` is one attempt of a service to exceed its
//! capabilities, with the compiler's message beside it. `honest.rs` does the same things in the
//! allowed way, so that the attempt itself is what the compiler refuses.
//!
//! `cases/kernel` has attempts of the kernel's own code against its types. Those cases include
//! files of `kernel/image`, which also compile for the host.
//!
//! The types of a service are the second line of defence. The first is the kernel, which looks up
//! every slot, whatever the types of a service say.
#![forbid(unsafe_code)]
