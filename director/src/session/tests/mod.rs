//! Tests of the session table as a whole.

mod basics;
mod expiring;
mod flushing;
mod lasting;
mod model;
#[cfg(feature = "loom")]
pub(super) mod models;
mod reborn;
mod refusing;
mod removing;
mod sinking;
mod stress;
mod sweeping;

use std::sync::Arc;

use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::flow::{Addr, FlowKey, Protocol};
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, SessionFlags, SessionRecord,
};

use super::{Lookup, NewSession, SessionTable, Side, Slot, WorkerHandle};

const ME: DirectorId = DirectorId(1);
const OTHER: DirectorId = DirectorId(2);

const OPENED: SessionFlags = SessionFlags::CLIENT_OPENED;

fn established() -> SessionFlags {
    OPENED.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED)
}

/// The client key of the `n`th flow.
fn key(n: u32) -> FlowKey {
    FlowKey {
        src: Addr::from_v4_octets((0x0a00_0000 + n).to_be_bytes()),
        dst: Addr::from_v4_octets([203, 0, 113, 10]),
        src_port: 40_000,
        dst_port: 80,
        protocol: Protocol::Tcp,
    }
}

/// The reply key with the `n`th local port from 1024 on; every 64,512 another LIP.
fn reply(n: u32) -> FlowKey {
    FlowKey {
        src: Addr::from_v4_octets([198, 51, 100, 1]),
        dst: Addr::from_v4_octets((0xc000_0200 + n / 64_512).to_be_bytes()),
        src_port: 8_080,
        dst_port: 1_024 + (n % 64_512) as u16,
        protocol: Protocol::Tcp,
    }
}

fn new_session(n: u32, local: u32, flags: SessionFlags) -> NewSession {
    NewSession {
        key: key(n),
        reply: reply(local),
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        bucket: Bucket::of_local_port(reply(local).dst_port),
        idle_timeout_ms: 900_000,
        replicate_after: ReplicateAfter::Millis(3_000),
        stamp: 1_000,
        isn: 7,
        flags,
        seq_end: 8,
        ack: 0,
        isn_delta: 0,
        timestamp_delta: 0,
        replaces: None,
    }
}

/// What another director says of the `n`th flow.
fn record(n: u32, local: u32, stamp: u64, flags: SessionFlags) -> SessionRecord {
    let seen = HalfSeen { age_ms: 100, seq: 11, ack: 12 };
    SessionRecord {
        key: key(n),
        reply: reply(local),
        incarnation: Incarnation { stamp, creator: OTHER, counter: u64::from(n), isn: 9 },
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(2),
        mode: ForwardingMode::FullNat,
        owner: OTHER,
        flags,
        created_age_ms: 5_000,
        idle_timeout_ms: 900_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: seen,
        backend_seen: seen,
    }
}

fn table(max_sessions: u32) -> (Arc<SessionTable>, WorkerHandle) {
    let table = Arc::new(SessionTable::new(max_sessions, max_sessions, ME, 1));
    let handle = table.register_worker();
    (table, handle)
}

fn found(table: &SessionTable, key: &FlowKey) -> Option<(Slot, Side)> {
    match table.lookup(key) {
        Lookup::Found(slot, side) => Some((slot, side)),
        Lookup::Absent => None,
        Lookup::Contended => panic!("nobody else is here"),
    }
}
