//! Only CPUID announces a feature.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() -> processor::Features {
    processor::Features { smep: true, ..processor::Features::detect() }
}

fn main() {}
