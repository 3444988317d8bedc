//! The program in the place of tcpip, once an attacker controls it.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::bindings as cloister_interfaces;
use cloister_prober::tcpip as cloister_prober_tcpip;

cloister_runtime::service!(cloister_prober_tcpip);
