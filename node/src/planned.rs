//! Ends planned changes whose beginner cannot end them any more: what the control leader does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::{ClusterState, ControlCommand};

use crate::clock::mono_ms;
use crate::node::Node;

/// How often the leader looks.
const TICK: Duration = Duration::from_secs(1);

/// A planned change lasts this long (ms) at the most. Its own director ends it, and one that is gone
/// is dealt with below, so this is for a live one that is stuck; a flush of millions of sessions is not.
const MOST_MS: u64 = 600_000;

/// How long (ms) after its director went down a planned change ends: what it has moved settles.
const DOWN_MS: u64 = 10_000;

/// What the leader remembers of planned changes.
#[derive(Default)]
pub struct Watch {
    seen_ms: BTreeMap<u64, u64>,
    down_ms: BTreeMap<u64, u64>,
}

impl Watch {
    /// The planned changes to end now.
    pub fn overdue(&mut self, cluster: &ClusterState, now_ms: u64) -> Vec<u64> {
        let there = |id: &u64| cluster.planned.iter().any(|p| p.id == *id);
        self.seen_ms.retain(|id, _| there(id));
        self.down_ms.retain(|id, _| there(id));
        let mut overdue = Vec::new();
        for planned in &cluster.planned {
            let id = planned.id;
            let seen = *self.seen_ms.entry(id).or_insert(now_ms);
            let gone = cluster.members.get(&planned.director).is_none_or(|m| m.down);
            let since = gone.then(|| *self.down_ms.entry(id).or_insert(now_ms));
            if !gone {
                self.down_ms.remove(&id);
            }
            if now_ms >= seen + MOST_MS || since.is_some_and(|at| now_ms >= at + DOWN_MS) {
                overdue.push(id);
            }
        }
        overdue
    }
}

/// Looks for ever.
pub async fn run(node: Arc<Node>) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(TICK).await;
        let Some(cluster) = node.cluster() else { continue };
        // Followers watch too, so that a new leader knows the ages.
        let overdue = watch.overdue(&cluster, mono_ms());
        if node.control_term().is_none() {
            continue;
        }
        for id in overdue {
            tracing::warn!(id, "a planned change has lasted too long: it ends");
            let command = ControlCommand::EndPlanned { id };
            if let Err(error) = node.store.control(command, TICK * 5).await {
                tracing::warn!(id, %error, "it could not be ended; tried again");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::announce::wish::tests::cluster;
    use holdfast_schema::cluster::{
        DirectorId, Member, MemberState, PlannedChange, PlannedKind, ReplicaId,
    };

    pub(crate) fn member(id: u32, down: bool) -> Member {
        Member {
            id: DirectorId(id),
            name: format!("d{id}"),
            address: "192.0.2.1:1".parse().unwrap(),
            replica: ReplicaId(u64::from(id)),
            incarnation: 1,
            state: MemberState::Active,
            down,
            unclean: false,
            key_fingerprint: [0; 32],
            connected: Vec::new(),
        }
    }

    fn with_member(down: bool) -> ClusterState {
        let mut cluster = cluster();
        let member = member(1, down);
        let id = member.id;
        cluster.members.insert(id, member);
        cluster.planned = vec![PlannedChange { id: 5, director: id, kind: PlannedKind::Join }];
        cluster
    }

    #[test]
    fn old_ones_and_those_of_the_dead_end() {
        let mut watch = Watch::default();
        let (up, down) = (with_member(false), with_member(true));
        assert!(watch.overdue(&up, 1_000).is_empty());
        assert!(watch.overdue(&down, 20_000).is_empty());
        assert!(watch.overdue(&up, 29_000).is_empty(), "it came back");
        assert!(watch.overdue(&down, 31_000).is_empty());
        assert_eq!(watch.overdue(&down, 41_000), [5]);
        assert!(watch.overdue(&up, 1_000 + MOST_MS - 1).is_empty(), "its own director ends it");
        assert_eq!(watch.overdue(&up, 1_000 + MOST_MS), [5]);
    }
}
