//! What the parts of the daemon share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use holdfast_schema::admin::DrainStatus;
use holdfast_schema::cluster::{ClusterState, DirectorId, MemberState};
use holdfast_schema::config::NodeSpec;
use holdfast_state_store::{Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bird::BirdWatch;
use crate::clock::mono_ms;
use crate::forward::Forwarder;
use crate::guard::child::Guard;
use crate::health::service::Health;
use crate::netlink::Netlink;
use crate::netlink::watch::Network;
use crate::peers::{Request, Response, Summaries};
use crate::sessions::flushes::Flushes;

/// After a change of membership or announcements nobody is denied with authority for this long (ms).
pub const NO_DENIAL_MS: u64 = 10_000;

/// What the announcer last published.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// Whether this director is ready.
    pub ready: bool,
    /// Why not.
    pub not_ready: Vec<String>,
    /// What is wrong on this machine now. Once in service that is no reason to withdraw.
    pub local: Vec<String>,
    /// The stage, in a word.
    pub stage: String,
    /// `announced`, `worse`, `withdrawn`; none: unknown.
    pub announcement: Option<String>,
    /// The step of a drain and its notes.
    pub drain: Option<(&'static str, Vec<String>)>,
    /// Milliseconds since the last packet of a client.
    pub quiet_ms: u64,
    /// Routes on the device.
    pub routes: usize,
}

/// Things counted by the node itself.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Times the control loop found that it had been stalled.
    pub stalls: AtomicU64,
    /// Questions of the packet path that found no room.
    pub misses_overflow: AtomicU64,
    /// Questions under way.
    pub misses_pending: AtomicU64,
    /// Session changes that the store had no room for.
    pub proposals_refused: AtomicU64,
    /// Admin requests, and those refused because too many were under way.
    pub admin_requests: AtomicU64,
    /// See `admin_requests`.
    pub admin_busy: AtomicU64,
    /// Admin requests under way.
    pub admin_under_way: AtomicU64,
    /// Forwarding tables installed.
    pub tables_installed: AtomicU64,
    /// Changes of announced routes.
    pub route_changes: AtomicU64,
}

/// Everything that lives as long as the daemon.
pub struct Node {
    /// The node file.
    pub spec: NodeSpec,
    /// This director's share of the store.
    pub store: Store,
    /// The packet forwarder, once this director is a member.
    pub forwarder: OnceLock<Forwarder>,
    /// The guard, if routes are announced.
    pub guard: Option<Arc<Guard>>,
    /// The kernel.
    pub netlink: Netlink,
    /// Next hops and gateways.
    pub network: watch::Receiver<Arc<Network>>,
    /// BIRD, if routes are announced.
    pub bird: Option<BirdWatch>,
    /// Health of backends.
    pub health: Health,
    /// What the others say of themselves.
    pub summaries: Summaries,
    /// What the announcer last said.
    pub announced: Mutex<Arc<Announced>>,
    /// Planned changes and how far this director's flush is.
    pub flushes: Mutex<Flushes>,
    /// What is missing among rules and blackholes.
    pub rule_problems: Mutex<Vec<String>>,
    /// Counters.
    pub counters: NodeCounters,
    /// When membership, planned changes or own announcements last changed (ms).
    pub changed_ms: AtomicU64,
    /// The control loop found a stall: the announcer must start over.
    pub stalled: AtomicBool,
    /// The daemon is about to stop: everything is replicated at once.
    pub leaving: AtomicBool,
    /// The daemon is shutting down: nothing is announced any more.
    pub withdrawing: AtomicBool,
    /// Nothing comes any more, and all that is known here was told: what worked for that ends.
    pub stopping: AtomicBool,
    /// The last configuration from disk, while the store has none yet.
    pub remembered: Option<Arc<ClusterState>>,
}

impl Node {
    /// The cluster as last applied here, or as remembered from the last run.
    pub fn cluster(&self) -> Option<Arc<ClusterState>> {
        self.store.cluster().borrow().clone().or_else(|| self.remembered.clone())
    }

    /// This director's number.
    pub fn me(&self) -> Option<DirectorId> {
        self.store.me()
    }

    /// Whether this director leads the control group, and its term.
    pub fn control_term(&self) -> Option<u64> {
        let control = self.store.groups().into_iter().next()?;
        (control.leader.is_some() && control.leader == self.me()).then_some(control.term)
    }

    /// Something happened that moves flows or owners.
    pub fn note_change(&self) {
        self.changed_ms.store(mono_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since something moved flows or owners.
    pub fn calm_for_ms(&self) -> u64 {
        let planned = self.cluster().is_some_and(|c| c.change_planned());
        let since = self.changed_ms.load(Ordering::Relaxed);
        if planned { 0 } else { mono_ms().saturating_sub(since) }
    }

    /// Whether a denial by all may be believed (PROTOCOLS: not within ten seconds of a change).
    pub fn denial_counts(&self) -> bool {
        self.calm_for_ms() >= NO_DENIAL_MS
    }

    /// How far this director's flush for a planned change is: done, and what is unreplicated now.
    pub fn flush_status(&self, planned: u64) -> (bool, u64) {
        let Some(forwarder) = self.forwarder.get() else {
            // It forwards nothing yet, so it knows nothing that others do not.
            return (true, 0);
        };
        let done = self.flushes.lock().done(planned);
        (done, forwarder.sessions().unreplicated())
    }

    /// How far this director's drain is.
    pub fn drain_status(&self) -> DrainStatus {
        let cluster = self.cluster();
        let me = self.me();
        let state = cluster
            .as_ref()
            .and_then(|c| c.members.get(&me?).map(|m| m.state))
            .unwrap_or(MemberState::Joining);
        let announced = self.announced.lock().clone();
        let stats = self.forwarder.get().map(|f| f.sessions().stats()).unwrap_or_default();
        let (step, notes) = match &announced.drain {
            Some((step, notes)) => ((*step).to_owned(), notes.clone()),
            None if state == MemberState::Drained => ("drained".to_owned(), Vec::new()),
            None if state == MemberState::Draining => ("waiting".to_owned(), Vec::new()),
            None => (announced.stage.clone(), Vec::new()),
        };
        DrainStatus {
            name: self.spec.id.clone(),
            state,
            step,
            unreplicated: stats.unreplicated,
            owned: stats.pass.owned_open,
            votes: self.votes(me),
            quiet_ms: announced.quiet_ms,
            notes,
        }
    }

    /// In how many groups a director votes.
    pub fn votes(&self, director: Option<DirectorId>) -> u32 {
        let groups = self.store.groups();
        groups.iter().filter(|g| director.is_some_and(|d| g.voters.contains(&d))).count() as u32
    }

    /// Asks another director's node.
    pub async fn ask(
        &self,
        to: DirectorId,
        request: &Request,
        deadline: Duration,
    ) -> Result<Response, StoreError> {
        let odd = |cause: String| StoreError::Peer { peer: to.0, cause };
        let request = serde_json::to_vec(request).map_err(|e| odd(e.to_string()))?;
        let answer = self.store.call(to, request, deadline).await?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Error(cause)) => Err(odd(cause)),
            Ok(response) => Ok(response),
            Err(error) => Err(odd(format!("its answer is not understood: {error}"))),
        }
    }

    /// The other members that are not down.
    pub fn live_others(&self) -> Vec<DirectorId> {
        let (cluster, me) = (self.cluster(), self.me());
        let members = cluster.iter().flat_map(|c| c.members.values());
        members.filter(|m| !m.down && Some(m.id) != me).map(|m| m.id).collect()
    }
}
