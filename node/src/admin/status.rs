//! What this director knows of the cluster and of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use holdfast_schema::admin::{
    BackendStatus, ClusterStatus, NodeStatus, PlannedStatus, RaftGroupStatus, Status, TablesStatus,
};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_state_store::Phase;

use super::server::Api;
use super::settled::unsettled;
use crate::node::{Announced, Node};
use crate::peers::Summary;

/// `GET /v1/status`
pub async fn status(State(api): State<Api>) -> Json<Status> {
    Json(of(&api.node))
}

fn of(node: &Node) -> Status {
    let announced = node.announced.lock().clone();
    let phase = match node.store.phase() {
        Phase::Waiting => "waiting",
        Phase::Member => "member",
    };
    let mut warnings = Vec::new();
    let mode = node.forwarder.get().map(|f| f.mode());
    if let Some((_, Some(reason))) = &mode {
        warnings.push(format!("XDP runs in SKB mode, which is slower: {reason}"));
    }
    for group in node.store.groups() {
        if let Some(cause) = &group.halted {
            warnings.push(format!("the replica of {} has stopped: {cause}", group.name));
        }
    }
    if let Some(bird) = &node.bird
        && let Err(error) = &*bird.latest()
    {
        warnings.push(error.to_string());
    }
    warnings.extend(besides(&announced));
    let disowned = node.store.disowned();
    warnings.extend(disowned.clone());
    let not_ready = match node.store.phase() {
        Phase::Waiting => {
            vec!["waits for `holdfast cluster init`, or for a start with a join token".to_owned()]
        }
        Phase::Member => disowned.map_or_else(|| announced.not_ready.clone(), |why| vec![why]),
    };
    Status {
        director: node.spec.id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: phase.to_owned(),
        cluster: node.cluster().map(|cluster| cluster_status(node, &cluster)),
        not_ready,
        tables: node.forwarder.get().map(|forwarder| {
            let tables = forwarder.tables();
            let (revision, health_version) = (tables.revision, tables.health_version);
            // As many bits as in the metrics, where a number is a double.
            TablesStatus { revision, health_version, hash: tables.hash & 0xffff_ffff_ffff }
        }),
        xdp_mode: mode.map_or_else(|| "none".to_owned(), |(mode, _)| mode.to_owned()),
        warnings,
    }
}

/// What an operator should know of a director besides why it is not ready: faults that do not withdraw
/// it, and what its drain waits for.
fn besides(announced: &Announced) -> Vec<String> {
    let local = announced.local.iter().filter(|l| !announced.not_ready.contains(l)).cloned();
    let drain = announced.drain.iter().flat_map(|(_, notes)| notes);
    local.chain(drain.map(|note| format!("drain: {note}"))).collect()
}

