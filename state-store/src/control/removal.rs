//! Whether a removal leaves every Raft group a quorum: judged by the groups' real configurations.
//!
//! The state machine does not know them (a configuration belongs to Raft, not to what Raft
//! replicates), so the control leader judges before it proposes.

use holdfast_schema::cluster::{ClusterState, DirectorId, Refusal, RefusalCode};

/// The voters of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupVoters {
    /// The group in words.
    pub name: String,
    /// Whether it is the control group.
    pub control: bool,
    /// Both halves of a joint configuration, or the one there is. None: nobody's replica any more.
    pub halves: Vec<Vec<Option<DirectorId>>>,
}

/// Why a director must not be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Objection {
    /// What the operator is told.
    pub refusal: Refusal,
    /// Whether a reason overrides it.
    pub forcible: bool,
}

/// Why the groups cannot do without this director; none: they can.
///
/// The change to other voters is committed by a majority of the old ones, and the removed director
/// is not among those who answer. A session group that has lost its majority already is no worse off
/// without one of the dead: with force it may go, and then the group is formed anew.
pub fn judge(
    cluster: &ClusterState,
    groups: &[GroupVoters],
    director: DirectorId,
    reachable: &dyn Fn(DirectorId) -> bool,
) -> Option<Objection> {
    let lives = |d: DirectorId| cluster.members.contains_key(&d) && reachable(d);
    let lacking = |half: &&Vec<Option<DirectorId>>| {
        let left = half.iter().flatten().filter(|d| **d != director && lives(**d)).count();
        half.contains(&Some(director)) && left < majority(half.len())
    };
    let hit: Vec<(&GroupVoters, &Vec<Option<DirectorId>>)> =
        groups.iter().filter_map(|g| Some((g, g.halves.iter().find(lacking)?))).collect();
    let (group, half) = *hit.first()?;
    let name = |d: &Option<DirectorId>| {
        let member = d.and_then(|d| cluster.members.get(&d));
        member.map_or_else(|| "one that was removed".to_owned(), |m| m.name.clone())
    };
    let me = name(&Some(director));
    let names = |list: Vec<&Option<DirectorId>>| -> String {
        list.into_iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let (alive, dead): (Vec<&Option<DirectorId>>, Vec<&Option<DirectorId>>) =
        half.iter().partition(|d| d.is_some_and(lives));
    let left = alive.iter().filter(|d| ***d != Some(director)).count();
    let more = match hit.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more groups"),
    };
    let message = format!(
        "without director {me} there is no quorum in {}{more}: of its {} voters ({}) {} must be \
         reachable; reachable now: {}{}, after the removal: {left}",
        group.name,
        half.len(),
        names(half.iter().collect()),
        majority(half.len()),
        alive.len(),
        if dead.is_empty() { String::new() } else { format!(" (down: {})", names(dead)) },
    );
    let forcible = !lives(director) && hit.iter().all(|(g, _)| !g.control);
    let refusal = Refusal {
        code: RefusalCode::Precondition,
        message,
        hint: remedy(cluster, half, director, forcible, &lives),
    };
    Some(Objection { refusal, forcible })
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

fn remedy(
    cluster: &ClusterState,
    half: &[Option<DirectorId>],
    director: DirectorId,
    forcible: bool,
    lives: &dyn Fn(DirectorId) -> bool,
) -> String {
    if forcible {
        return "bring its voters back; if their machines are lost, force it with a reason: the group \
                is then formed anew from what the others have"
            .to_owned();
    }
    let me = cluster.members.get(&director).map_or("it", |m| m.name.as_str());
    let others = || cluster.members.values().filter(|m| m.id != director);
    let dead: Vec<&str> = others()
        .filter(|m| half.contains(&Some(m.id)) && !lives(m.id))
        .map(|m| m.name.as_str())
        .collect();
    if !dead.is_empty() {
        let dead = dead.join(", ");
        return format!("bring {dead} back first, or remove {dead} with --force if it is lost");
    }
    if others().any(|m| lives(m.id)) {
        return format!("run `holdfast node drain {me}` first: it moves the votes to the others");
    }
    "bring another director back, or add one, first: it takes over the vote".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::Cluster;

    fn group(name: &str, voters: &[u32]) -> GroupVoters {
        let half = voters.iter().map(|v| (*v != 0).then_some(DirectorId(*v))).collect();
        GroupVoters {
            name: name.to_owned(),
            control: name == "the control group",
            halves: vec![half],
        }
    }

    fn control(voters: &[u32]) -> GroupVoters {
        group("the control group", voters)
    }

    fn ask(members: u8, groups: &[GroupVoters], who: u32, dead: &[u32]) -> Option<Objection> {
        let cluster = Cluster::of(members).record.cluster;
        judge(&cluster, groups, DirectorId(who), &|d| !dead.contains(&d.0))
    }

    #[test]
    fn the_sole_voter_stays_and_the_remedy_is_a_drain() {
        let objection = ask(2, &[control(&[1])], 1, &[]).unwrap();
        assert_eq!(
            objection.refusal.message,
            "without director d1 there is no quorum in the control group: of its 1 voters (d1) 1 must be \
             reachable; reachable now: 1, after the removal: 0"
        );
        assert!(objection.refusal.hint.contains("holdfast node drain d1"), "{objection:?}");
        assert!(!objection.forcible);
        let alone = ask(2, &[control(&[1])], 1, &[2]).unwrap();
        assert!(alone.refusal.hint.contains("bring another director back"), "{alone:?}");
        assert_eq!(ask(2, &[control(&[1])], 2, &[]), None, "the learner may go");
        assert_eq!(ask(2, &[control(&[1])], 2, &[2]), None, "dead or alive");
    }

    #[test]
    fn a_majority_of_the_old_voters_must_live_without_the_one_that_goes() {
        let three = [control(&[1, 2, 3]), group("shard 0", &[1, 2, 3])];
        assert_eq!(ask(3, &three, 2, &[]), None);
        assert_eq!(ask(3, &three, 3, &[3]), None, "the dead one may go");
        let objection = ask(3, &three, 2, &[3]).unwrap();
        assert_eq!(
            objection.refusal.message,
            "without director d2 there is no quorum in the control group and 1 more groups: of its 3 \
             voters (d1, d2, d3) 2 must be reachable; reachable now: 2 (down: d3), after the removal: 1"
        );
        assert!(objection.refusal.hint.contains("remove d3 with --force"), "{objection:?}");
        assert!(!objection.forcible);
        // A voter that was removed a moment ago, but votes still, is nobody to count on.
        assert!(ask(3, &[control(&[1, 0, 3])], 3, &[]).is_some());
        // Both halves of a joint configuration count.
        let halves = [vec![Some(DirectorId(1))], vec![Some(DirectorId(2))]];
        let joint = GroupVoters { halves: halves.to_vec(), ..control(&[]) };
        assert!(ask(3, std::slice::from_ref(&joint), 1, &[]).is_some());
        assert!(ask(3, std::slice::from_ref(&joint), 2, &[]).is_some());
        assert_eq!(ask(3, &[joint], 3, &[]), None);
    }

    #[test]
    fn a_session_group_that_is_lost_already_can_be_given_up_with_force() {
        let groups = [control(&[1, 4, 5]), group("shard 0", &[1, 2, 3])];
        let objection = ask(5, &groups, 2, &[2, 3]).unwrap();
        assert!(objection.forcible && objection.refusal.hint.contains("formed anew"));
        // But not by the removal of one that still has it.
        assert!(!ask(5, &groups, 1, &[2, 3]).unwrap().forcible);
    }
}
