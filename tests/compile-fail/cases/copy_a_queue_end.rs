//! A queue end cannot be copied.
#![forbid(unsafe_code)]

use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Sender, System, store};

fn attempt<S: System, M: Memory>(client: &Client<Store, S, M>) -> Sender<store::Request, S, M> {
    client.requests.clone()
}

fn main() {}
