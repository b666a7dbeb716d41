//! Whom to ask for a session that nobody here knows.

use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::SessionRecord;

use super::Homes;

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Whom {
    /// The homes-to-be of the bucket: the first of its order.
    pub homes: Vec<DirectorId>,
    /// The leader of the shard, if one is known.
    pub leader: Option<DirectorId>,
    /// Who may know as well: homes of before a change, the owner of the LIP that a reply came to.
    pub others: Vec<DirectorId>,
    /// Nothing has changed in the last ten seconds: a *no* may count.
    pub settled: bool,
}

/// Whether a *no* may count: nothing has moved for a while, and every member is up. One that was declared
/// down may live, cut off from here but not from its clients, and know sessions that nobody else does.
fn may_deny(cluster: &ClusterState, unchanged: bool) -> bool {
    unchanged && !cluster.change_planned() && cluster.members.values().all(|m| !m.down)
}

/// The bucket of a packet's key, whichever direction it is of.
pub fn bucket_of(cluster: &ClusterState, key: &FlowKey) -> Bucket {
    match cluster.lips.contains_key(&key.dst.to_ip()) {
        true => Bucket::of_local_port(key.dst_port),
        false => cluster.bucket_key.bucket(key.protocol, &key.src, key.src_port),
    }
}

impl Whom {
    /// Whom to ask about this key. `unchanged`: neither membership nor planned changes have moved for
    /// ten seconds, as far as is known here.
    pub fn of(
        cluster: &ClusterState,
        homes: &Homes,
        now_ms: u64,
        key: &FlowKey,
        leader: Option<DirectorId>,
        unchanged: bool,
    ) -> Whom {
        let (now, before) = homes.asked(now_ms, bucket_of(cluster, key));
        let owner = cluster.lips.get(&key.dst.to_ip()).and_then(|lip| lip.owner);
        let live = |id: &DirectorId| cluster.members.get(id).is_some_and(|m| !m.down);
        Whom {
            homes: now.to_vec(),
            leader,
            others: before.iter().copied().chain(owner).filter(live).collect(),
            settled: may_deny(cluster, unchanged),
        }
    }
}

/// Whoever carries on a session, as far as a record tells: its owner sees its client, the owner of its LIP
/// hears its backend.
fn carriers(cluster: &ClusterState, record: &SessionRecord) -> impl Iterator<Item = DirectorId> {
    let lip = cluster.lips.get(&record.reply.dst.to_ip());
    let owners = std::iter::once(record.owner).chain(lip.and_then(|lip| lip.owner));
    owners.filter(|id| cluster.members.get(id).is_some_and(|m| !m.down))
}

impl Whom {
    /// Asks those as well who carry on what is known here and doubted: it may be what they have, farther on.
    #[must_use]
    pub fn and_carriers(mut self, cluster: &ClusterState, doubted: Option<&SessionRecord>) -> Whom {
        self.others.extend(doubted.into_iter().flat_map(|record| carriers(cluster, record)));
        self
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::cluster::LipAssignment;

    use super::*;
    use crate::control::tests::Cluster;
    use crate::homes::young::tests::record;

    const A: DirectorId = DirectorId(1);
    const B: DirectorId = DirectorId(2);
    const C: DirectorId = DirectorId(3);

    #[test]
    fn a_reply_is_asked_of_its_lips_owner_and_both_directions_of_the_same_homes() {
        let mut cluster = Cluster::of(6).record.cluster;
        let mut session = record(1, 2, 1, 7);
        let bucket = session.bucket(&cluster.bucket_key);
        session.reply.dst_port = 1_024 + bucket.index() as u16;
        let lip = LipAssignment { owner: Some(B), quarantined: false };
        cluster.lips.insert(session.reply.dst.to_ip(), lip);
        let homes = Homes::of(&cluster);
        let whom = |cluster: &ClusterState, key| Whom::of(cluster, &homes, 0, key, Some(A), true);
        let up = whom(&cluster, &session.key);
        assert_eq!((up.homes.len(), up.leader, up.settled), (3, Some(A), true));
        assert!(up.others.is_empty());
        let down = whom(&cluster, &session.reply);
        assert_eq!((down.homes, down.others), (up.homes, vec![B]));
        cluster.members.get_mut(&B).unwrap().down = true;
        assert!(whom(&cluster, &session.reply).others.is_empty(), "it cannot answer");
    }

    #[test]
    fn whoever_carries_on_what_is_doubted_is_asked_as_well() {
        let mut cluster = Cluster::of(6).record.cluster;
        let mut session = record(1, 2, 1, 7);
        session.owner = C;
        let lip = LipAssignment { owner: Some(B), quarantined: false };
        cluster.lips.insert(session.reply.dst.to_ip(), lip);
        let asked = |cluster: &ClusterState, doubted: Option<&SessionRecord>| {
            Whom { homes: vec![A], ..Whom::default() }.and_carriers(cluster, doubted).others
        };
        assert!(asked(&cluster, None).is_empty());
        assert_eq!(asked(&cluster, Some(&session)), [C, B]);
        cluster.members.get_mut(&C).unwrap().down = true;
        assert_eq!(asked(&cluster, Some(&session)), [B], "the other cannot answer");
    }

    #[test]
    fn a_member_that_is_down_may_live_cut_off() {
        use holdfast_schema::cluster::ControlCommand;

        let mut cluster = Cluster::of(3);
        assert!(may_deny(&cluster.record.cluster, true));
        assert!(!may_deny(&cluster.record.cluster, false));
        let (director, incarnation) = (C, cluster.record.cluster.members[&C].incarnation);
        cluster.done(ControlCommand::SetDown { director, incarnation, down: true });
        assert!(!may_deny(&cluster.record.cluster, true));
    }
}
