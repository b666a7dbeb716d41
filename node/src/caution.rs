//! What is handled more carefully for a while: unknown UDP flows after a change, local ports after
//! an unclean start.

use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::ClusterState;
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
            let unclean =
                node.me().and_then(|me| cluster.members.get(&me)).is_some_and(|m| m.unclean);
            let confine = unclean && mono_ms() < started_ms + confinement_ms(&cluster);
            if confine != confined {
                tracing::info!(confine, "local ports confined to one half after an unclean end");
                forwarder.set_confined_ports(confine);
                confined = confine;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}
