//! The kernel: ring 0, page tables and hypercalls, and nothing else.
//!
//! What may be done is decided in `cloister-kernel-core`; this crate does it. It is entered at
//! boot, by system calls, by faults of services and by Xen's event upcall; it runs to completion
//! each time, on one stack, with interrupts off, on one virtual processor. That is why its statics
//! need no more than [`global::Global`].
#![no_std]
#![no_main]

#[cfg(feature = "back-end")]
mod back_end;
mod boot;
mod console;
mod count;
mod fatal;
mod global;
mod grants;
mod hypercall;
mod hypercall_page;
mod machine;
mod paging;
mod processor;
#[cfg(feature = "profile")]
mod profile;
mod run;
mod service;
mod shared_info;
mod trap_frame;
mod vectors;

core::arch::global_asm!(include_str!("boot.s"));
core::arch::global_asm!(include_str!("entry.s"));
