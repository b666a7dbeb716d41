//! What each fault is, and what it may cost: nothing, a stated share, or what could not live, and why.

use super::report::{Age, AgeReport};
use super::steps::StepName;

/// What a fault may cost connections of one age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Nothing.
    Nothing,
    /// At most so many of a thousand that changed director, and none by a reset; the others nothing.
    AtMost(u64),
    /// Those that could not live, and nothing else.
    Excused(Excuse),
}

/// Why connections could not live, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Excuse {
    /// The reason.
    pub why: &'static str,
    /// It holds for all, and not only for those that a director had that was hit, or may have had.
    pub all: bool,
    /// It holds for a reset, too. Elsewhere nobody may say no for a director that cannot be asked.
    pub reset: bool,
}

/// What is known of a connection that was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Whether it changed director; none: nobody had asked the router by then which one it had.
    pub moved: Option<bool>,
    /// Whether a director that was hit had it, or may have had it.
    pub maybe_hit: bool,
    /// Whether it was reset, and had not been silent for too long before.
    pub reset: bool,
}

/// The newest ones of a director that goes.
const ON_ITS_WAY: Rule = Rule::Excused(Excuse {
    why: "what is known of them may still be on its way to the other directors",
    all: false,
    reset: false,
});

/// What a fault does.
pub fn what(step: StepName) -> &'static str {
    match step {
        StepName::AddNode => "a director joins with a one-time token",
        StepName::DrainNode => "a director gives its traffic away and is drained",
        StepName::UndrainNode => "it comes back",
        StepName::KillDaemon => "kill -9 of a director's daemon",
        StepName::HangDaemon => "SIGSTOP of a daemon for 10 s",
        StepName::LoseMachine => "no frame in or out, everything on the machine stopped",
        StepName::AddThree => "three directors join at the same moment",
        StepName::DrainTwo => {
            "two directors are told to drain at the same moment, and then to come back"
        }
        StepName::RollingRestart => {
            "every director in turn, without a pause: drained, its daemon told to end and started again at \
             once, undrained"
        }
        StepName::EndDaemon => "SIGTERM of a daemon whose director nobody has drained",
        StepName::KillWithLeader => {
            "kill -9 of two daemons at the same moment; the second leads more shards than any other"
        }
        StepName::KillAll => {
            "kill -9 of all daemons at the same moment; they are started again at once"
        }
        StepName::FreezeFollower => {
            "SIGSTOP for 30 s of a daemon that does not lead the control group, of those one that leads most \
             session groups: it is declared down, and others lead what it led"
        }
        StepName::OneWay => {
            "for 12 s one director's packets do not reach another one, who can still reach the first"
        }
        StepName::CutOff => {
            "for 12 s a director and all its peers do not hear each other; clients and backends still \
             reach it"
        }
        StepName::Reshuffle => {
            "of two backends one is drained and comes back, one is drained and removed when its last \
             connection has ended; meanwhile the router hashes by other fields"
        }
        StepName::BadLinks => {
            "for 12 s what directors send to each other is 2 to 8 ms late, out of order, and one datagram in \
             ten is lost; the router hashes by other fields meanwhile"
        }
        StepName::BlockedLinks => {
            "for 12 s no director hears any other; clients and backends reach all"
        }
        StepName::ClockJump => {
            "the wall clocks of two directors jump, one 5 min back and one 7 min ahead, and the first is \
             drained and restarted with it (a library in front of the daemons' own: the machine's clock is \
             everybody's)"
        }
        StepName::DiskStall => {
            "for 12 s whoever writes to a director's disk waits (fsfreeze); the router hashes by other fields \
             meanwhile"
        }
        StepName::DiskFull => "for 12 s there is no free byte on a director's disk",
    }
}

