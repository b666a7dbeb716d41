//! What the store needs of a network, as a trait: the real one is QUIC ([`crate::peer`]), tests use
//! one in memory.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;

/// The connections of a peer that messages travel on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// Small and urgent: votes, Raft heartbeats, misses, calls.
    Control,
    /// Log entries and proposals.
    Log,
}

/// A member that the network should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its number.
    pub id: DirectorId,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// SHA-256 of its public key.
    pub key_fingerprint: [u8; 32],
}

/// What the network knows of a peer's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Which peer.
    pub id: DirectorId,
    /// Time since its last heartbeat; none: never heard.
    pub ago: Option<Duration>,
    /// Round trip time (us).
    pub rtt_us: Option<u64>,
}

/// Sends to peers. Nothing here waits unless it returns a future.
pub trait Transport: Send + Sync {
    /// Sends a message, best effort, in order per lane.
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes);
    /// Asks and waits for the answer.
    fn request(
        &self,
        to: DirectorId,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
    /// Sends a snapshot; `Ok` when the peer has received all of it.
    fn send_snapshot(
        &self,
        to: DirectorId,
        header: Bytes,
        image: Bytes,
    ) -> BoxFuture<'static, Result<(), String>>;
    /// The peers there are (without this director). Others are cut off.
    fn set_members(&self, members: Vec<Peer>);
    /// When each peer was last heard.
    fn heard(&self) -> Vec<Heard>;
    /// What heartbeats carry from now on.
    fn set_heartbeat(&self, payload: Bytes);
    /// Ends all connections.
    fn close(&self);
}

/// Takes what peers send. Called from network tasks: must not block.
pub trait Receiver: Send + Sync {
    /// A message.
    fn message(&self, from: DirectorId, message: Bytes);
    /// A question.
    fn request(&self, from: DirectorId, body: Bytes) -> BoxFuture<'static, Bytes>;
    /// A whole snapshot.
    fn snapshot(&self, from: DirectorId, header: Bytes, image: Bytes)
    -> BoxFuture<'static, Result<(), String>>;
    /// A stranger with a token.
    fn join(&self, request: Bytes) -> BoxFuture<'static, Bytes>;
    /// A heartbeat.
    fn heartbeat(&self, from: DirectorId, payload: Bytes);
}
