//! A client cannot read requests, its own or those of others.
#![forbid(unsafe_code)]

use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, System};

fn attempt<S: System, M: Memory>(client: &mut Client<Store, S, M>) {
    let _ = client.requests.pop();
}

fn main() {}
