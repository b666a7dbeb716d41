//! The handle on the store.

pub mod error;
pub mod types;

use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{ClusterState, ControlCommand, ControlOutcome, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{SessionChange, SessionSink};
use tokio::sync::watch;

use crate::metrics::Metrics;
use error::{Busy, StoreError};
use types::{GroupStatus, MissVerdict, PeerStatus, Phase, StoreConfig};

/// A director's share of the cluster's state. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    config: StoreConfig,
    cluster: watch::Sender<Option<Arc<ClusterState>>>,
    metrics: Arc<Metrics>,
}

#[allow(clippy::unused_async)]
impl Store {
    /// Opens the data directory. Must be called within a tokio runtime.
    pub async fn open(config: StoreConfig) -> Result<Store, StoreError> {
        let shared = Shared { config, cluster: watch::Sender::new(None), metrics: Arc::default() };
        Ok(Store { shared: Arc::new(shared) })
    }
    /// Whether this director is in a cluster.
    pub fn phase(&self) -> Phase {
        Phase::Waiting
    }
    /// This director's number, once it is a member.
    pub fn me(&self) -> Option<DirectorId> {
        None
    }
    /// Counts this director's starts; 0 while waiting.
    pub fn incarnation(&self) -> u64 {
        0
    }
    /// The name given at start.
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }
    /// Attaches the table that sessions are applied to and asked from. It gets `installed` for each
    /// shard with what is known so far, then every change.
    pub fn attach_sink(&self, _sink: Arc<dyn SessionSink>) {}
    /// Begins a cluster of one, this director.
    pub async fn init_cluster(&self, _shards: u16) -> Result<(), StoreError> {
        Err(StoreError::NotMember)
    }
    /// Joins a cluster with a token from `holdfast node add`.
    pub async fn join(&self, _token: &str) -> Result<(), StoreError> {
        Err(StoreError::NotMember)
    }
    /// The cluster as last applied here.
    pub fn cluster(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.shared.cluster.subscribe()
    }
    /// Says something to the control group: finds the leader, forwards, retries with the same request id.
    /// A refusal is an `Ok(ControlOutcome::Refused)`.
    pub async fn control(
        &self,
        _command: ControlCommand,
        _deadline: Duration,
    ) -> Result<ControlOutcome, StoreError> {
        Err(StoreError::NotMember)
    }
    /// Opens a slot for a new director and returns the one-time token.
    pub async fn issue_token(&self, _name: &str, _ttl: Duration) -> Result<String, StoreError> {
        Err(StoreError::NotMember)
    }
    /// Queues changes of one shard; they travel to its leader in batches. Never waits.
    pub fn propose(&self, _shard: ShardId, _changes: Vec<SessionChange>) -> Result<(), Busy> {
        Err(Busy)
    }
    /// Asks every live director and the shard's leader for the session this key belongs to.
    pub async fn ask(&self, _key: FlowKey, _deadline: Duration) -> MissVerdict {
        MissVerdict::DontKnow
    }
    /// The other members as this director sees them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }
    /// The Raft groups as this director sees them, control first.
    pub fn groups(&self) -> Vec<GroupStatus> {
        Vec::new()
    }
    /// Whether every group has a leader that this director hears.
    pub fn has_quorum(&self) -> bool {
        false
    }
    /// Whether this director has caught up with every group since it started; why not, if not.
    pub fn caught_up(&self) -> Result<(), String> {
        Err("not in a cluster yet".to_owned())
    }
    /// The index applied here, per shard.
    pub fn applied(&self) -> Vec<u64> {
        Vec::new()
    }
    /// Commits a no-op through every shard and returns its index per shard.
    pub async fn barrier(&self, _deadline: Duration) -> Result<Vec<u64>, StoreError> {
        Err(StoreError::NotMember)
    }
    /// Waits until all live members have applied at least these indexes.
    pub async fn wait_applied_everywhere(
        &self,
        _at_least: &[u64],
        _deadline: Duration,
    ) -> Result<(), StoreError> {
        Err(StoreError::NotMember)
    }
    /// Asks another director's node ([`types::PeerCalls::call`] on the other side).
    pub async fn call(
        &self,
        _to: DirectorId,
        _request: Vec<u8>,
        _deadline: Duration,
    ) -> Result<Vec<u8>, StoreError> {
        Err(StoreError::NotMember)
    }
    /// Sends a message to the nodes of all live directors, best effort.
    pub fn broadcast(&self, _message: Vec<u8>) {}
    /// Counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }
    /// Moves leadership away, writes the clean mark and stops.
    pub async fn shutdown(self) {}
}
