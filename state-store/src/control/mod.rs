//! The control group's state machine: pure, deterministic, no I/O and no clock.
//!
//! Every replica applies the same commands in the same order and reaches the same state and the
//! same outcomes; a refused command changes nothing but the list of known requests. What needs a
//! clock or the network (a token's expiry, who is heard) is judged by the leader before it proposes.

mod configure;
mod lips;
mod members;
pub mod removal;
mod tokens;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

use holdfast_schema::bucket::{BucketKey, ShardTable};
use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, Member, MemberState, NextIds,
    PlannedChange, PlannedKind, Refusal, RefusalCode, ReplicaId, RequestId,
};
use holdfast_schema::prefix::Prefix;

use crate::codec::disk::{ControlRecord, ForcedAct, ShardForm};
use crate::codec::wire::{ControlEntry, Proposal};

pub use tokens::{Admission, admit};
pub use validate::check as check_spec;

/// How many requests are remembered to recognise repetitions.
const REQUESTS_KEPT: usize = 512;
/// How many forced acts are remembered.
const FORCED_KEPT: usize = 256;
/// Most voters of a group.
pub const MAX_VOTERS: usize = 5;

/// What a command does to the state: the number it gave away, or why not.
type Verdict = Result<Option<u64>, Refusal>;

/// What a new cluster begins with.
pub struct Founding {
    /// The cluster's id.
    pub cluster_id: String,
    /// Key of the bucket hash.
    pub bucket_key: BucketKey,
    /// How many session groups.
    pub shards: u16,
    /// PEM of the CA's certificate.
    pub ca_certificate: String,
    /// PEM of the CA's key.
    pub ca_key: String,
    /// The founder's name.
    pub name: String,
    /// Where peers reach it.
    pub address: std::net::SocketAddr,
    /// SHA-256 of its public key.
    pub key_fingerprint: [u8; 32],
    /// Prefixes directly connected to it.
    pub connected: Vec<Prefix>,
}

/// The number of the director that founds a cluster, and of its replica.
pub const FOUNDER: u32 = 1;

/// The state of a new cluster: one director that serves.
pub fn found(f: Founding) -> ControlRecord {
    let id = DirectorId(FOUNDER);
    let replica = ReplicaId(u64::from(FOUNDER));
    let founder = Member {
        id,
        name: f.name,
        address: f.address,
        replica,
        incarnation: 1,
        state: MemberState::Active,
        down: false,
        unclean: false,
        key_fingerprint: f.key_fingerprint,
        connected: f.connected,
    };
    let next = NextIds {
        director: FOUNDER + 1,
        replica: replica.0 + 1,
        listener: 1,
        group: 1,
        backend: 1,
        planned: 1,
    };
    let cluster = ClusterState {
        cluster_id: f.cluster_id,
        bucket_key: f.bucket_key,
        shards: ShardTable::spread(f.shards),
        shard_count: f.shards,
        revision: 1,
        membership_epoch: 1,
        members: [(id, founder)].into(),
        lips: Default::default(),
        spec: Default::default(),
        listeners: Default::default(),
        groups: Default::default(),
        tokens: Default::default(),
        planned: Vec::new(),
        next,
        ca_certificate: f.ca_certificate,
        ca_key: f.ca_key,
        requests: Vec::new(),
    };
    let form = ShardForm { generation: 1, first: replica };
    ControlRecord { cluster, shards: vec![form; usize::from(f.shards)], forced: Vec::new() }
}

/// What came of applying an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Whose request it was.
    pub request: Option<RequestId>,
    /// What came of it.
    pub outcome: ControlOutcome,
    /// Whether it was applied before under the same request id.
    pub repeated: bool,
}

/// Applies one log entry.
pub fn apply(record: &mut ControlRecord, entry: &ControlEntry) -> Applied {
    match entry {
        ControlEntry::Command(proposal) => {
            let known = record.cluster.requests.iter().find(|(id, _)| *id == proposal.request);
            if let Some((_, outcome)) = known {
                let outcome = outcome.clone();
                return Applied { request: Some(proposal.request), outcome, repeated: true };
            }
            let verdict = command(record, proposal);
            let outcome = outcome(&record.cluster, verdict);
            remember(&mut record.cluster, proposal.request, outcome.clone());
            Applied { request: Some(proposal.request), outcome, repeated: false }
        }
        ControlEntry::Reform { shard, ends, voter } => {
            let verdict = reform(record, *shard, *ends, *voter);
            Applied { request: None, outcome: outcome(&record.cluster, verdict), repeated: false }
        }
    }
}

fn outcome(cluster: &ClusterState, verdict: Verdict) -> ControlOutcome {
    match verdict {
        Ok(number) => ControlOutcome::Done {
            revision: cluster.revision,
            membership_epoch: cluster.membership_epoch,
            number,
        },
        Err(refusal) => ControlOutcome::Refused(refusal),
    }
}

