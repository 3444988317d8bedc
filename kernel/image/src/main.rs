//! The kernel: what runs in ring 0, which is page tables, traps and hypercalls, and nothing else.
//!
//! `cloister-kernel-core` decides, and this crate acts. The kernel is entered at boot, by system
//! calls, by faults of services and by Xen's event upcall. Each time it runs to completion, on one
//! stack, with interrupts off, on one virtual processor. Therefore [`global::Global`] is enough for
//! its statics.
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
#[cfg(not(feature = "profile"))]
#[path = "no_profile.rs"]
mod profile;
#[cfg(feature = "profile")]
mod profile;
mod run;
mod service;
mod shared_info;
mod speculation;
mod trap_frame;
mod vectors;

core::arch::global_asm!(include_str!("boot.s"));
core::arch::global_asm!(include_str!("entry.s"));
