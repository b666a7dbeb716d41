//! The handle on the store.

pub(crate) mod arrived;
mod ask;
mod command;
pub mod error;
mod found;
mod homes;
mod inbound;
mod joining;
pub(crate) mod machines;
pub(crate) mod member;
mod open;
pub(crate) mod published;
mod quic;
mod removing;
mod status;
pub(crate) mod survey;
mod sync;
#[cfg(test)]
mod tests;
pub mod types;
mod watch;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::session::{SessionChange, SessionSink};
use parking_lot::RwLock;

use crate::codec;
use crate::codec::wire::{NodeMessage, Request, Response};
use crate::metrics::{Metrics, count};
use crate::peer::{Lane, NetMetrics};
use crate::raft::Input;
use crate::storage::Database;
use crate::transport::Connector;
use error::{Busy, StoreError};
pub use homes::Registrar;
use machines::SinkSlot;
use member::{Member, Parts};
use published::Published;
use types::{Phase, StoreConfig};

/// A director's share of the cluster's state. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    config: StoreConfig,
    connector: Arc<dyn Connector>,
    published: Arc<Published>,
    sink: SinkSlot,
    metrics: Arc<Metrics>,
    control_db: Database,
    member: RwLock<Option<Arc<Member>>>,
    /// Held while this director becomes a member.
    becoming: tokio::sync::Mutex<()>,
    /// Held while the leader judges and commits a removal.
    removing: tokio::sync::Mutex<()>,
}

impl Shared {
    fn member(&self) -> Option<Arc<Member>> {
        self.member.read().clone()
    }

    fn parts(&self) -> Parts {
        Parts {
            config: self.config.clone(),
            published: self.published.clone(),
            sink: self.sink.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl Store {
    fn member(&self) -> Result<Arc<Member>, StoreError> {
        let member = self.shared.member().ok_or(StoreError::NotMember)?;
        match member.disowned() {
            Some(why) => Err(StoreError::Disowned(why)),
            None => Ok(member),
        }
    }

    /// Why this director takes no part in the cluster any more, if so: it was removed, or another
    /// machine runs with its identity.
    pub fn disowned(&self) -> Option<String> {
        self.shared.member()?.disowned()
    }

    /// Counters of the network between the directors, once this one is a member.
    pub fn net_metrics(&self) -> Option<Arc<NetMetrics>> {
        self.shared.member()?.transport.metrics()
    }

    /// Whether this director is in a cluster.
    pub fn phase(&self) -> Phase {
        match self.shared.member() {
            Some(_) => Phase::Member,
            None => Phase::Waiting,
        }
    }

    /// This director's number, once it is a member.
    pub fn me(&self) -> Option<DirectorId> {
        self.shared.member().map(|m| m.me)
    }

    /// Counts this director's starts; 0 while waiting.
    pub fn incarnation(&self) -> u64 {
        self.shared.member().map_or(0, |m| m.incarnation)
    }

    /// The name given at start.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Attaches the table that sessions are applied to and asked from. It gets `installed` for each
    /// shard with what is known so far, then every change.
    pub fn attach_sink(&self, sink: Arc<dyn SessionSink>) {
        *self.shared.sink.write() = Some(sink);
        if let Some(member) = self.shared.member() {
            member.sink_attached();
        }
    }

    /// The cluster as last applied here.
    pub fn cluster(&self) -> tokio::sync::watch::Receiver<Option<Arc<ClusterState>>> {
        self.shared.published.subscribe()
    }

    /// Queues changes of one shard; they travel to its leader in batches. Never waits. A change that
    /// is lost on the way (its leader died) shows by not being applied: propose it again.
    pub fn propose(&self, shard: ShardId, changes: Vec<SessionChange>) -> Result<(), Busy> {
        let metrics = &self.shared.metrics;
        let Some(member) = self.shared.member() else { return Err(Busy) };
        let number = changes.len() as u64;
        match member.feed.push(shard.0, changes) {
            Ok(tell) => {
                metrics.proposed_changes.fetch_add(number, Ordering::Relaxed);
                if let (true, Some(sessions)) = (tell, member.sessions.get()) {
                    sessions.handle.say(Input::Fed);
                }
                Ok(())
            }
            Err(Busy) => {
                metrics.proposals_busy.fetch_add(number, Ordering::Relaxed);
                Err(Busy)
            }
        }
    }

    /// Asks another director's node ([`types::PeerCalls::call`] on the other side).
    pub async fn call(
        &self,
        to: DirectorId,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, StoreError> {
        let member = self.member()?;
        if to == member.me {
            return Ok(self.shared.config.on_call.call(to, request).await);
        }
        match self.request(&member, to, &Request::Node { body: request }, deadline).await? {
            Response::Node { body } => Ok(body),
            other => Err(unexpected(to, &other)),
        }
    }

    /// Sends a message to the nodes of all live directors, best effort.
    pub fn broadcast(&self, message: Vec<u8>) {
        let Some(member) = self.shared.member() else { return };
        let message = Bytes::from(codec::encode(&NodeMessage { body: message }));
        for peer in self.live_peers(&member) {
            member.transport.send(peer, Lane::Control, message.clone());
        }
    }

    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Moves leadership away, writes the clean mark and stops.
    pub async fn shutdown(self) {
        let member = self.shared.member.write().take();
        if let Some(member) = member {
            member.stop().await;
        }
    }

    /// The other members that are not declared down.
    fn live_peers(&self, member: &Member) -> Vec<DirectorId> {
        let view = self.shared.published.view();
        let members = view.iter().flat_map(|v| v.cluster.members.values());
        members.filter(|m| !m.down && m.id != member.me).map(|m| m.id).collect()
    }

    async fn request(
        &self,
        member: &Member,
        to: DirectorId,
        request: &Request,
        deadline: Duration,
    ) -> Result<Response, StoreError> {
        let failed = |cause: String| StoreError::Peer { peer: to.0, cause };
        let body = Bytes::from(codec::encode(request));
        let answer =
            member.transport.request(to, Lane::Control, body, deadline).await.map_err(failed)?;
        codec::decode(&answer).map_err(|e| {
            count(&self.shared.metrics.messages_malformed);
            failed(e.to_string())
        })
    }
}

fn unexpected(peer: DirectorId, response: &Response) -> StoreError {
    let cause = match response {
        Response::Failed(why) => why.clone(),
        other => format!("an answer that does not fit: {other:?}"),
    };
    StoreError::Peer { peer: peer.0, cause }
}