/// What a step may cost connections of an age.
pub fn rule(step: StepName, age: Age) -> Rule {
    match (step, age) {
        // Nobody fails, so nobody's knowledge is lost.
        (_, _) if step.is_planned() => Rule::Nothing,
        (
            StepName::OneWay
            | StepName::Reshuffle
            | StepName::BadLinks
            | StepName::ClockJump
            | StepName::DiskStall,
            _,
        ) => Rule::Nothing,
        (_, Age::Long) => Rule::Nothing,
        // All that know of a session are gone, so those that come deny it with good reason.
        (StepName::KillAll, _) => Rule::Excused(Excuse {
            why: "until the store has them, sessions are in the memory of daemons only, and no daemon lives on",
            all: false,
            reset: true,
        }),
        (StepName::CutOff, Age::Newborn | Age::Later) => Rule::Excused(Excuse {
            why: "what began at a director that nobody hears is known to it alone; when the router leaves it, \
                  nobody can ask it",
            all: false,
            reset: false,
        }),
        // Who was sent elsewhere is known of what clients send only: answers come by the LIPs, whose routes move,
        // too.
        (StepName::BlockedLinks, _) => Rule::Excused(Excuse {
            why: "directors that hear nobody say so to the router one after another, which moves paths to \
                  others; and nobody can ask who knows the session",
            all: true,
            reset: false,
        }),
        (_, Age::Newborn | Age::Later) => ON_ITS_WAY,
        (StepName::KillWithLeader, Age::Young) => Rule::AtMost(2),
        (_, Age::Young) => Rule::AtMost(1),
    }
}

/// For whom a fault makes it unavoidable that a connection cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody: some director serves all the time, and whoever is asked lives.
    Never,
    /// Those that a director may have had that was hit, and that were begun before the router had left it.
    UntilLeft,
    /// Those that were begun before all was repaired: no director serves.
    UntilRepaired,
}

/// Who may be refused in a step.
pub fn refusal(step: StepName) -> Refusal {
    match step {
        StepName::KillAll => Refusal::UntilRepaired,
        StepName::DiskFull => Refusal::UntilLeft,
        _ if step.is_crash() => Refusal::UntilLeft,
        _ => Refusal::Never,
    }
}

impl Refusal {
    /// For people.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::Never => "some director serves all the time",
            Refusal::UntilLeft => "the router still sent them to a director that was gone",
            Refusal::UntilRepaired => "no director served",
        }
    }
}

impl Rule {
    /// For people.
    pub fn text(self) -> String {
        match self {
            Rule::Nothing => "none may be lost".into(),
            Rule::AtMost(per_mille) => {
                format!(
                    "of those that changed director at most {per_mille} in 1000 may be lost, but none by a \
                     reset, of others none"
                )
            }
            Rule::Excused(Excuse { why, all: true, .. }) => {
                format!("any may be lost, but none by a reset: {why}")
            }
            Rule::Excused(Excuse { why, reset, .. }) => format!(
                "of those that a director had that was hit, or may have had, any may be lost{}, of others \
                 none: {why}",
                if reset { "" } else { ", but none by a reset" }
            ),
        }
    }

    /// Why it has room for losses. What has none today may have had some when a report was written.
    pub fn why(self) -> String {
        match self {
            Rule::Nothing => "by the rules of then".into(),
            Rule::AtMost(per_mille) => {
                format!("at most {per_mille} in 1000 of those that changed director")
            }
            Rule::Excused(excuse) => excuse.why.into(),
        }
    }

    /// Whether it has room for such a loss.
    pub fn spares(self, loss: Loss) -> bool {
        match self {
            Rule::Nothing => false,
            Rule::AtMost(_) => loss.moved != Some(false) && !loss.reset,
            Rule::Excused(excuse) => {
                (excuse.all || loss.maybe_hit) && (excuse.reset || !loss.reset)
            }
        }
    }

    /// How many more were lost than may be.
    pub fn excess(self, cohort: &AgeReport) -> u64 {
        let allowed = match self {
            Rule::Nothing => 0,
            Rule::AtMost(per_mille) => cohort.moved * per_mille / 1000,
            Rule::Excused(_) => u64::MAX,
        };
        let spared = cohort.lost.saturating_sub(cohort.not_spared);
        cohort.not_spared + spared.saturating_sub(allowed)
    }
}

