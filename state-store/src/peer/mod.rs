//! The transport between directors: QUIC with mutual TLS. It knows bytes and identities, not Raft.
//!
//! # Connections
//!
//! Each director dials every other one for what it wants to send, and accepts their connections for
//! what they send. So there is no question of who dials, a half-open pair cannot wait for itself,
//! and silence in one direction shows as silence in one direction. Per peer there are three
//! connections, because streams of one connection share its send window, and a snapshot must not
//! hold up a heartbeat: *control* (heartbeats, misses, calls), *log* (Raft messages, proposals),
//! both kept up all the time, and *snapshot* (one for each transfer, rate-limited).
//!
//! # Threads
//!
//! The socket, all accepted connections, the control connections and the heartbeats live on a
//! thread of their own (`hf-peers`), where nothing ever waits for a disk or for the rest of the
//! daemon. The handler ([`Inbound`]) is always called on the runtime that [`Network::bind`] was
//! called on. So a stall there never looks like death.
//!
//! # Who may talk
//!
//! `hf-peer/1` (ALPN): both sides show certificates of the cluster's authority; then each compares
//! the other's public key with the one pinned in the member list for the director that the
//! certificate names. The dialer counts itself connected only after the acceptor's welcome (with TLS
//! 1.3 a refused client certificate looks like success until the first answer). `hf-join/1`: no
//! client certificate, and nothing but one small join request a connection, limited in rate and
//! number. A mismatch closes the connection with its reason, is logged, and counted by reason.
//!
//! # Delivery
//!
//! Messages ([`Network::send`]) of one lane arrive in order or not at all; queues are bounded, and a
//! full one drops its oldest. Requests have a deadline. QUIC keep-alives and idle timeouts only tear
//! down dead connections; who is alive is judged by [`crate::liveness`] alone.
//!
//! # Wire
//!
//! A stream begins with a byte that tells its kind ([`wire`]). Unidirectional: messages (one long
//! stream a connection, each message behind its length), heartbeat (one stream each, so that no lost
//! packet delays the next). Bidirectional: hello (first of each connection), request, snapshot.

mod accept;
mod error;
mod heartbeat;
mod join;
mod link;
mod metrics;
mod network;
mod pacer;
mod queue;
mod registry;
mod request;
mod snapshot;
mod tls;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::{DirectorId, Member};

use crate::liveness::{Committed, Timing};
use crate::pki::{Fingerprint, Identity};

pub use error::{JoinError, NetError};
pub use join::join;
pub use metrics::{HandshakeFailure, LaneMetrics, NetMetrics};
pub use network::Network;
pub use queue::QueueLimits;
pub use snapshot::SnapshotReader;

/// A member as the transport needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its number.
    pub id: DirectorId,
    /// Its name, for messages.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its pinned key.
    pub key_fingerprint: Fingerprint,
    /// Its committed incarnation.
    pub incarnation: u64,
    /// Whether it is declared down.
    pub down: bool,
}

impl From<&Member> for PeerInfo {
    fn from(member: &Member) -> PeerInfo {
        PeerInfo {
            id: member.id,
            name: member.name.clone(),
            address: member.address,
            key_fingerprint: member.key_fingerprint,
            incarnation: member.incarnation,
            down: member.down,
        }
    }
}

impl From<&PeerInfo> for Committed {
    fn from(info: &PeerInfo) -> Committed {
        Committed { director: info.id, incarnation: info.incarnation, down: info.down }
    }
}

/// Which of the standing connections to a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Small and urgent: misses, calls.
    Control,
    /// Raft messages and proposals.
    Log,
}

/// What [`Network::bind`] needs.
#[derive(Debug)]
pub struct NetworkConfig {
    /// Where to listen (UDP).
    pub listen: SocketAddr,
    /// Who we are.
    pub identity: Identity,
    /// Our incarnation; 0: not known yet, heartbeats begin with [`Network::set_incarnation`].
    pub incarnation: u64,
    /// The limits.
    pub limits: Limits,
    /// The times that liveness is judged by.
    pub timing: Timing,
}

impl NetworkConfig {
    /// With default limits and times.
    pub fn new(listen: SocketAddr, identity: Identity) -> NetworkConfig {
        let (limits, timing) = (Limits::default(), Timing::default());
        NetworkConfig { listen, identity, incarnation: 0, limits, timing }
    }
}

/// Limits of the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The control queue of each peer.
    pub control_queue: QueueLimits,
    /// The log queue of each peer.
    pub log_queue: QueueLimits,
    /// The largest message, request or answer (bytes).
    pub max_message: usize,
    /// Snapshots leave at this rate, all together (bytes/s).
    pub snapshot_bytes_per_s: u64,
    /// Snapshots leaving at once; others wait.
    pub snapshots_out: usize,
    /// Snapshots arriving at once; others wait.
    pub snapshots_in: usize,
    /// Join requests a second, from everybody together.
    pub joins_per_s: u32,
    /// Join requests at once.
    pub joins_at_once: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            control_queue: QueueLimits { messages: 4_096, bytes: 8 << 20 },
            log_queue: QueueLimits { messages: 8_192, bytes: 64 << 20 },
            max_message: 16 << 20,
            snapshot_bytes_per_s: 100_000_000,
            snapshots_out: 4,
            snapshots_in: 4,
            joins_per_s: 20,
            joins_at_once: 8,
        }
    }
}

/// A peer as the transport sees it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerLiveness {
    /// Its number.
    pub id: DirectorId,
    /// Its name.
    pub name: String,
    /// The incarnation of its last heartbeat (0: none came yet).
    pub incarnation: u64,
    /// Time since its last heartbeat (ms), none: none came yet. Our own sleep is not counted.
    pub heard_ms_ago: Option<u64>,
    /// Round-trip time (us) of the control connection.
    pub rtt_us: Option<u64>,
    /// Whether our control connection to it stands.
    pub connected: bool,
    /// Why not, if not.
    pub error: Option<String>,
}

/// Who gets what arrives. All methods are called on the runtime of [`Network::bind`].
pub trait Inbound: Send + Sync + 'static {
    /// A message came. Must not wait: it holds up the messages behind it.
    fn message(&self, from: DirectorId, lane: Lane, message: Bytes);
    /// A request came; the result is the answer. Dropped at the asker's deadline.
    fn request(&self, from: DirectorId, request: Bytes) -> BoxFuture<'static, Bytes>;
    /// A snapshot is coming; what this returns is what the sender's call returns.
    fn snapshot(
        &self,
        from: DirectorId,
        header: Bytes,
        reader: SnapshotReader,
    ) -> BoxFuture<'static, Result<(), String>>;
    /// Somebody without a certificate wants to join; the result is the answer.
    fn join(&self, from: SocketAddr, request: Bytes) -> BoxFuture<'static, Bytes>;
    /// A heartbeat came with this payload. Must not wait. May be skipped when it would queue up.
    fn heartbeat(&self, from: DirectorId, incarnation: u64, payload: Bytes);

    /// A peer says that this director was removed from the cluster. Called once.
    fn removed(&self, by: DirectorId) {
        let _ = by;
    }
}
