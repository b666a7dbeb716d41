//! What is handled more carefully for a while: unknown UDP flows after a change, local ports after
//! an unclean start.

use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::session::TIME_WAIT_LINGER_MS;

use crate::clock::mono_ms;
use crate::node::Node;

/// How often it is looked.
const TICK: Duration = Duration::from_millis(100);

/// How long (ms) after an unclean start ports stay confined: no session that the store does not
/// know can be alive or at rest on the other half after that.
pub fn confinement_ms(cluster: &ClusterState) -> u64 {
    let after = cluster.listeners.values().map(|l| match l.spec.replicate_after {
        ReplicateAfter::Millis(ms) => u64::from(ms),
        ReplicateAfter::Never => u64::from(l.spec.idle_timeout_ms),
    });
    after.max().unwrap_or(0) + u64::from(TIME_WAIT_LINGER_MS)
}

/// Whether a director that started as `incarnation`, `up_ms` ago, is confined to its half of the ports.
/// Until its start is committed the cluster knows of an earlier one, and nothing of how that ended.
pub fn confines(cluster: &ClusterState, me: DirectorId, incarnation: u64, up_ms: u64) -> bool {
    let member = cluster.members.get(&me);
    let unclean = member.is_none_or(|m| m.unclean || m.incarnation < incarnation);
    unclean && up_ms < confinement_ms(cluster)
}

/// Follows the cluster for ever. The forwarder must have started.
pub async fn run(node: Arc<Node>) {
    let Some(forwarder) = node.forwarder.get() else { return };
    let started_ms = mono_ms();
    let mut cluster_seen = None;
    let (mut asking, mut confined) = (false, false);
    loop {
        if let Some(cluster) = node.cluster() {
            let seen = (cluster.membership_epoch, cluster.planned.clone());
            if cluster_seen.as_ref() != Some(&seen) {
                node.note_change();
                cluster_seen = Some(seen);
            }
            let ask = node.calm_for_ms() < u64::from(node.spec.udp_ask_ms);
            if ask != asking {
                forwarder.set_udp_ask(ask);
                asking = ask;
            }
            let (incarnation, up_ms) =
                (node.store.incarnation(), mono_ms().saturating_sub(started_ms));
            let confine = node.me().is_some_and(|me| confines(&cluster, me, incarnation, up_ms));
            if confine != confined {
                tracing::info!(
                    confine,
                    "local ports are confined to one half: the end before was unclean, or is not known"
                );
                forwarder.set_confined_ports(confine);
                confined = confine;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::wish::tests::cluster;
    use crate::planned::tests::member;

    #[test]
    fn ports_are_confined_for_a_while_unless_the_end_before_is_known_to_be_clean() {
        let of = |known: Option<(u64, bool)>, up_ms: u64| {
            let mut cluster = cluster();
            if let Some((incarnation, unclean)) = known {
                let member =
                    holdfast_schema::cluster::Member { incarnation, unclean, ..member(1, false) };
                cluster.members.insert(member.id, member);
            }
            let confined_ms = confinement_ms(&cluster);
            assert!(!confines(&cluster, DirectorId(1), 3, confined_ms));
            confines(&cluster, DirectorId(1), 3, up_ms.min(confined_ms - 1))
        };
        for up_ms in [0, u64::MAX] {
            assert!(!of(Some((3, false)), up_ms));
            assert!(of(Some((3, true)), up_ms));
            assert!(of(Some((2, false)), up_ms), "how incarnation 2 ended is not committed yet");
            assert!(of(None, up_ms));
        }
    }
}
