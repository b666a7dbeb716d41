//! Whether the cluster has come to rest: pure.

use holdfast_schema::admin::{BackendStatus, NodeStatus, PlannedStatus, RaftGroupStatus};
use holdfast_schema::cluster::MemberState;

/// How many voters a group of this many directors shall have: the largest odd number up to
/// min(directors, 5).
pub fn voters_wanted(directors: usize) -> usize {
    let most = directors.min(5);
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}

/// What has not come to rest; empty: all has.
pub fn unsettled(
    nodes: &[NodeStatus],
    announces: impl Fn(&NodeStatus) -> bool,
    caught_up: impl Fn(&NodeStatus) -> bool,
    groups: &[RaftGroupStatus],
    planned: &[PlannedStatus],
    backends: &[BackendStatus],
) -> Vec<String> {
    let mut why = Vec::new();
    for node in nodes {
        let name = &node.name;
        if !node.up {
            why.push(format!("{name} is down"));
            continue;
        }
        match node.state {
            MemberState::Joining => why.push(format!("{name} is joining")),
            MemberState::Draining => why.push(format!("{name} is draining")),
            MemberState::Active if node.ready != Some(true) => {
                why.push(format!("{name} is not ready"))
            }
            MemberState::Active
                if announces(node) && node.announcement.as_deref() != Some("announced") =>
            {
                let what = node.announcement.as_deref().unwrap_or("unknown");
                why.push(format!("{name}: its announcement is {what}"));
            }
            MemberState::Active | MemberState::Drained => {}
        }
        if !caught_up(node) {
            why.push(format!("{name} has not caught up"));
        }
    }
    // A drained director is a voter as the last resort only.
    let serving = nodes.iter().filter(|n| n.up && n.state != MemberState::Drained).count();
    for group in groups {
        if group.leader.is_none() {
            why.push(format!("{} has no leader", group.name));
        }
        let (least, most) = (voters_wanted(serving), voters_wanted(nodes.len()));
        let voters = group.voters.len();
        if voters < least || voters > most || voters.is_multiple_of(2) {
            why.push(format!("{} has {voters} voters instead of {least}", group.name));
        }
        let missing = nodes
            .iter()
            .filter(|n| !group.voters.contains(&n.name) && !group.learners.contains(&n.name))
            .count();
        if missing > 0 {
            why.push(format!("{} lacks {missing} replicas", group.name));
        }
        for voter in &group.voters {
            if nodes.iter().any(|n| n.name == *voter && !n.up) {
                why.push(format!("{}: voter {voter} is down", group.name));
            }
        }
    }
    for change in planned {
        why.push(format!("a planned change of {} is under way", change.director));
    }
    let unjudged = backends.iter().filter(|b| b.healthy.is_none()).count();
    if unjudged > 0 {
        why.push(format!("{unjudged} backends have not been judged yet"));
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeStatus {
        NodeStatus {
            id: 1,
            name: name.to_owned(),
            address: "192.0.2.1:1".parse().unwrap(),
            state: MemberState::Active,
            up: true,
            ready: Some(true),
            announcement: Some("announced".to_owned()),
            incarnation: 1,
            lips: Vec::new(),
            sessions: Some(0),
            votes: 1,
        }
    }

    fn group(voters: &[&str], learners: &[&str]) -> RaftGroupStatus {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        RaftGroupStatus {
            name: "shard-0".to_owned(),
            leader: Some("a".to_owned()),
            term: 1,
            committed: 1,
            applied: 1,
            voters: names(voters),
            learners: names(learners),
            sessions: 0,
        }
    }

    fn check(nodes: &[NodeStatus], groups: &[RaftGroupStatus]) -> Vec<String> {
        unsettled(nodes, |_| true, |_| true, groups, &[], &[])
    }

    #[test]
    fn the_usual_sizes() {
        let wanted: Vec<usize> = (0..8).map(voters_wanted).collect();
        assert_eq!(wanted, [0, 1, 1, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn all_well() {
        let three = [node("a"), node("b"), node("c")];
        assert_eq!(check(&three, &[group(&["a", "b", "c"], &[])]), Vec::<String>::new());
        assert_eq!(check(&three[..2], &[group(&["a"], &["b"])]), Vec::<String>::new());
        let mut four = [node("a"), node("b"), node("c"), node("d")];
        assert_eq!(check(&four, &[group(&["a", "b", "c"], &["d"])]), Vec::<String>::new());
        four[3].state = MemberState::Drained;
        four[3].ready = Some(false);
        four[3].announcement = Some("withdrawn".to_owned());
        assert_eq!(check(&four, &[group(&["a", "b", "c"], &["d"])]), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_is_named() {
        let mut nodes = [node("a"), node("b"), node("c")];
        let whole = [group(&["a", "b", "c"], &[])];
        nodes[1].up = false;
        assert_eq!(check(&nodes, &whole)[0], "b is down");
        nodes[1].up = true;
        nodes[1].announcement = Some("worse".to_owned());
        assert_eq!(check(&nodes, &whole), ["b: its announcement is worse"]);
        nodes[1].announcement = Some("announced".to_owned());
        nodes[1].ready = None;
        assert_eq!(check(&nodes, &whole), ["b is not ready"]);
        nodes[1].ready = Some(true);
        assert_eq!(
            check(&nodes, &[group(&["a"], &["b", "c"])]),
            ["shard-0 has 1 voters instead of 3"]
        );
        assert_eq!(check(&nodes[..2], &[group(&["a"], &[])]), ["shard-0 lacks 1 replicas"]);
    }
}
