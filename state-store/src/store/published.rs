//! The cluster as last applied here, for everybody who needs to look at it.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_schema::cluster::{
    ClusterState, ControlOutcome, DirectorId, Member, MemberState, RequestId,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::codec::disk::{ControlRecord, ShardForm};
use crate::membership::MemberView;

/// One state of the cluster.
pub struct View {
    /// The cluster, without the CA's key and the known requests.
    pub cluster: Arc<ClusterState>,
    /// How each shard's group was last formed.
    pub shards: Vec<ShardForm>,
    /// PEM of the CA's key; empty where the control log has not spoken yet.
    pub ca_key: String,
}

impl View {
    /// What is shown of a record.
    pub fn of(record: &ControlRecord) -> View {
        let mut cluster = record.cluster.clone();
        cluster.requests.clear();
        let ca_key = std::mem::take(&mut cluster.ca_key);
        View { cluster: Arc::new(cluster), shards: record.shards.clone(), ca_key }
    }

    /// The members by their replicas in the session groups.
    pub fn session_members(&self) -> Vec<MemberView> {
        self.cluster.members.values().map(|m| member_view(m, m.replica.0)).collect()
    }

    /// The members by their replicas in the control group: there, a director's number is its
    /// replica's, because the control group never forgets.
    pub fn control_members(&self) -> Vec<MemberView> {
        self.cluster.members.values().map(|m| member_view(m, u64::from(m.id.0))).collect()
    }

    /// The director that a session replica belongs to.
    pub fn director_of(&self, replica: u64) -> Option<DirectorId> {
        self.cluster.members.values().find(|m| m.replica.0 == replica).map(|m| m.id)
    }
}

fn member_view(member: &Member, replica: u64) -> MemberView {
    let serving = !matches!(member.state, MemberState::Draining | MemberState::Drained);
    MemberView { replica, live: !member.down, serving }
}

/// Who waits for the outcomes of requests that this director proposed.
type Waiters = HashMap<RequestId, Vec<oneshot::Sender<ControlOutcome>>>;

/// The latest view and who waits for news.
pub struct Published {
    view: RwLock<Option<Arc<View>>>,
    cluster: watch::Sender<Option<Arc<ClusterState>>>,
    waiters: Mutex<Waiters>,
}

impl Default for Published {
    fn default() -> Self {
        Published {
            view: RwLock::default(),
            cluster: watch::Sender::new(None),
            waiters: Mutex::default(),
        }
    }
}

impl Published {
    /// The latest view.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.read().clone()
    }

    /// Follows the cluster.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<ClusterState>>> {
        self.cluster.subscribe()
    }

    /// Shows a new view.
    pub fn publish(&self, view: View) {
        let cluster = view.cluster.clone();
        *self.view.write() = Some(Arc::new(view));
        self.cluster.send_replace(Some(cluster));
    }

    /// Waits for the outcome of a request that is about to be proposed here.
    pub fn wait_for(&self, request: RequestId) -> oneshot::Receiver<ControlOutcome> {
        let (tell, told) = oneshot::channel();
        let mut waiters = self.waiters.lock();
        // Those who gave up make room.
        waiters.retain(|_, list| {
            list.retain(|w| !w.is_closed());
            !list.is_empty()
        });
        waiters.entry(request).or_default().push(tell);
        told
    }

    /// The outcome of a request.
    pub fn settle(&self, request: RequestId, outcome: &ControlOutcome) {
        for waiter in self.waiters.lock().remove(&request).into_iter().flatten() {
            // Whoever waited may have given up.
            let _ = waiter.send(outcome.clone());
        }
    }
}
