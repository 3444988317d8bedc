//! One end of a queue makes one sender.
#![forbid(unsafe_code)]

use cloister_interfaces::queue::QueueEnd;
use cloister_interfaces::{Memory, Sender, System, store};

fn attempt<S: System + Copy, M: Memory>(system: S, end: QueueEnd<M>) -> [Sender<store::Request, S, M>; 2] {
    [Sender::new(system, end), Sender::new(system, end)]
}

fn main() {}
