//! What the store is given and what it tells.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::prefix::Prefix;
use holdfast_schema::session::SessionRecord;

/// How the store is set up.
#[derive(Clone)]
pub struct StoreConfig {
    /// Data directory; created if absent.
    pub data_dir: PathBuf,
    /// The director's name (`id` of its node file).
    pub name: String,
    /// Where peers reach it (QUIC over UDP); also where it listens.
    pub listen: SocketAddr,
    /// Prefixes directly connected to this machine.
    pub connected: Vec<Prefix>,
    /// Who answers the calls and messages of other directors' nodes.
    pub on_call: Arc<dyn PeerCalls>,
    /// When session groups write through to the disk.
    pub fsync: Fsync,
    /// Limits of memory and queues.
    pub limits: Limits,
}

impl StoreConfig {
    /// The usual settings.
    pub fn new(
        data_dir: PathBuf,
        name: String,
        listen: SocketAddr,
        on_call: Arc<dyn PeerCalls>,
    ) -> Self {
        StoreConfig {
            data_dir,
            name,
            listen,
            connected: Vec::new(),
            on_call,
            fsync: Fsync::Never,
            limits: Limits::default(),
        }
    }
}

/// When session groups write through to the disk. Votes and terms, and the control group, always do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fsync {
    /// Before every acknowledgement.
    Always,
    /// Left to the operating system: a crash of the process loses nothing, one of the machine makes
    /// the director join its session groups anew.
    Never,
}

/// Limits of memory and queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Session changes that may wait for a leader, per shard.
    pub proposals_per_shard: usize,
    /// Most changes in one batch.
    pub batch_changes: usize,
    /// Young sessions of others that this director keeps as their home.
    pub young_sessions: usize,
    /// New sessions of this director that may wait to be told to one home.
    pub registrations_per_home: usize,
    /// Bytes of Raft log a session group keeps before it writes a checkpoint and compacts.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            proposals_per_shard: 16_384,
            batch_changes: 512,
            young_sessions: 250_000,
            registrations_per_home: 16_384,
            log_bytes: 8 << 20,
        }
    }
}

/// What the node layer answers to other directors. Called from network tasks: must not block.
pub trait PeerCalls: Send + Sync {
    /// A question of another director's node ([`crate::Store::call`]).
    fn call(&self, from: DirectorId, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;
    /// A best-effort message of another director's node ([`crate::Store::broadcast`]).
    fn message(&self, from: DirectorId, message: Vec<u8>);
}

/// Whether this director is in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Empty data directory: waits for `cluster init` or a join token.
    Waiting,
    /// It has an identity in a cluster.
    Member,
}

/// What came of asking the cluster for a session.
#[derive(Clone, PartialEq, Debug)]
pub enum MissVerdict {
    /// Somebody has it; of several answers the newest incarnation.
    Found(Box<SessionRecord>),
    /// Every authority denies it.
    NoWithAuthority,
    /// Every live director denies it, but something moved lately, somebody is down, or the leader
    /// could not speak for its shard: enough to begin a new flow, not to end an old one.
    Nobody,
    /// Somebody did not answer, or could not be sure.
    DontKnow,
}

/// One peer as this director sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// Its number.
    pub id: DirectorId,
    /// Its name.
    pub name: String,
    /// Whether it is heard of (and not declared down).
    pub up: bool,
    /// Milliseconds since it was last heard; none: never.
    pub heard_ms: Option<u64>,
    /// Round trip time (us) of the control connection, once measured.
    pub rtt_us: Option<u64>,
}

/// One Raft group as this director sees it. Replicas are named by their directors.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GroupStatus {
    /// `control` or `shard-N`.
    pub name: String,
    /// Its leader.
    pub leader: Option<DirectorId>,
    /// Its term.
    pub term: u64,
    /// Committed index.
    pub committed: u64,
    /// Index applied here.
    pub applied: u64,
    /// Voters (of both halves, while a joint change is under way).
    pub voters: Vec<DirectorId>,
    /// Learners.
    pub learners: Vec<DirectorId>,
    /// Whether a joint change is under way.
    pub joint: bool,
    /// Sessions in it here (0 for control).
    pub sessions: u64,
    /// Why this replica stopped working, if it did.
    pub halted: Option<String>,
}
