//! The control group's state machine: pure, deterministic, no I/O and no clock.
//!
//! Every replica applies the same commands in the same order and reaches the same state and the
//! same outcomes; a refused command changes nothing but the list of known requests. What needs a
//! clock or the network (a token's expiry, who is heard) is judged by the leader before it proposes.

mod configure;
mod lips;
mod members;
mod tokens;
mod validate;

#[cfg(test)]
mod tests;

use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, PlannedChange, PlannedKind, Refusal,
    RefusalCode, RequestId,
};

use crate::codec::disk::{ControlRecord, ForcedAct, ShardForm};
use crate::codec::wire::{ControlEntry, Proposal};

pub use validate::check as check_spec;

/// How many requests are remembered to recognise repetitions.
const REQUESTS_KEPT: usize = 512;
/// How many forced acts are remembered.
const FORCED_KEPT: usize = 256;
/// Most voters of a group.
pub const MAX_VOTERS: usize = 5;

/// What a command does to the state: the number it gave away, or why not.
type Verdict = Result<Option<u64>, Refusal>;

/// What came of applying an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Whose request it was.
    pub request: Option<RequestId>,
    /// What came of it.
    pub outcome: ControlOutcome,
    /// A `Started`, `Join` or `SetDown`: who it concerned.
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
        ControlCommand::IssueToken { name, slot } => tokens::issue(cluster, name, slot),
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
