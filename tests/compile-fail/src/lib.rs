//! What must not compile. Each file of `cases` is one attempt of a service at more than its capabilities allow, with what
//! the compiler says of it beside it; `honest.rs` does what they try to get, in the way in which it is allowed, so that
//! what is refused is the attempt and nothing about it.
//!
//! `cases/kernel` is the same for the kernel's own code: what its types do not let it do. Those cases include the files of
//! `kernel/image`, which compile for the host, too.
//!
//! The refusal of a service's attempts is the second wall. The first is the kernel: it looks up every slot, whatever the
//! types of a service say.
#![forbid(unsafe_code)]
