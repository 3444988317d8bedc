//! The service against the simulated back end, and against hostile ones.

mod connection;
mod frames;
mod hostile;
mod services;
mod world;

use core::num::NonZeroU16;

use cloister_caps::{Operation, PAGE_SIZE};
use cloister_interfaces::net::{Offload, Offloads, Reply, Request, RxPage, TxPage};
use cloister_interfaces::{Instant, Memory, Notifications, PageOffset};
use cloister_sim::{Netback, Recorder, SharedMemory};

use super::Netfront;
use world::*;

fn segments(size: u16) -> Offload {
    Offload::Segments(NonZeroU16::new(size).expect("not 0"))
}
