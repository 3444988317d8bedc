//! A page of one pool is not one of the other.
#![forbid(unsafe_code)]

use cloister_interfaces::net::{Reply, RxPage};

fn attempt(received: RxPage) -> Reply {
    Reply::Transmitted { page: received }
}

fn main() {}
