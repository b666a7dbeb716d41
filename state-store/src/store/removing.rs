//! Removing directors: what the leader asks the Raft groups before, and moving votes away.

use std::time::{Duration, Instant};

use holdfast_schema::cluster::{ControlCommand, ControlOutcome, DirectorId, MemberState};

use super::Store;
use super::command::heard;
use super::error::StoreError;
use super::member::Member;
use super::published::View;
use crate::codec::wire::Form;
use crate::control::removal::{self, GroupVoters, Objection};
use crate::membership;

/// Pause between looks whether the votes have moved.
const PAUSE: Duration = Duration::from_millis(50);
/// How long bringing a director back into service may take that could not be removed.
const RESTORE: Duration = Duration::from_secs(2);

/// Whether a drain of this director would move its votes: enough others live to make up the voters.
fn votes_movable(view: &View, director: DirectorId) -> bool {
    let number = u64::from(director.0);
    let members = view.control_members();
    let others = members.iter().filter(|m| m.replica != number && m.live && m.serving).count();
    let serves = view.cluster.members.get(&director);
    serves.is_some_and(|m| !m.down && m.state == MemberState::Active)
        && others >= membership::wanted(&members)
}

/// Whoever has applied most of a shard, in its latest generation, knows its voters best. (A shard that
/// is formed anew counts from the beginning.)
fn best_informed<'a>(forms: impl Iterator<Item = &'a Form>) -> Option<&'a Form> {
    forms.max_by_key(|f| (f.generation, f.applied, f.voters.len()))
}

impl Store {
    /// Why a Raft group cannot do without this director, by the configurations there are.
    pub(super) async fn quorum_needs(
        &self,
        member: &Member,
        director: DirectorId,
    ) -> Option<Objection> {
        // The last one is refused by the state machine, in better words.
        let view = self.shared.published.view().filter(|v| v.cluster.members.len() > 1)?;
        let conf = member.control.states[0].conf();
        let numbers = |half: &[u64]| half.iter().map(|r| Some(DirectorId(*r as u32))).collect();
        let halves = [conf.voters, conf.voters_outgoing];
        let mut groups = vec![GroupVoters {
            name: "the control group".to_owned(),
            control: true,
            halves: halves.iter().filter(|h| !h.is_empty()).map(|h| numbers(h)).collect(),
        }];
        let forms = self.ask_forms(member).await;
        for shard in 0..member.shards {
            let known = forms.iter().filter_map(|(_, forms)| forms.get(usize::from(shard)));
            let Some(form) = best_informed(known) else { continue };
            let directors = |half: &[u64]| half.iter().map(|r| view.director_of(*r)).collect();
            groups.push(GroupVoters {
                name: format!("shard {shard}"),
                control: false,
                halves: form.halves().map(directors).collect(),
            });
        }
        let lives = |d: DirectorId| {
            let up = view.cluster.members.get(&d).is_some_and(|m| !m.down);
            d == member.me || (up && heard(member, d, None))
        };
        removal::judge(&view.cluster, &groups, director, &lives)
    }

    /// Ends a membership. With force, a director that still serves first gives its votes away if
    /// the groups need them; if nobody can take them, that is the refusal, and it serves on.
    pub async fn remove(
        &self,
        director: DirectorId,
        force: Option<String>,
        deadline: Duration,
    ) -> Result<ControlOutcome, StoreError> {
        let until = Instant::now() + deadline;
        let remove = ControlCommand::Remove { director, force: force.clone() };
        let first = self.said_goodbye(director, self.control(remove.clone(), deadline).await)?;
        let movable = self.shared.published.view().is_some_and(|v| votes_movable(&v, director));
        let (ControlOutcome::Refused(_), Some(reason), true) = (&first, force, movable) else {
            return Ok(first);
        };
        let set = |state, force| ControlCommand::SetState { director, state, force };
        let draining = set(MemberState::Draining, Some(reason.clone()));
        if let refused @ ControlOutcome::Refused(_) = self.control(draining, deadline).await? {
            return Ok(refused);
        }
        loop {
            tokio::time::sleep(PAUSE).await;
            let left = until.saturating_duration_since(Instant::now());
            let outcome = match left.is_zero() {
                true => Ok(first.clone()),
                false => self.said_goodbye(director, self.control(remove.clone(), left).await),
            };
            match outcome {
                Ok(ControlOutcome::Refused(_)) if !left.is_zero() => {}
                Ok(done @ ControlOutcome::Done { .. }) => return Ok(done),
                given_up => {
                    let serves = set(MemberState::Active, Some(reason));
                    if let Err(e) = self.control(serves, RESTORE).await {
                        tracing::warn!(%director, %e, "not removed, but it goes on draining");
                    }
                    return given_up;
                }
            }
        }
    }

    /// Whoever has itself removed may hear of it before it hears the answer, and then hears nobody.
    fn said_goodbye(
        &self,
        director: DirectorId,
        outcome: Result<ControlOutcome, StoreError>,
    ) -> Result<ControlOutcome, StoreError> {
        match (outcome, self.shared.published.view()) {
            (Err(StoreError::Disowned(_)), Some(view)) if self.me() == Some(director) => {
                Ok(ControlOutcome::Done {
                    revision: view.cluster.revision,
                    membership_epoch: view.cluster.membership_epoch,
                    number: None,
                })
            }
            (outcome, _) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_generation_knows_the_voters() {
        let old = Form { generation: 1, applied: 900, voters: vec![9], ..Form::default() };
        let behind = Form { generation: 2, applied: 3, voters: vec![1], ..Form::default() };
        let new = Form { generation: 2, applied: 4, voters: vec![1, 2, 3], ..Form::default() };
        assert_eq!(best_informed([&old, &new, &behind].into_iter()), Some(&new));
        assert_eq!(best_informed([].into_iter()), None);
    }
}