/// How many are held against a run: what its report says, else what the rule says.
pub fn excess(step: StepName, cohort: &AgeReport) -> u64 {
    cohort.excess.unwrap_or_else(|| rule(step, cohort.age).excess(cohort))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cohort(moved: u64, moved_lost: u64, lost: u64) -> AgeReport {
        let none = AgeReport::new(Age::Young, String::new());
        let not_spared = lost - moved_lost;
        AgeReport { eligible: 2 * moved, moved, moved_lost, lost, not_spared, ..none }
    }

    #[test]
    fn a_share_is_of_those_that_changed_director() {
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 1, 1)), 0);
        assert_eq!(Rule::AtMost(1).excess(&cohort(999, 1, 1)), 1, "a share is not rounded up");
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 2, 2)), 1);
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 0, 1)), 1, "it stayed, and was lost");
        assert_eq!(Rule::Nothing.excess(&cohort(1_000, 1, 1)), 1);
        assert_eq!(ON_ITS_WAY.excess(&cohort(1_000, 9, 9)), 0);
        assert_eq!(ON_ITS_WAY.excess(&cohort(1_000, 9, 12)), 3, "what it does not excuse");
    }

    #[test]
    fn an_excuse_is_for_those_that_could_not_live() {
        let loss = |maybe_hit, reset| Loss { moved: None, maybe_hit, reset };
        let spared = |step, age| {
            [(true, false), (true, true), (false, false), (false, true)]
                .map(|(hit, reset)| rule(step, age).spares(loss(hit, reset)))
        };
        for step in [StepName::KillDaemon, StepName::HangDaemon, StepName::LoseMachine] {
            assert_eq!(spared(step, Age::Newborn), [true, false, false, false]);
            assert_eq!(spared(step, Age::Later), [true, false, false, false]);
        }
        assert_eq!(spared(StepName::CutOff, Age::Later), [true, false, false, false]);
        assert_eq!(spared(StepName::BlockedLinks, Age::Later), [true, false, true, false]);
        assert_eq!(spared(StepName::KillAll, Age::Young), [true, true, false, false]);
        assert_eq!(spared(StepName::Reshuffle, Age::Newborn), [false; 4]);
        let share = |moved, reset| Rule::AtMost(1).spares(Loss { moved, maybe_hit: true, reset });
        let all = [Some(true), None, Some(false)];
        assert_eq!(all.map(|moved| share(moved, false)), [true, true, false]);
        assert_eq!(all.map(|moved| share(moved, true)), [false; 3], "no share covers a reset");
    }

    #[test]
    fn the_words_say_what_is_excused() {
        let text = |step, age| rule(step, age).text();
        let share = text(StepName::KillDaemon, Age::Young);
        assert!(
            share.contains("at most 1 in 1000 may be lost, but none by a reset, of"),
            "{share}"
        );
        let crash = text(StepName::KillDaemon, Age::Later);
        assert!(
            crash.contains("may be lost, but none by a reset, of others none: what"),
            "{crash}"
        );
        let all = text(StepName::KillAll, Age::Young);
        assert!(all.contains("any may be lost, of others none: until"), "{all}");
        let blocked = text(StepName::BlockedLinks, Age::Young);
        assert!(blocked.starts_with("any may be lost, but none by a reset: "), "{blocked}");
    }

    #[test]
    fn long_ones_are_never_excused_and_planned_changes_never_excuse() {
        use clap::ValueEnum;
        for step in StepName::value_variants() {
            assert_eq!(rule(*step, Age::Long), Rule::Nothing, "{}", step.name());
            for age in Age::ALL.into_iter().filter(|_| step.is_planned()) {
                assert_eq!(rule(*step, age), Rule::Nothing, "{}", step.name());
            }
        }
    }
}
