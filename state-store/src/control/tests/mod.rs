//! A small cluster to say things to.

mod config;
mod members;
mod requests;

use std::net::SocketAddr;

use holdfast_schema::bucket::BucketKey;
use holdfast_schema::cluster::{
    ControlCommand, ControlOutcome, DirectorId, JoinSlot, MemberState, Refusal, RefusalCode,
    RequestId,
};
use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthSpec, ListenerSpec, NewUdp, ReplicateAfter,
    UnknownSession,
};
use holdfast_schema::flow::Protocol;
use holdfast_schema::prefix::Prefix;
use holdfast_schema::session::ForwardingMode;

use super::{Admission, Founding, admit, apply, found};
use crate::codec::disk::ControlRecord;
use crate::codec::wire::{ControlEntry, Proposal};

pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, n, 1], 7000))
}

pub(super) fn connected(n: u8) -> Vec<Prefix> {
    vec![format!("10.0.{n}.0/24").parse().unwrap()]
}

/// A cluster that its founder `d1` says things to.
pub(crate) struct Cluster {
    pub record: ControlRecord,
    next: u128,
}

impl Cluster {
    pub fn new() -> Cluster {
        let record = found(Founding {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            bucket_key: BucketKey([7; 16]),
            shards: 4,
            ca_certificate: "certificate".into(),
            ca_key: "key".into(),
            name: "d1".into(),
            address: address(1),
            key_fingerprint: [1; 32],
            connected: connected(1),
        });
        Cluster { record, next: 0 }
    }

    /// So many serving members `d1`, `d2`, ... with numbers 1, 2, ...
    pub fn of(members: u8) -> Cluster {
        let mut cluster = Cluster::new();
        for n in 2..=members {
            let id = cluster.join(n).expect("joins");
            cluster.done(state(id as u32, MemberState::Active));
        }
        cluster
    }

    pub fn say_as(&mut self, request: u128, command: ControlCommand) -> ControlOutcome {
        self.start_as(request, command, 0)
    }

    pub fn start_as(
        &mut self,
        request: u128,
        command: ControlCommand,
        incarnation: u64,
    ) -> ControlOutcome {
        let proposal = Proposal { request: RequestId(request), command, incarnation };
        apply(&mut self.record, &ControlEntry::Command(Box::new(proposal))).outcome
    }

    pub fn say(&mut self, command: ControlCommand) -> Result<Option<u64>, Refusal> {
        self.say_with(command, 0)
    }

    /// Refusals must change nothing but the list of requests.
    pub fn say_with(
        &mut self,
        command: ControlCommand,
        incarnation: u64,
    ) -> Result<Option<u64>, Refusal> {
        self.next += 1;
        let before = self.record.clone();
        match self.start_as(self.next, command, incarnation) {
            ControlOutcome::Done { number, .. } => Ok(number),
            ControlOutcome::Refused(refusal) => {
                let mut after = self.record.clone();
                after.cluster.requests = before.cluster.requests.clone();
                assert_eq!(after, before, "a refused command changed something");
                Err(refusal)
            }
        }
    }

    pub fn done(&mut self, command: ControlCommand) -> Option<u64> {
        self.say(command).unwrap()
    }

    pub fn refused(&mut self, code: RefusalCode, command: ControlCommand) -> String {
        let refusal = self.say(command).expect_err("refused");
        assert_eq!(refusal.code, code, "{}", refusal.message);
        refusal.message
    }

    pub fn issue(&mut self, n: u8) {
        let slot = JoinSlot { secret_hash: [n; 32], expires_at_s: 100 };
        self.done(ControlCommand::IssueToken { name: format!("d{n}"), slot, now_s: 0 });
    }

    pub fn join(&mut self, n: u8) -> Result<u64, Refusal> {
        self.issue(n);
        self.say(join(n)).map(|number| number.unwrap())
    }

    pub fn configure(&mut self, spec: ClusterSpec) -> Result<Option<u64>, Refusal> {
        let expected = self.record.cluster.revision;
        self.say(ControlCommand::Configure { expected, spec: Box::new(spec), force: None })
    }

    pub fn down(&mut self, n: u32) {
        let director = DirectorId(n);
        let incarnation = self.record.cluster.members[&director].incarnation;
        self.done(ControlCommand::SetDown { director, incarnation, down: true });
    }
}

pub(super) fn join(n: u8) -> ControlCommand {
    ControlCommand::Join {
        name: format!("d{n}"),
        secret_hash: [n; 32],
        address: address(n),
        key_fingerprint: [n; 32],
        connected: connected(n),
    }
}

pub(super) fn state(n: u32, state: MemberState) -> ControlCommand {
    ControlCommand::SetState { director: DirectorId(n), state, force: None }
}

pub(super) fn remove(n: u32) -> ControlCommand {
    ControlCommand::Remove { director: DirectorId(n), force: None }
}

/// A configuration that serves one VIP with two backends.
pub(super) fn spec() -> ClusterSpec {
    let backend = |n: u8| BackendSpec {
        name: format!("b{n}"),
        address: SocketAddr::from(([10, 9, 0, n], 80)),
        weight: 1,
        draining: false,
    };
    ClusterSpec {
        lip_pool: vec!["10.99.0.0/28".parse().unwrap()],
        lips_per_director: 2,
        listeners: vec![ListenerSpec {
            name: "web".into(),
            vip: "203.0.113.10".parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            mode: ForwardingMode::FullNat,
            group: "web".into(),
            replicate_after: ReplicateAfter::Millis(3_000),
            idle_timeout_ms: 900_000,
            unknown_session: UnknownSession::Reset,
            new_udp: NewUdp::Schedule,
        }],
        groups: vec![GroupSpec {
            name: "web".into(),
            health: HealthSpec::default(),
            backends: vec![backend(1), backend(2)],
        }],
    }
}
