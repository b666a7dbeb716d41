//! Which shards have lost the majority of their voters for good, and who begins the next generation
//! (DESIGN section 5). The control leader goes by it; whoever drives it asks all directors how their
//! replicas are configured.

use std::time::Duration;

use holdfast_schema::cluster::{ClusterState, DirectorId};

use super::published::View;
use crate::codec;
use crate::codec::wire::{ControlEntry, Form};

/// How often the control leader looks for shards without a majority.
pub const SURVEY: Duration = Duration::from_secs(1);

/// A shard without known voters this long, with everybody up, has nobody left that remembers.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// So long a shard that was formed anew is left alone: its replicas have to begin, and to elect.
const REFORMED: Duration = Duration::from_secs(5);

/// A shard that is to be formed anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The shard.
    pub shard: u16,
    /// The generation that ends.
    pub ends: u32,
    /// Whose replica is the first voter of the next one.
    pub voter: DirectorId,
}

impl Lost {
    /// What the control group has to commit.
    pub fn entry(self) -> Vec<u8> {
        let Lost { shard, ends, voter } = self;
        codec::encode(&ControlEntry::Reform { shard, ends, voter })
    }
}

/// What the control leader has seen of one shard.
#[derive(Clone, Default)]
struct Seen {
    /// Since when nobody has remembered its voters.
    forgotten: Option<Duration>,
    /// When it was last formed anew.
    reformed: Option<Duration>,
}

/// What the control leader has seen of all shards. Times are counted from any moment, the same for all
/// calls.
#[derive(Default)]
pub struct Survey {
    shards: Vec<Seen>,
}

impl Survey {
    /// Every shard has a leader, or this director is not the one to ask.
    pub fn all_is_well(&mut self) {
        self.shards.iter_mut().for_each(|seen| seen.forgotten = None);
    }

    /// A shard was formed anew.
    pub fn formed_anew(&mut self, now: Duration, shard: u16) {
        if let Some(seen) = self.shards.get_mut(usize::from(shard)) {
            seen.reformed = Some(now);
        }
    }

    /// The shards to be formed anew, by what those directors have said that answered.
    pub fn judge(
        &mut self,
        now: Duration,
        view: &View,
        leaderless: &dyn Fn(u16) -> bool,
        answers: &[(DirectorId, Vec<Form>)],
    ) -> Vec<Lost> {
        self.shards.resize(view.shards.len(), Seen::default());
        let mut lost = Vec::new();
        for (shard, (form, seen)) in (0u16..).zip(view.shards.iter().zip(&mut self.shards)) {
            if !leaderless(shard) {
                seen.forgotten = None;
                continue;
            }
            if seen.reformed.is_some_and(|at| now < at + REFORMED) {
                continue;
            }
            let ends = form.generation;
            let known = answers.iter().filter_map(|(d, f)| Some((*d, f.get(usize::from(shard))?)));
            let voter = first_voter(&view.cluster, ends, known, answers.len(), now, seen);
            lost.extend(voter.map(|voter| Lost { shard, ends, voter }));
        }
        lost
    }
}

/// Who should begin the generation after `ends`; none: the voters of `ends` may come back. A replica
/// that is still in an older generation knows nothing of them.
fn first_voter<'a>(
    cluster: &ClusterState,
    ends: u32,
    known: impl Iterator<Item = (DirectorId, &'a Form)>,
    answered: usize,
    now: Duration,
    seen: &mut Seen,
) -> Option<DirectorId> {
    let known: Vec<(DirectorId, &Form)> = known.collect();
    let best = known
        .iter()
        .filter(|(_, f)| f.generation == ends && !f.voters.is_empty())
        .max_by_key(|(_, f)| f.applied);
    match best {
        Some(&(director, form)) => {
            seen.forgotten = None;
            has_lost_majority(cluster, form, &known).then_some(director)
        }
        // Nobody remembers. Only if everybody was asked, and for a while.
        None if answered == cluster.members.len() => {
            let since = *seen.forgotten.get_or_insert(now);
            (now > since + FORGOTTEN).then(|| cluster.members.keys().next().copied()).flatten()
        }
        None => {
            seen.forgotten = None;
            None
        }
    }
}

