//! The replicated state of a Holdfast cluster: a control group and session groups on raft-rs,
//! kept in RocksDB, spoken over QUIC.
//!
//! [`Store`] is the handle that the node layer uses. Sessions go in through [`Store::propose`] and
//! come out, on every director, through the [`holdfast_schema::session::SessionSink`] attached to
//! the store. The store knows no packets.
#![forbid(unsafe_code)]

pub mod liveness;
pub mod metrics;
pub mod peer;
pub mod pki;
mod store;

pub use store::Store;
pub use store::error::{Busy, StoreError};
pub use store::types::{
    Fsync, GroupStatus, Limits, MissVerdict, PeerCalls, PeerStatus, Phase, StoreConfig,
};
