//! The right to fill the descriptor tables is taken once, and not made.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() {
    processor::load_tables(processor::UnloadedTables(()));
}

fn main() {}
