//! The descriptor tables are filled once: afterwards the processor reads them.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(tables: processor::UnloadedTables) {
    processor::load_tables(tables);
    processor::load_tables(tables);
}

fn main() {}
