#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code)] // each target uses its own part
mod checks;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::core(data));
