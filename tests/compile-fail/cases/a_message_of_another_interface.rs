//! A queue carries the messages of its interface.
#![forbid(unsafe_code)]

use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, System, net};

fn attempt<S: System, M: Memory>(client: &mut Client<Store, S, M>) {
    let _ = client.requests.send(&net::Request::Close);
}

fn main() {}
