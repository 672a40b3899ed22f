//! The checkpoint reader on arbitrary bytes: `cargo +nightly fuzz run checkpoint`.
#![no_main]

#[path = "../src/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::checkpoint(data));
