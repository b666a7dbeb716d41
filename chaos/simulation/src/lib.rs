//! The deterministic simulation of a cluster: one thread, no clock, every choice drawn from a seed.
//!
//! The cores of director, state-store and node run together as they run in the daemon; what is
//! simulated is what surrounds them: clients and backends ([`endpoint`]), router, network and machines
//! ([`world`]), and the shells between the cores ([`director`]). A seed decides everything ([`plan`]).
//! [`run`] replays one and tells which rules were broken; [`soak`] runs many.
#![forbid(unsafe_code)]

pub mod director;
pub mod endpoint;
pub mod plan;
pub mod rng;
pub mod run;
pub mod soak;
pub mod world;