fn remember(cluster: &mut ClusterState, request: RequestId, outcome: ControlOutcome) {
    if cluster.requests.len() >= REQUESTS_KEPT {
        cluster.requests.drain(..=cluster.requests.len() - REQUESTS_KEPT);
    }
    cluster.requests.push((request, outcome));
}

fn command(record: &mut ControlRecord, proposal: &Proposal) -> Verdict {
    let cluster = &mut record.cluster;
    match &proposal.command {
        ControlCommand::Configure { expected, spec, force } => {
            configure::configure(cluster, *expected, spec)?;
            if let Some(reason) = force {
                note(record, "configure", reason);
            }
            Ok(None)
        }
        ControlCommand::IssueToken { name, slot, now_s } => {
            tokens::issue(cluster, name, slot, *now_s)
        }
        ControlCommand::Join { name, secret_hash, address, key_fingerprint, connected } => {
            let newcomer = members::Newcomer {
                name,
                address: *address,
                key_fingerprint: *key_fingerprint,
                connected,
            };
            tokens::judge(cluster, name, secret_hash)?;
            members::join(cluster, newcomer)
        }
        ControlCommand::Started { director, address, unclean, amnesiac, connected } => {
            let start = members::Start {
                incarnation: proposal.incarnation,
                address: *address,
                unclean: *unclean,
                amnesiac: *amnesiac,
                connected,
            };
            members::started(cluster, *director, start)
        }
        ControlCommand::SetDown { director, incarnation, down } => {
            members::set_down(cluster, *director, *incarnation, *down)
        }
        ControlCommand::SetState { director, state, force } => {
            let forced = members::set_state(cluster, *director, *state, force.is_some())?;
            if let (true, Some(reason)) = (forced, force) {
                note(record, &format!("director {director} to {state:?}"), reason);
            }
            Ok(None)
        }
        ControlCommand::Proceed { director, from, to } => {
            members::proceed(cluster, *director, *from, *to)
        }
        ControlCommand::BeginPlanned { director, kind } => begin_planned(cluster, *director, *kind),
        ControlCommand::EndPlanned { id } => {
            let before = cluster.planned.len();
            cluster.planned.retain(|p| p.id != *id);
            if cluster.planned.len() == before {
                let message = format!("there is no planned change {id}");
                return refuse(RefusalCode::NotFound, message, "it may have ended already");
            }
            Ok(None)
        }
        ControlCommand::Remove { director, force } => {
            let name = members::name(cluster, *director);
            let forced = members::remove(cluster, *director, force.is_some())?;
            if let (true, Some(reason)) = (forced, force) {
                note(record, &format!("remove {name}"), reason);
            }
            Ok(None)
        }
        ControlCommand::ReleaseLip { lip } => lips::release(cluster, *lip),
    }
}

fn note(record: &mut ControlRecord, act: &str, reason: &str) {
    if record.forced.len() >= FORCED_KEPT {
        record.forced.remove(0);
    }
    record.forced.push(ForcedAct {
        revision: record.cluster.revision,
        membership_epoch: record.cluster.membership_epoch,
        act: act.to_owned(),
        reason: reason.to_owned(),
    });
}

fn begin_planned(cluster: &mut ClusterState, director: DirectorId, kind: PlannedKind) -> Verdict {
    members::find(cluster, director)?;
    let same = cluster.planned.iter().find(|p| p.director == director && p.kind == kind);
    if let Some(planned) = same {
        return Ok(Some(planned.id));
    }
    let id = cluster.next.planned;
    cluster.next.planned += 1;
    cluster.planned.push(PlannedChange { id, director, kind });
    Ok(Some(id))
}

fn reform(record: &mut ControlRecord, shard: u16, ends: u32, voter: DirectorId) -> Verdict {
    let first = members::find(&record.cluster, voter)?.replica;
    let Some(form) = record.shards.get_mut(usize::from(shard)) else {
        return refuse(RefusalCode::NotFound, format!("there is no shard {shard}"), "");
    };
    if form.generation != ends {
        let message = format!("shard {shard} is in generation {} already", form.generation);
        return refuse(RefusalCode::Precondition, message, "nothing is left to do");
    }
    *form = ShardForm { generation: ends + 1, first };
    note(
        record,
        &format!("shard {shard} formed anew as generation {}", ends + 1),
        "a majority of its voters is gone or lost its memory",
    );
    Ok(None)
}

fn refuse<T>(
    code: RefusalCode,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into(), hint: hint.into() })
}

/// How many voters a group of this many replicas wants: the largest odd number up to both it and
/// [`MAX_VOTERS`].
pub fn voters_wanted(replicas: usize) -> usize {
    match replicas.min(MAX_VOTERS) {
        0 => 0,
        n => n - (n + 1) % 2,
    }
}
