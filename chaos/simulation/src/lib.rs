//! The deterministic simulation of a cluster: one thread, no clock, every choice drawn from a seed.
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod rng;
