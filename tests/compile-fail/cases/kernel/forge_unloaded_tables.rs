//! Only the boot code asserts that the descriptor tables are not loaded yet.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() {
    processor::load_tables(processor::UnloadedTables::new());
}

fn main() {}
