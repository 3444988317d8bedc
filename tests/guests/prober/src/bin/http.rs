//! The program in the place of http, once an attacker controls it.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::bindings as cloister_interfaces;
use cloister_prober::http as cloister_prober_http;

cloister_runtime::service!(cloister_prober_http);
