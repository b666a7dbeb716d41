//! What each fault is, and what it may cost: nothing, a stated share, or what could not live, and why.

use super::report::{Age, AgeReport};
use super::steps::StepName;

/// What a fault may cost connections of one age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Nothing.
    Nothing,
    /// At most so many of a thousand that changed director; the others nothing.
    AtMost(u64),
    /// It is shown and not judged, and this is why: they could not live.
    Excused(&'static str),
}

/// What is shown of them does not matter to the verdict before the directors keep young sessions.
const ON_ITS_WAY: &str = "what is known of them may still be on its way to the other directors";

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
        StepName::RollingRestart => "every daemon in turn is told to end and started again at once",
        StepName::KillWithLeader => {
            "kill -9 of two daemons at the same moment; the second leads more shards than any other"
        }
        StepName::KillAll => {
            "kill -9 of all daemons at the same moment; they are started again at once"
        }
        StepName::FreezeFollower => {
            "SIGSTOP for 30 s of a daemon that does not lead the control group: it is declared down, \
             loses its votes, and wakes up into another term"
        }
        StepName::OneWay => {
            "for 12 s one director's packets do not reach another one, who can still reach the first"
        }
        StepName::CutOff => {
            "for 12 s a director and all its peers do not hear each other; clients and backends still \
             reach it"
        }
        StepName::Reshuffle => {
            "a backend is taken out of all groups, and while it drains, the router hashes by other fields"
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
        StepName::DiskStall => "for 12 s whoever writes to a director's disk waits (fsfreeze)",
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
        (StepName::KillAll, _) => Rule::Excused(
            "until the store has them, sessions are in the memory of daemons only, and no daemon lives on",
        ),
        (StepName::CutOff, Age::Newborn | Age::Later) => Rule::Excused(
            "what began at a director that nobody hears is known to it alone; when the router leaves it, \
             nobody can ask it",
        ),
        (StepName::BlockedLinks, _) => Rule::Excused(
            "directors that hear nobody say so to the router one after another, which moves paths to others; \
             and nobody can ask who knows the session",
        ),
        (_, Age::Newborn | Age::Later) => Rule::Excused(ON_ITS_WAY),
        (StepName::KillWithLeader, Age::Young) => Rule::AtMost(2),
        (_, Age::Young) => Rule::AtMost(1),
    }
}

impl Rule {
    /// For people.
    pub fn text(self) -> String {
        match self {
            Rule::Nothing => "none may be lost".into(),
            Rule::AtMost(per_mille) => {
                format!(
                    "of those that changed director at most {per_mille} in 1000 may be lost, of others none"
                )
            }
            Rule::Excused(why) => format!("shown, not judged: {why}"),
        }
    }

    /// How many more were lost than may be.
    pub fn excess(self, cohort: &AgeReport) -> u64 {
        match self {
            Rule::Nothing => cohort.lost,
            Rule::AtMost(per_mille) => {
                let stayed_lost = cohort.lost - cohort.moved_lost;
                let allowed = cohort.moved * per_mille / 1000;
                stayed_lost + cohort.moved_lost.saturating_sub(allowed)
            }
            Rule::Excused(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cohort(moved: u64, moved_lost: u64, lost: u64) -> AgeReport {
        let none = AgeReport::new(Age::Young, String::new());
        AgeReport { eligible: 2 * moved, moved, moved_lost, lost, ..none }
    }

    #[test]
    fn a_share_is_of_those_that_changed_director() {
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 1, 1)), 0);
        assert_eq!(Rule::AtMost(1).excess(&cohort(999, 1, 1)), 1, "a share is not rounded up");
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 2, 2)), 1);
        assert_eq!(Rule::AtMost(1).excess(&cohort(1_000, 0, 1)), 1, "it stayed, and was lost");
        assert_eq!(Rule::Nothing.excess(&cohort(1_000, 1, 1)), 1);
        assert_eq!(Rule::Excused("").excess(&cohort(1_000, 9, 9)), 0);
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