/// Whether the voters of this configuration can decide nothing any more, not even to leave it. Of a joint
/// one each half needs its majority; but some of the other half may have left it already: all that are left
/// of both must have been asked.
fn has_lost_majority(cluster: &ClusterState, form: &Form, asked: &[(DirectorId, &Form)]) -> bool {
    let member = |r: u64| cluster.members.values().find(|m| m.replica.0 == r);
    let lost = |half: &[u64]| {
        let gone = half.iter().filter(|r| member(**r).is_none()).count();
        gone > (half.len() - 1) / 2
    };
    let left =
        |half: &[u64]| half.iter().filter_map(|r| member(*r)).map(|m| m.id).collect::<Vec<_>>();
    let joint = !form.outgoing.is_empty();
    form.halves().any(lost)
        && (!joint
            || form
                .halves()
                .flat_map(left)
                .all(|id| asked.iter().any(|(director, _)| *director == id)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_schema::bucket::BucketKey;
    use holdfast_schema::cluster::{Member, ReplicaId};

    use super::*;
    use crate::codec::disk::ShardForm;
    use crate::control::{Founding, found};

    fn cluster() -> ClusterState {
        found(Founding {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            bucket_key: BucketKey([7; 16]),
            shards: 1,
            ca_certificate: "certificate".into(),
            ca_key: "key".into(),
            name: "d1".into(),
            address: "10.0.0.1:7000".parse().unwrap(),
            key_fingerprint: [1; 32],
            connected: Vec::new(),
        })
        .cluster
    }

    #[test]
    fn only_the_generation_that_ends_says_who_voted() {
        let cluster = cluster();
        // Replica 9 was lost, and with it generation 1; a log of it is longer than the new one.
        let old = Form { generation: 1, applied: 900, voters: vec![9], ..Form::default() };
        let new = Form { generation: 2, applied: 3, voters: vec![1], ..Form::default() };
        let me = DirectorId(1);
        let judge = |ends, forms: &[&Form]| {
            let known = forms.iter().map(|f| (me, *f));
            first_voter(&cluster, ends, known, 1, Duration::ZERO, &mut Seen::default())
        };
        assert_eq!(judge(1, &[&old]), Some(me));
        assert_eq!(judge(2, &[&old, &new]), None, "formed anew already");
        assert_eq!(judge(2, &[&old]), None, "it has not begun yet");
    }

    /// Of a joint configuration each half decides: 4 and 5 come back without memory, as 6 and 7.
    #[test]
    fn a_joint_configuration_is_lost_with_either_half() {
        let members = |replicas: [u64; 5]| {
            let mut cluster = cluster();
            let first = cluster.members[&DirectorId(1)].clone();
            for (id, replica) in (1..).map(DirectorId).zip(replicas) {
                let member = Member { id, replica: ReplicaId(replica), ..first.clone() };
                cluster.members.insert(id, member);
            }
            cluster
        };
        let joint =
            Form { generation: 1, applied: 50, voters: vec![1, 2, 3], outgoing: vec![1, 4, 5] };
        let unknown = Form { generation: 1, ..Form::default() };
        let judge = |replicas, joint: &Form, answered: u32| {
            let forms = [joint, joint, joint, &unknown, &unknown];
            let known = (1..=answered).map(DirectorId).zip(forms);
            let (cluster, seen) = (members(replicas), &mut Seen::default());
            first_voter(&cluster, 1, known, answered as usize, Duration::ZERO, seen)
        };
        let mirrored = Form {
            voters: joint.outgoing.clone(),
            outgoing: joint.voters.clone(),
            ..joint.clone()
        };
        for form in [&joint, &mirrored] {
            assert_eq!(judge([1, 2, 3, 4, 5], form, 5), None);
            assert_eq!(judge([1, 2, 3, 4, 7], form, 5), None, "1 and 4 are a majority");
            assert!(judge([1, 2, 3, 6, 7], form, 5).is_some(), "1 alone is none of 1, 4 and 5");
            assert_eq!(judge([1, 2, 3, 6, 7], form, 2), None, "3 may know that it is over");
            assert!(judge([1, 2, 3, 6, 7], form, 3).is_some());
        }
    }

    #[test]
    fn a_shard_that_nobody_remembers_waits_a_moment_and_one_formed_anew_is_left_alone() {
        let form = ShardForm { generation: 4, first: ReplicaId(1) };
        let cluster = Arc::new(cluster());
        let view = View { cluster, shards: vec![form], ca_key: String::new() };
        let (me, s) = (DirectorId(1), Duration::from_secs);
        let empty = [(me, vec![Form { generation: 4, ..Form::default() }])];
        let lost = [Lost { shard: 0, ends: 4, voter: me }];
        let mut survey = Survey::default();
        let leaderless = |_| true;
        assert!(survey.judge(s(0), &view, &leaderless, &empty).is_empty());
        assert!(survey.judge(s(2), &view, &leaderless, &[]).is_empty(), "somebody may remember");
        assert!(survey.judge(s(3), &view, &leaderless, &empty).is_empty());
        assert!(survey.judge(s(5), &view, &|_| false, &empty).is_empty(), "it is led");
        assert!(survey.judge(s(7), &view, &leaderless, &empty).is_empty());
        assert_eq!(survey.judge(s(11), &view, &leaderless, &empty), lost);
        survey.formed_anew(s(11), 0);
        assert!(survey.judge(s(15), &view, &leaderless, &empty).is_empty());
        assert_eq!(survey.judge(s(16), &view, &leaderless, &empty), lost);
    }
}
