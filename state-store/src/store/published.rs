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

    /// Shows a new view. One that is older than what is shown already is not: after a restart the
    /// members noted last are shown first, and the log is replayed from before that. (Neither number
    /// ever goes back.)
    pub fn publish(&self, view: View) {
        let mut shown = self.view.write();
        let cluster = view.cluster.clone();
        let older = |now: &Arc<View>| {
            let now = &now.cluster;
            cluster.membership_epoch < now.membership_epoch || cluster.revision < now.revision
        };
        if shown.as_ref().is_some_and(older) {
            return;
        }
        *shown = Some(Arc::new(view));
        drop(shown);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Cluster;
    use holdfast_schema::cluster::ControlCommand;

    #[test]
    fn a_replayed_log_does_not_bring_removed_members_back() {
        let published = Published::default();
        let view = |record: &ControlRecord| View::of(record);
        let mut cluster = Cluster::of(3);
        let checkpoint = cluster.record.clone();
        let lost = ControlCommand::Remove { director: DirectorId(3), force: Some("lost".into()) };
        cluster.done(lost);
        // What the identity noted comes first, then the checkpoint, then the log.
        let mut noted = view(&cluster.record);
        noted.ca_key.clear();
        published.publish(noted);
        published.publish(view(&checkpoint));
        let shown = || published.view().unwrap();
        assert!(!shown().cluster.members.contains_key(&DirectorId(3)));
        let news = published.subscribe();
        assert!(!news.borrow().as_ref().unwrap().members.contains_key(&DirectorId(3)));
        published.publish(view(&cluster.record));
        assert_eq!(shown().ca_key, "key", "the log has spoken");
    }
}
