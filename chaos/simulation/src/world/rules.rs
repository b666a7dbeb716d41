//! The rules that are always true, and what broke one.

use std::fmt;

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
