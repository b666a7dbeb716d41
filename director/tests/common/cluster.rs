//! The smallest cluster a director can forward for: one member, one group, TCP and UDP listeners.
#![allow(dead_code)] // every test binary uses its part

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use holdfast_director::tables::{ForwardingTables, NextHop, NextHops};
use holdfast_schema::bucket::{BucketKey, ShardTable};
use holdfast_schema::cluster::{
    Backend, BackendId, ClusterState, DirectorId, Group, GroupId, LipAssignment, Listener,
    ListenerId, NextIds,
};
use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthSpec, ListenerSpec, NewUdp, ReplicateAfter,
    UnknownSession,
};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::ForwardingMode;

/// The one member.
pub const ME: DirectorId = DirectorId(1);

/// Listeners for TCP and UDP on `vip`, in front of these backends, with LIPs of its own.
pub fn cluster(vip: SocketAddr, lips: &[IpAddr], backends: &[SocketAddr]) -> ClusterState {
    let backends: BTreeMap<String, Backend> = (0..)
        .zip(backends)
        .map(|(n, address)| {
            let name = format!("backend-{n}");
            let spec =
                BackendSpec { name: name.clone(), address: *address, weight: 1, draining: false };
            (name, Backend { id: BackendId(n), spec })
        })
        .collect();
    let next_backend = backends.len() as u32;
    let group = Group {
        id: GroupId(1),
        spec: GroupSpec {
            name: "group".into(),
            health: HealthSpec::default(),
            backends: backends.values().map(|b| b.spec.clone()).collect(),
        },
        backends,
    };
    let listener = |id: u32, protocol: Protocol| {
        let name = format!("listener-{protocol}");
        let spec = ListenerSpec {
            name: name.clone(),
            vip: vip.ip(),
            port: vip.port(),
            protocol,
            mode: ForwardingMode::FullNat,
            group: "group".into(),
            replicate_after: ReplicateAfter::Millis(3_000),
            idle_timeout_ms: 900_000,
            unknown_session: UnknownSession::Reset,
            new_udp: NewUdp::Schedule,
        };
        (name, Listener { id: ListenerId(id), spec })
    };
    let lip = LipAssignment { owner: Some(ME), quarantined: false };
    ClusterState {
        cluster_id: "0".repeat(32),
        bucket_key: BucketKey([7; 16]),
        shards: ShardTable::spread(16),
        shard_count: 16,
        revision: 1,
        membership_epoch: 1,
        members: BTreeMap::new(),
        lips: lips.iter().map(|ip| (*ip, lip.clone())).collect(),
        spec: ClusterSpec::default(),
        listeners: [listener(1, Protocol::Tcp), listener(2, Protocol::Udp)].into(),
        groups: [("group".to_owned(), group)].into(),
        tokens: BTreeMap::new(),
        planned: Vec::new(),
        next: NextIds { listener: 3, group: 2, backend: next_backend, ..NextIds::default() },
        ca_certificate: String::new(),
        ca_key: String::new(),
        requests: Vec::new(),
    }
}

/// Its tables, with every packet leaving to one neighbour.
pub fn tables(cluster: &ClusterState, src_mac: [u8; 6], dst_mac: [u8; 6]) -> Arc<ForwardingTables> {
    let hop = NextHop { src_mac, dst_mac, mtu: 1500 };
    let everywhere = "0.0.0.0/0".parse().expect("a prefix");
    let next_hops = Arc::new(NextHops::new(vec![(everywhere, Some(hop))]));
    Arc::new(ForwardingTables::build(cluster, ME, &|_| true, next_hops, None))
}
