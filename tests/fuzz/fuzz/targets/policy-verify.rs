#![no_main]
#![forbid(unsafe_code)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloister_fuzz::attack(env!("CARGO_BIN_NAME"), bytes));
