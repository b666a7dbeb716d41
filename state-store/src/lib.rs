//! The replicated state of a Holdfast cluster: a control group and session groups on raft-rs,
//! kept in RocksDB, spoken over QUIC.
//!
//! [`Store`] is the handle that the node layer uses. Sessions go in through [`Store::propose`] and
//! come out, on every director, through the [`holdfast_schema::session::SessionSink`] attached to
//! the store. The store knows no packets.
//!
//! | module | what it is |
//! |---|---|
//! | [`codec`] | the byte format of everything on the wire and on disk |
//! | [`control`], [`shard`] | the two state machines: pure, deterministic |
//! | [`membership`] | who votes: a pure function |
//! | [`homes`] | young sessions: who is told, what is kept, who is asked: pure cores |
//! | [`liveness`] | who is alive: a pure core |
//! | [`raft`] | groups on raft-rs, their logs, the threads that drive them |
//! | [`storage`] | RocksDB, the director's identity |
//! | [`peer`], [`pki`] | QUIC between directors, keys and certificates |
//! | `simulation` | what a deterministic simulation needs (feature `simulation`) |
//! | `store` | the handle; finds leaders, asks peers, joins |
#![forbid(unsafe_code)]

pub mod codec;
pub mod control;
pub mod homes;
pub mod liveness;
pub mod membership;
pub mod memory;
pub mod metrics;
pub mod peer;
pub mod pki;
pub mod raft;
pub mod shard;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod storage;
mod store;
pub mod transport;

pub use store::error::{Busy, StoreError};
pub use store::types::{
    Fsync, GroupStatus, Limits, MissVerdict, PeerCalls, PeerStatus, Phase, StoreConfig,
};
pub use store::{Registrar, Store};
