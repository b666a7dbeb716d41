//! Whether the other directors could take the traffic of one that gives it away.
//!
//! The control log knows what operators want; whether a director really announces is known to itself
//! only, and it tells so in its summaries.

use std::sync::Arc;

use holdfast_schema::cluster::{ClusterState, DirectorId, MemberState};

use crate::node::Node;
use crate::peers::Summary;

/// Another director, as this one knows it.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// What operators want of it.
    pub state: MemberState,
    /// Whether it is heard of, and not declared down.
    pub up: bool,
    /// Its own latest words, if they are fresh.
    pub summary: Option<Arc<Summary>>,
}

impl Other {
    /// Why it cannot serve; none: it can.
    fn obstacle(&self) -> Option<String> {
        let name = &self.name;
        if !self.up {
            return Some(format!("{name} is down"));
        }
        match self.state {
            MemberState::Active => {}
            MemberState::Joining => return Some(format!("{name} is joining")),
            MemberState::Draining => return Some(format!("{name} is draining")),
            MemberState::Drained => return Some(format!("{name} is drained")),
        }
        match &self.summary {
            None => Some(format!("{name} has not been heard of for a while")),
            Some(summary) => summary.obstacle().map(|why| format!("{name}: {why}")),
        }
    }
}

/// All directors but one.
pub fn all_but(node: &Node, cluster: &ClusterState, one: DirectorId) -> Vec<Other> {
    let peers = node.store.peers();
    let others = cluster.members.values().filter(|m| m.id != one);
    others
        .map(|m| Other {
            name: m.name.clone(),
            state: m.state,
            up: !m.down && peers.iter().find(|p| p.id == m.id).is_none_or(|p| p.up),
            summary: match node.me() == Some(m.id) {
                true => Some(Arc::new(crate::summary::own(node))),
                false => node.summaries.get(m.id),
            },
        })
        .collect()
}

/// Whether one of them could serve at least; why none can, if none can.
pub fn serve(others: &[Other]) -> Result<(), String> {
    let obstacles: Vec<Option<String>> = others.iter().map(Other::obstacle).collect();
    if obstacles.iter().any(Option::is_none) {
        return Ok(());
    }
    let why: Vec<String> = obstacles.into_iter().flatten().collect();
    Err(if why.is_empty() { "there are no others".to_owned() } else { why.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str) -> Other {
        let summary = Summary {
            ready: true,
            announces: true,
            announcement: Some("announced".to_owned()),
            ..Summary::default()
        };
        Other {
            name: name.to_owned(),
            state: MemberState::Active,
            up: true,
            summary: Some(Arc::new(summary)),
        }
    }

    fn saying(change: impl FnOnce(&mut Summary)) -> Other {
        let mut other = other("d2");
        if let Some(summary) = &mut other.summary {
            change(Arc::make_mut(summary));
        }
        other
    }

    #[test]
    fn one_that_serves_is_enough() {
        let down = Other { up: false, ..other("d2") };
        assert_eq!(serve(&[down.clone(), other("d3")]), Ok(()));
        assert_eq!(serve(&[]), Err("there are no others".to_owned()));
        let silent = Other { summary: None, ..other("d3") };
        let why = "d2 is down; d3 has not been heard of for a while".to_owned();
        assert_eq!(serve(&[down, silent]), Err(why));
    }

    #[test]
    fn being_active_is_not_enough() {
        let not_ready = saying(|s| {
            s.ready = false;
            s.not_ready = vec!["the rule is missing".to_owned()];
        });
        for (other, why) in [
            (Other { state: MemberState::Joining, ..other("d2") }, "d2 is joining"),
            (Other { state: MemberState::Draining, ..other("d2") }, "d2 is draining"),
            (Other { state: MemberState::Drained, ..other("d2") }, "d2 is drained"),
            (not_ready, "d2: not ready (the rule is missing)"),
            (saying(|s| s.announcement = None), "d2: what its BIRD announces is unknown"),
            (
                saying(|s| {
                    s.announcement = None;
                    s.announces = false;
                }),
                "d2: it announces nothing (no `[announce]` in its node file)",
            ),
            (
                saying(|s| s.announcement = Some("withdrawn".to_owned())),
                "d2: its announcement is withdrawn",
            ),
            (
                saying(|s| s.announcement = Some("worse".to_owned())),
                "d2: its announcement is worse",
            ),
        ] {
            assert_eq!(serve(&[other]), Err(why.to_owned()));
        }
    }
}
