//! The rules that are always true, and what broke one.

use std::fmt;

use super::World;
use super::trace::FlowId;
use crate::director::Director;

/// A rule of the design, by its number there where it has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// Rule 1.
    OneBackend,
    /// Rule 2.
    SameTables,
    /// Rule 3.
    Acknowledged,
    /// Rule 5.
    WithoutLeader,
    /// Rule 6.
    Counted,
    /// Rule 7.
    Ready,
    /// Rule 11.
    NoReset,
    /// The guarantee of tier 2: a session past `replicate-after` is in the store.
    Long,
    /// The courtesy of tier 1: young sessions have homes.
    Young,
    /// After all clients have left, nothing remains.
    Conservation,
    /// When faults have healed, everything converges.
    Liveness,
    /// A program that stops itself breaks all of them.
    NoPanic,
}

/// What Raft says of itself when entries that were committed are not there, or others are in their place: a
/// leader speaks of what a replica has acknowledged, and it does not have it any more.
const LOST_ENTRIES: [&str; 2] = ["to_commit ", "conflict with committed entry"];

impl Rule {
    /// The rule that a part of the program found broken when it panicked with these words. Stopping itself
    /// breaks rule 4; but what Raft stops for is that acknowledged entries are lost.
    pub fn of_panic(words: &str) -> Rule {
        match LOST_ENTRIES.iter().any(|lost| words.contains(lost)) {
            true => Rule::Acknowledged,
            false => Rule::NoPanic,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::OneBackend => "rule 1: a session's packets go to the backend it began with",
            Rule::SameTables => "rule 2: same revision and health version, same tables",
            Rule::Acknowledged => "rule 3: an acknowledged session survives a minority",
            Rule::WithoutLeader => "rule 5: forwarding does not depend on a leader",
            Rule::Counted => "rule 6: a dropped packet is counted under exactly one reason",
            Rule::Ready => "rule 7: a director that is not ready does not attract traffic",
            Rule::NoReset => "rule 11: a living connection is never reset",
            Rule::Long => "tier 2: a long session survives its director",
            Rule::Young => "tier 1: a young session survives its director",
            Rule::Conservation => "conservation: nothing remains of clients that have left",
            Rule::Liveness => "liveness: when faults have healed, everything converges",
            Rule::NoPanic => "rule 4: it never panics",
        })
    }
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When (us).
    pub at_us: u64,
    /// Which one.
    pub rule: Rule,
    /// How.
    pub what: String,
    /// The client socket concerned, as a number.
    pub flow: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s: {}: {}", self.at_us as f64 / 1e6, self.rule, self.what)
    }
}

impl World {
    /// A rule is broken.
    pub(super) fn violate(&mut self, rule: Rule, what: String, flow: Option<FlowId>) {
        let at_us = self.queue.now_us();
        self.violations.push(Violation { at_us, rule, what, flow });
    }

    /// What was going on when a part of the program panicked: that breaks a rule as well. The flow is the
    /// one that something happened to last.
    pub fn panicked(&mut self, what: String) {
        let lost = |d: &Director| d.disks.identity.borrow().forgot;
        let forgetful: Vec<u32> = self.directors.iter().filter(|d| lost(d)).map(|d| d.id).collect();
        let rule = Rule::of_panic(&what);
        let what = match rule == Rule::Acknowledged && !forgetful.is_empty() {
            true => format!(
                "acknowledged entries are lost (directors {forgetful:?} have lost their sessions and kept their \
                 replica numbers): {what}"
            ),
            false => what,
        };
        self.violate(rule, what, self.trace.latest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_lacks_what_it_acknowledged_breaks_rule_3() {
        let lost = "to_commit 37 is out of range [last_index 0], raft_id: 3, group: shard-0";
        assert_eq!(Rule::of_panic(lost), Rule::Acknowledged);
        let other = "entry 7 conflict with committed entry";
        assert_eq!(Rule::of_panic(other), Rule::Acknowledged);
        assert_eq!(Rule::of_panic("index out of bounds"), Rule::NoPanic);
    }
}
