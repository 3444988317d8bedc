//! The program in the place of netfront, once an attacker controls it.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::bindings as cloister_interfaces;
use cloister_prober::netfront as cloister_prober_netfront;

cloister_runtime::service!(cloister_prober_netfront);
