//! The other side of a service in a host test: the simulated hypervisor, and the host's
//! [`System`](cloister_interfaces::System) and [`Memory`](cloister_interfaces::Memory).
#![forbid(unsafe_code)]

pub mod archive;
pub mod changing;
pub mod fakes;
pub mod hypervisor;
pub mod memory;
pub mod netback;
pub mod pair;
pub mod platform;
pub mod program;
pub mod recorder;
pub mod seed;
pub mod tampered;
pub mod xenstored;

pub use changing::ChangingMemory;
pub use hypervisor::Machine;
pub use memory::SharedMemory;
pub use netback::Netback;
pub use pair::{ChannelMemory, QueueMemory, channel};
pub use recorder::Recorder;
pub use tampered::{Script, Tampered};
pub use xenstored::Xenstored;
