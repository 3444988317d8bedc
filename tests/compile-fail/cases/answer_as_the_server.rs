//! A client cannot send replies.
#![forbid(unsafe_code)]

use cloister_interfaces::net::Net;
use cloister_interfaces::{Client, Memory, System, net};

fn attempt<S: System, M: Memory>(client: &mut Client<Net, S, M>) {
    let _ = client.replies.send(&net::Reply::Down);
}

fn main() {}
