//! The layout of a queue end is private, so that no second end is made from it.
#![forbid(unsafe_code)]

use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Sender, System, store};

fn attempt<S: System, M: Memory>(client: Client<Store, S, M>, system: S) -> Sender<store::Request, S, M> {
    Sender::new(system, client.requests.end)
}

fn main() {}
