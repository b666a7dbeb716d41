//! Client and backend hosts: deterministic endpoints over IP packets as bytes. No clock, no threads;
//! what they choose is drawn from a seed.
//!
//! [`Client`] and [`Backend`] take packets and the time, and give packets, the time at which they
//! want to be woken, and [`Event`]s: what they noticed. Every received packet's checksums are verified, and
//! every byte of every stream (`payload`).

mod backend;
mod bygone;
mod client;
pub mod datagram;
pub mod dialogue;
pub mod event;
mod exchange;
mod log;
pub mod packet;
pub mod payload;
pub mod plan;
mod reassembly;
pub mod segment;
mod service;
pub mod tcp;
mod timers;
mod udp;

pub use backend::{Backend, BackendConfig};
pub use client::Client;
pub use event::{ConnectionId, Event, EventKind, OpenConnection, Stray, Summary};
pub use plan::{ClientPlan, Setting, Target, Transport};
pub use tcp::TcpConfig;

#[cfg(test)]
mod tests;
