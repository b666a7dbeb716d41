//! Keeps the forwarding tables as configuration, health and next hops want them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::tables::{ForwardingTables, NextHop, NextHops};
use holdfast_schema::cluster::{ClusterState, DirectorId};

use crate::netlink::hops::Hops;
use crate::node::Node;

/// Changes come in bursts.
const SETTLE: Duration = Duration::from_millis(2);

/// How often it looks although nothing was reported: whether there is a leader is not.
const REFRESH: Duration = Duration::from_millis(500);

/// How long (in refreshes) the cluster must be without a leader before local judgements fill gaps.
const LEADERLESS_REFRESHES: u32 = 6;

/// What tables were built from.
#[derive(Clone, PartialEq)]
struct Inputs {
    hops: Arc<Hops>,
    health: (u64, std::collections::BTreeMap<holdfast_schema::cluster::BackendId, bool>),
}

/// Builds tables. Takes milliseconds with many listeners: not for an async task.
pub fn build(
    cluster: &ClusterState,
    me: DirectorId,
    health: &(u64, std::collections::BTreeMap<holdfast_schema::cluster::BackendId, bool>),
    hops: &Hops,
    previous: Option<&ForwardingTables>,
) -> ForwardingTables {
    let hop = |h: crate::netlink::hops::Hop| NextHop {
        src_mac: h.src_mac,
        dst_mac: h.dst_mac,
        mtu: h.mtu,
    };
    let routes = hops.table.iter().map(|(prefix, h)| (*prefix, h.map(hop))).collect();
    let healthy = |id| health.1.get(&id).copied().unwrap_or(false);
    ForwardingTables::build(cluster, me, &healthy, Arc::new(NextHops::new(routes)), previous)
        .with_health_version(health.0)
}

/// Rebuilds the tables whenever something they depend on changes. The forwarder must have started.
pub async fn run(node: Arc<Node>) {
    let mut cluster_changed = node.store.cluster();
    let mut health_changed = node.health.subscribe();
    let mut network = node.network.clone();
    let mut built: Option<(Arc<ClusterState>, Inputs)> = None;
    let mut without_leader = 0u32;
    loop {
        without_leader = if node.store.has_quorum() { 0 } else { without_leader.saturating_add(1) };
        if let (Some(cluster), Some(me)) = (node.cluster(), node.me()) {
            let inputs = Inputs {
                hops: Arc::new(network.borrow_and_update().hops.clone()),
                health: node.health.view(without_leader >= LEADERLESS_REFRESHES),
            };
            let same = built.as_ref().is_some_and(|(c, i)| {
                Arc::ptr_eq(c, &cluster)
                    && i.hops.table == inputs.hops.table
                    && i.health == inputs.health
            });
            if !same && install(&node, &cluster, me, &inputs).await {
                built = Some((cluster, inputs));
            }
        }
        tokio::select! {
            _ = cluster_changed.changed() => {}
            _ = health_changed.changed() => {}
            _ = network.changed() => {}
            () = tokio::time::sleep(REFRESH) => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}

async fn install(
    node: &Arc<Node>,
    cluster: &Arc<ClusterState>,
    me: DirectorId,
    inputs: &Inputs,
) -> bool {
    let (node, cluster, inputs) = (node.clone(), cluster.clone(), inputs.clone());
    let work = tokio::task::spawn_blocking(move || {
        let Some(forwarder) = node.forwarder.get() else { return false };
        let previous = forwarder.tables();
        let tables = build(&cluster, me, &inputs.health, &inputs.hops, Some(&previous));
        tracing::debug!(
            revision = tables.revision,
            health = tables.health_version,
            "tables installed"
        );
        node.counters.tables_installed.fetch_add(1, Ordering::Relaxed);
        match forwarder.install(Arc::new(tables)) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the XDP program does not know all addresses; tried again");
                false
            }
        }
    });
    work.await.unwrap_or(false)
}
