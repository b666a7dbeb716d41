//! What the store needs of a network, as a trait: the real one is QUIC ([`crate::peer`]), tests use
//! one in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;

use crate::StoreError;
use crate::codec::disk::Identity;
use crate::liveness::Judgement;
use crate::peer::{Lane, NetMetrics, PeerInfo, PeerLiveness};
use crate::pki::JoinToken;

/// Sends to peers. Nothing here waits unless it returns a future.
pub trait Transport: Send + Sync {
    /// Sends a message, best effort, in order per lane.
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes);
    /// Whether so much waits for a peer that what is not urgent should be held back: what is full loses
    /// its oldest messages, urgent ones as well.
    fn crowded(&self, to: DirectorId, lane: Lane) -> bool;
    /// Asks and waits for the answer.
    fn request(
        &self,
        to: DirectorId,
        lane: Lane,
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
    /// The members there are. Others are cut off.
    fn set_members(&self, members: &[PeerInfo]);
    /// Director numbers below this have been given out: whoever has one and is no member was removed,
    /// and is told so. 0: nobody is told.
    fn set_numbers_given(&self, below: DirectorId);
    /// Our incarnation, once it is committed: heartbeats begin.
    fn set_incarnation(&self, incarnation: u64);
    /// What is known of each peer's life.
    fn liveness(&self) -> Vec<PeerLiveness>;
    /// Who should be declared down or up.
    fn judge(&self) -> Vec<Judgement>;
    /// The counters, if it has any.
    fn metrics(&self) -> Option<Arc<NetMetrics>> {
        None
    }
    /// Ends all connections and frees the port.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Takes what peers send. Called from network tasks: must not block.
pub trait Receiver: Send + Sync {
    /// A message.
    fn message(&self, from: DirectorId, message: Bytes);
    /// A question.
    fn request(&self, from: DirectorId, body: Bytes) -> BoxFuture<'static, Bytes>;
    /// A whole snapshot.
    fn snapshot(&self, from: DirectorId, header: Bytes, image: Bytes) -> Result<(), String>;
    /// A peer says that this director was removed from the cluster.
    fn removed(&self, by: DirectorId);
    /// A stranger with a token.
    fn join(&self, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// Makes transports, and lets strangers ask to join.
pub trait Connector: Send + Sync {
    /// Begins to listen. Must be called within a tokio runtime.
    fn bind(
        &self,
        listen: SocketAddr,
        identity: &Identity,
        receiver: Arc<dyn Receiver>,
    ) -> Result<Arc<dyn Transport>, StoreError>;
    /// Asks the members named in a token.
    fn ask_to_join(
        &self,
        token: JoinToken,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}
