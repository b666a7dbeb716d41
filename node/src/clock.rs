//! The monotonic clock. Shells read it and hand the value to the cores.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds. Never 0, so that 0 can mean "never".
pub fn mono_ns() -> u64 {
    // The clock exists on every Linux; should it ever fail, 1 makes every age huge, which errs on
    // the side of "something is wrong".
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        .unwrap_or(1)
        .max(1)
}

/// `CLOCK_MONOTONIC` in milliseconds.
pub fn mono_ms() -> u64 {
    mono_ns() / 1_000_000
}

/// Unix time in milliseconds. Only for stamps that order uses of one key, and for people.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