fn cluster_status(node: &Node, cluster: &ClusterState) -> ClusterStatus {
    let name = |id: &DirectorId| {
        cluster.members.get(id).map_or_else(|| format!("director {id}"), |m| m.name.clone())
    };
    let raft = node.store.groups();
    let leader = raft.first().and_then(|control| control.leader.as_ref()).map(name);
    let groups: Vec<RaftGroupStatus> = raft
        .iter()
        .map(|g| RaftGroupStatus {
            name: g.name.clone(),
            leader: g.leader.as_ref().map(name),
            term: g.term,
            committed: g.committed,
            applied: g.applied,
            voters: g.voters.iter().map(name).collect(),
            learners: g.learners.iter().map(name).collect(),
            sessions: g.sessions,
        })
        .collect();
    let summaries = summaries(node, cluster);
    let peers = node.store.peers();
    let nodes: Vec<NodeStatus> = cluster
        .members
        .values()
        .map(|member| {
            let summary = summaries.get(&member.id);
            let heard = peers.iter().find(|p| p.id == member.id).is_none_or(|p| p.up);
            NodeStatus {
                id: member.id.0,
                name: member.name.clone(),
                address: member.address,
                state: member.state,
                up: !member.down && heard,
                ready: summary.map(|s| s.ready),
                announcement: summary.and_then(|s| s.announcement.clone()),
                incarnation: member.incarnation,
                lips: cluster.lips_of(member.id).map(|lip| lip.to_string()).collect(),
                sessions: summary.map(|s| s.owned),
                votes: raft.iter().filter(|g| g.voters.contains(&member.id)).count() as u32,
            }
        })
        .collect();
    let planned: Vec<PlannedStatus> = cluster
        .planned
        .iter()
        .map(|p| PlannedStatus { id: p.id, kind: p.kind, director: name(&p.director) })
        .collect();
    let backends = backends(node, cluster);
    let of = |n: &NodeStatus| summaries.get(&DirectorId(n.id)).cloned();
    let mut why = unsettled(
        &nodes,
        |n| of(n).is_none_or(|s| s.announces),
        |n| of(n).is_some_and(|s| s.caught_up),
        &groups,
        &planned,
        &backends,
    );
    for n in &nodes {
        if let Some(summary) = of(n).filter(|s| n.up && s.revision != cluster.revision) {
            why.push(format!(
                "{} forwards by revision {} instead of {}",
                n.name, summary.revision, cluster.revision
            ));
        }
    }
    why.extend(differing_tables(node, &nodes, &summaries));
    if raft.iter().any(|g| g.joint) {
        why.push("a change of voters is under way".to_owned());
    }
    ClusterStatus {
        id: cluster.cluster_id.clone(),
        revision: cluster.revision,
        membership_epoch: cluster.membership_epoch,
        leader,
        nodes,
        groups,
        planned,
        backends,
        settled: why.is_empty(),
        unsettled: why,
    }
}

/// Directors that forward by other tables than this one although revision and health version are
/// the same (DESIGN rule 2): a defect, or a cosmic ray.
fn differing_tables(
    node: &Node,
    nodes: &[NodeStatus],
    summaries: &BTreeMap<DirectorId, Arc<Summary>>,
) -> Vec<String> {
    let Some(own) = node.me().and_then(|me| summaries.get(&me)) else { return Vec::new() };
    let differs = |n: &&NodeStatus| {
        summaries.get(&DirectorId(n.id)).is_some_and(|s| {
            (s.revision, s.health_version) == (own.revision, own.health_version)
                && s.table_hash != own.table_hash
        })
    };
    let say = |n: &NodeStatus| {
        format!(
            "{} forwards by other tables than this director at revision {}",
            n.name, own.revision
        )
    };
    nodes.iter().filter(|n| n.up).filter(differs).map(say).collect()
}

/// What every member says of itself, this one included.
fn summaries(node: &Node, cluster: &ClusterState) -> BTreeMap<DirectorId, Arc<Summary>> {
    let mut summaries = BTreeMap::new();
    for id in cluster.members.keys() {
        let summary = match node.me() == Some(*id) {
            true => Some(Arc::new(crate::summary::own(node))),
            false => node.summaries.get(*id),
        };
        summaries.extend(summary.map(|s| (*id, s)));
    }
    summaries
}

fn backends(node: &Node, cluster: &ClusterState) -> Vec<BackendStatus> {
    let judged = node.health.current();
    let local = node.health.runner.local();
    let mut rows = Vec::new();
    for (group, g) in &cluster.groups {
        for (name, backend) in &g.backends {
            let healthy = judged.healthy.get(&backend.id).copied();
            let reason = local.get(&backend.id).and_then(|l| l.reason.clone());
            rows.push(BackendStatus {
                group: group.clone(),
                name: name.clone(),
                address: backend.spec.address,
                weight: backend.spec.weight,
                draining: backend.spec.draining,
                healthy,
                reason: reason.filter(|_| healthy != Some(true)),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_one_that_serves_is_a_warning() {
        let mut announced = Announced {
            local: vec!["the rule is missing".to_owned()],
            drain: Some(("vips-worse", vec!["nobody else can serve".to_owned()])),
            ..Announced::default()
        };
        assert_eq!(besides(&announced), ["the rule is missing", "drain: nobody else can serve"]);
        announced.not_ready = announced.local.clone();
        announced.drain = None;
        assert!(besides(&announced).is_empty(), "that is said once");
    }
}
