//! What the store keeps on disk, and what snapshots hold (the same records).

use bincode::{Decode, Encode};
use holdfast_schema::cluster::{ClusterState, DirectorId, ReplicaId};
use holdfast_schema::session::{Incarnation, SessionFlags, SessionRecord};

use super::{Framed, Kind};

macro_rules! framed {
    ($($name:ident)*) => { $(impl Framed for $name { const KIND: Kind = Kind::$name; })* };
}

framed! { StoredSession ShardMeta Tombs ControlRecord GroupMeta Identity MachineImage }

/// A session as a shard keeps it: times are on the shard's clock, ages in `record` mean nothing.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StoredSession {
    /// The session.
    pub record: SessionRecord,
    /// When it was created (ms on the shard's clock; negative: before the clock began).
    pub created_ms: i64,
    /// When the client's side was last seen.
    pub client_ms: i64,
    /// When the backend's side was last seen.
    pub backend_ms: i64,
}

/// What a shard knows besides its sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ShardMeta {
    /// The shard's clock (ms).
    pub clock_ms: u64,
}

/// A closed session that has expired: a create that was made before its end comes too late.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Tomb {
    /// The session.
    pub incarnation: Incarnation,
    /// What had been seen of it at the end.
    pub flags: SessionFlags,
}

/// The closed sessions that expired in one second of a shard's clock.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Tombs {
    /// In the order of their expiries.
    pub tombs: Vec<Tomb>,
}

/// The control group's whole state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ControlRecord {
    /// The cluster.
    pub cluster: ClusterState,
    /// Generation and first voter of each shard's group.
    pub shards: Vec<ShardForm>,
    /// What was forced, newest last; the oldest are forgotten.
    pub forced: Vec<ForcedAct>,
}

/// Something an operator forced although a precondition failed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ForcedAct {
    /// Configuration revision when it was done.
    pub revision: u64,
    /// Membership epoch when it was done.
    pub membership_epoch: u64,
    /// What was done.
    pub act: String,
    /// The operator's reason.
    pub reason: String,
}

/// How a shard's group was last formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ShardForm {
    /// The generation.
    pub generation: u32,
    /// The replica that began it.
    pub first: ReplicaId,
}

/// What a group's replica must know before it reads its log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct GroupMeta {
    /// Its generation.
    pub generation: u32,
    /// This replica.
    pub replica: u64,
    /// Index that the stored machine has applied.
    pub applied: u64,
    /// Term of the entry at `applied`.
    pub applied_term: u64,
    /// The configuration at `applied`, as raft-rs' protobuf ConfState.
    pub conf_state: Vec<u8>,
}

/// Who this director is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The director's name.
    pub name: String,
    /// Its number.
    pub director: DirectorId,
    /// Its replica in the session groups; 0: it waits for a new one.
    pub replica: ReplicaId,
    /// Counts its starts.
    pub incarnation: u64,
    /// The kernel's boot id when it last started.
    pub boot_id: String,
    /// It ended by itself and had written everything through.
    pub clean: bool,
    /// A replica of the session groups stopped because its disk or its state could not be trusted.
    pub damaged: bool,
    /// Session groups were written through in its last run.
    pub durable: bool,
    /// Its certificate and the authority's (PEM).
    pub chain_pem: String,
    /// Its private key (PEM).
    pub key_pem: String,
    /// Generation of each shard's group when it joined (for groups it has nothing of yet).
    pub generations: Vec<u32>,
    /// The cluster as known at init or join, so that peers are known before the log speaks.
    pub cluster: Option<Box<ClusterState>>,
}

/// A whole state machine: what a snapshot holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct MachineImage {
    /// Key and frame of each record.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}
