//! A small cluster for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_schema::bucket::{BucketKey, ShardTable};
use holdfast_schema::cluster::{
    Backend, BackendId, ClusterState, DirectorId, Group, GroupId, LipAssignment, Listener,
    ListenerId, Member, MemberState, NextIds, ReplicaId,
};
use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthSpec, ListenerSpec, NewUdp, ReplicateAfter,
    UnknownSession,
};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::ForwardingMode;

use super::{ForwardingTables, NextHops};

pub(crate) const VIP: &str = "203.0.113.10";

fn member(id: u32) -> Member {
    Member {
        id: DirectorId(id),
        name: format!("d{id}"),
        address: format!("10.0.0.{id}:7000").parse().unwrap(),
        replica: ReplicaId(u64::from(id)),
        incarnation: 1,
        state: MemberState::Active,
        down: false,
        unclean: false,
        key_fingerprint: [0; 32],
        connected: Vec::new(),
    }
}

/// Two directors with two LIPs each; one listener (TCP port 80, listener 1) over a group with these
/// weights; backend numbers begin at 1.
pub(crate) fn cluster(weights: &[u16]) -> ClusterState {
    let backends: BTreeMap<String, Backend> = weights
        .iter()
        .zip(1u32..)
        .map(|(weight, id)| {
            let name = format!("b{id}");
            let [_, _, high, low] = id.to_be_bytes();
            let address = format!("198.51.{high}.{low}:8080").parse().unwrap();
            let spec =
                BackendSpec { name: name.clone(), address, weight: *weight, draining: false };
            (name, Backend { id: BackendId(id), spec })
        })
        .collect();
    let group = GroupSpec {
        name: "web".into(),
        health: HealthSpec::default(),
        backends: backends.values().map(|b| b.spec.clone()).collect(),
    };
    let listener = ListenerSpec {
        name: "http".into(),
        vip: VIP.parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
        mode: ForwardingMode::FullNat,
        group: "web".into(),
        replicate_after: ReplicateAfter::Millis(3_000),
        idle_timeout_ms: 900_000,
        unknown_session: UnknownSession::Reset,
        new_udp: NewUdp::Schedule,
    };
    let lips = (1..=4).map(|n: u32| {
        let lip = LipAssignment { owner: Some(DirectorId(n.div_ceil(2))), quarantined: false };
        (format!("192.0.2.{n}").parse().unwrap(), lip)
    });
    ClusterState {
        cluster_id: "0".repeat(32),
        bucket_key: BucketKey([9; 16]),
        shards: ShardTable::spread(16),
        shard_count: 16,
        revision: 1,
        membership_epoch: 1,
        members: [1, 2].into_iter().map(|id| (DirectorId(id), member(id))).collect(),
        lips: lips.collect(),
        spec: ClusterSpec::default(),
        listeners: [("http".into(), Listener { id: ListenerId(1), spec: listener })].into(),
        groups: [("web".into(), Group { id: GroupId(1), spec: group, backends })].into(),
        tokens: BTreeMap::new(),
        planned: Vec::new(),
        next: NextIds {
            listener: 2,
            group: 2,
            backend: 1 + weights.len() as u32,
            ..NextIds::default()
        },
        ca_certificate: String::new(),
        ca_key: String::new(),
        requests: Vec::new(),
    }
}

pub(crate) fn tables(cluster: &ClusterState, me: u32) -> ForwardingTables {
    ForwardingTables::build(cluster, DirectorId(me), &|_| true, Arc::new(NextHops::default()), None)
}
