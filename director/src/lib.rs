//! The packet forwarder: decides about frames ([`core`]) from tables ([`tables`]) and sessions
//! ([`session`]), and moves them between AF_XDP rings ([`xdp`], [`worker`]). It knows nothing of Raft,
//! RocksDB or tokio; the life of a packet is told in `docs/ARCHITECTURE.md`.

#![deny(unsafe_code)]

pub mod core;
pub mod director;
pub mod session;
pub mod tables;
pub mod wire;
pub mod worker;
#[allow(unsafe_code)] // rings, packet memory, system calls; every block says why it holds
pub mod xdp;
