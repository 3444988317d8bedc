//! RDRAND is executed where CPUID announced it.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() -> Option<u64> {
    processor::RdRand(()).word()
}

fn main() {}
