//! The cluster's configuration, made by the commands that operators and directors would say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use holdfast_schema::bucket::BucketKey;
use holdfast_schema::cluster::{ControlCommand, ControlOutcome, JoinSlot, RequestId};
use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthCheck, HealthSpec, ListenerSpec, NewUdp,
    ReplicateAfter, UnknownSession,
};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::ForwardingMode;
use holdfast_state_store::codec::disk::ControlRecord;
use holdfast_state_store::codec::wire::{ControlEntry, Proposal};
use holdfast_state_store::control::{self, Founding};

use super::Plan;
use crate::rng::Rng;

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// The TCP listener.
pub const TCP: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), 80);

/// The UDP listener.
pub const UDP: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), 53);

/// The address of a backend, from 0 on.
pub fn backend(n: u32) -> SocketAddr {
    (Ipv4Addr::new(10, 1, 0, n as u8 + 1), 8080).into()
}

/// The number of the backend with this address.
pub fn backend_at(addr: Ipv4Addr) -> Option<u32> {
    match addr.octets() {
        [10, 1, 0, n] => u32::from(n).checked_sub(1),
        _ => None,
    }
}

/// The configuration, without these backends' share of new sessions.
pub fn spec(plan: &Plan, draining: &[u32]) -> ClusterSpec {
    let listener = |name: &str, at: SocketAddr, protocol, idle_timeout_ms| ListenerSpec {
        name: name.to_owned(),
        vip: at.ip(),
        port: at.port(),
        protocol,
        mode: ForwardingMode::FullNat,
        group: "backends".to_owned(),
        replicate_after: ReplicateAfter::Millis(plan.replicate_after_ms),
        idle_timeout_ms,
        unknown_session: match plan.resets_unknown {
            true => UnknownSession::Reset,
            false => UnknownSession::Drop,
        },
        new_udp: if plan.udp_asks { NewUdp::Ask } else { NewUdp::Schedule },
    };
    let backends = (0..plan.backends).map(|n| BackendSpec {
        name: format!("b{n}"),
        address: backend(n),
        weight: 1,
        draining: draining.contains(&n),
    });
    ClusterSpec {
        lip_pool: vec!["10.9.0.0/26".parse().expect("a prefix")],
        lips_per_director: plan.lips,
        listeners: vec![
            listener("tcp", TCP, Protocol::Tcp, plan.idle_timeout_ms),
            listener("udp", UDP, Protocol::Udp, plan.udp_idle_timeout_ms),
        ],
        groups: vec![GroupSpec {
            name: "backends".to_owned(),
            health: HealthSpec { check: HealthCheck::None, ..HealthSpec::default() },
            backends: backends.collect(),
        }],
    }
}

fn address(n: u32) -> SocketAddr {
    (Ipv4Addr::new(10, 0, n as u8, 1), 7000).into()
}

/// The cluster as it was left: its members joined and its configuration applied.
pub fn record(plan: &Plan) -> ControlRecord {
    let mut rng = Rng::new(plan.seed, "cluster");
    let mut record = control::found(Founding {
        cluster_id: "0123456789abcdef0123456789abcdef".to_owned(),
        bucket_key: BucketKey(
            (u128::from(rng.draw()) << 64 | u128::from(rng.draw())).to_be_bytes(),
        ),
        shards: plan.shards,
        ca_certificate: String::new(),
        ca_key: String::new(),
        name: "d1".to_owned(),
        address: address(1),
        key_fingerprint: [1; 32],
        connected: Vec::new(),
    });
    let mut requests = 0;
    let mut say = |command: ControlCommand| {
        requests += 1;
        let request = RequestId(requests);
        let proposal = Box::new(Proposal { request, command, incarnation: 0 });
        let applied = control::apply(&mut record, &ControlEntry::Command(proposal));
        assert!(matches!(applied.outcome, ControlOutcome::Done { .. }), "{:?}", applied.outcome);
    };
    for n in 2..=plan.directors {
        let secret_hash = [n as u8; 32];
        let slot = JoinSlot { secret_hash, expires_at_s: 1_000 };
        let name = format!("d{n}");
        say(ControlCommand::IssueToken { name: name.clone(), slot, now_s: 0 });
        say(ControlCommand::Join {
            name,
            secret_hash,
            address: address(n),
            key_fingerprint: [n as u8; 32],
            connected: Vec::new(),
        });
    }
    let spec = Box::new(spec(plan, &[]));
    say(ControlCommand::Configure { expected: 1, spec, force: None });
    record
}

/// Who owns which LIP.
pub fn lip_owners(record: &ControlRecord) -> BTreeMap<Ipv4Addr, u32> {
    let lips = record.cluster.lips.iter();
    let owned = lips.filter_map(|(lip, assignment)| match lip {
        IpAddr::V4(lip) => Some((*lip, assignment.owner?.0)),
        IpAddr::V6(_) => None,
    });
    owned.collect()
}
