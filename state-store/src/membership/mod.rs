//! Who votes: a pure function from members, configuration and progress to the next step.
//!
//! Each group's leader asks it a few times a second and does what it says. The wish: as many voters
//! as [`wanted`] says, taken from live serving members first; everybody else is a learner. One step
//! at a time, and never one that could not be committed.

#[cfg(test)]
mod tests;

use crate::control::voters_wanted;

/// A member as the control group knows it, named by its replica in this group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberView {
    /// Its replica in this group.
    pub replica: u64,
    /// Not declared down.
    pub live: bool,
    /// Neither draining nor drained: its votes are welcome.
    pub serving: bool,
}

/// A group's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conf {
    /// Voters (of the incoming half, while joint).
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// A joint change is under way.
    pub joint: bool,
}

/// What a replica becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It votes.
    Voter,
    /// It follows without a vote.
    Learner,
    /// It is no part of the group any more.
    Gone,
}

/// The next step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Change the configuration, jointly if it is more than one change.
    Change(Vec<(u64, Role)>),
    /// Leave the joint configuration (raft-rs does it by itself unless the leader changed meanwhile).
    Leave,
    /// Give the leadership to this voter.
    Transfer(u64),
}

/// How many voters the members should make up.
///
/// The largest odd number up to the live members (and five); but a death alone does not take three
/// voters down to one: with a single voter, what it acknowledged would be nowhere else for sure
/// (DESIGN rule 3).
pub fn wanted(members: &[MemberView]) -> usize {
    let live = members.iter().filter(|m| m.live).count();
    voters_wanted(live).max(voters_wanted(members.len()).min(3))
}

/// The next step of the leader `me`, if there is anything to do. `caught_up` says of a replica that
/// it is active and has (nearly) all of the log.
pub fn plan(
    me: u64,
    members: &[MemberView],
    conf: &Conf,
    caught_up: &dyn Fn(u64) -> bool,
) -> Option<Step> {
    if conf.joint {
        return Some(Step::Leave);
    }
    // The leader knows that it lives.
    let members: Vec<MemberView> =
        members.iter().map(|m| MemberView { live: m.live || m.replica == me, ..*m }).collect();
    let target = target_voters(me, &members, conf, caught_up);
    let voters = target.as_deref().unwrap_or(&conf.voters);
    if let Some(step) = hand_over(me, &members, conf, voters, caught_up) {
        return Some(step);
    }
    let changes = changes(&members, conf, voters);
    if changes.is_empty() || !committable(me, &members, &conf.voters, voters) {
        return None;
    }
    Some(Step::Change(changes))
}

/// The voters there should be; none: there are too few candidates yet, leave the voters alone.
fn target_voters(
    me: u64,
    members: &[MemberView],
    conf: &Conf,
    caught_up: &dyn Fn(u64) -> bool,
) -> Option<Vec<u64>> {
    let votes = |m: &MemberView| conf.voters.contains(&m.replica);
    let mut candidates: Vec<&MemberView> =
        members.iter().filter(|m| votes(m) || (m.live && caught_up(m.replica))).collect();
    candidates.sort_by_key(|m| (!m.live, !m.serving, m.replica != me, !votes(m), m.replica));
    let count = wanted(members);
    (count > 0 && candidates.len() >= count)
        .then(|| candidates[..count].iter().map(|m| m.replica).collect())
}

/// Leadership moves before its holder's vote does, and away from whoever gives its traffic away.
fn hand_over(
    me: u64,
    members: &[MemberView],
    conf: &Conf,
    target: &[u64],
    caught_up: &dyn Fn(u64) -> bool,
) -> Option<Step> {
    let view = |replica: u64| members.iter().find(|m| m.replica == replica);
    let serving = view(me).is_some_and(|m| m.serving);
    let stays = target.contains(&me);
    if serving && stays {
        return None;
    }
    let heir = target
        .iter()
        .copied()
        .filter(|r| *r != me && conf.voters.contains(r) && caught_up(*r))
        .find(|r| view(*r).is_some_and(|m| m.live && (m.serving || !stays)));
    match heir {
        Some(heir) => Some(Step::Transfer(heir)),
        // Nobody of the new voters votes yet: one of them has to, before it can lead.
        None if !stays && !target.iter().any(|r| conf.voters.contains(r)) => {
            target.first().map(|first| Step::Change(vec![(*first, Role::Voter)]))
        }
        None => None,
    }
}

fn changes(members: &[MemberView], conf: &Conf, target: &[u64]) -> Vec<(u64, Role)> {
    let is_member = |r: u64| members.iter().any(|m| m.replica == r);
    let mut changes = Vec::new();
    for replica in target.iter().filter(|r| !conf.voters.contains(r)) {
        changes.push((*replica, Role::Voter));
    }
    for replica in conf.voters.iter().filter(|r| !target.contains(r)) {
        changes.push((*replica, if is_member(*replica) { Role::Learner } else { Role::Gone }));
    }
    for replica in conf.learners.iter().filter(|r| !is_member(**r)) {
        changes.push((*replica, Role::Gone));
    }
    for member in members.iter().filter(|m| m.live) {
        let known = conf.voters.contains(&member.replica)
            || conf.learners.contains(&member.replica)
            || target.contains(&member.replica);
        if !known {
            changes.push((member.replica, Role::Learner));
        }
    }
    changes
}

/// Whether both halves of a change have a live majority.
fn committable(me: u64, members: &[MemberView], old: &[u64], new: &[u64]) -> bool {
    let live = |r: &&u64| **r == me || members.iter().any(|m| m.replica == **r && m.live);
    [old, new].iter().all(|half| half.iter().filter(live).count() > half.len() / 2)
}
