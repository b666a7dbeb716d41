//! The steps of the scenario: their names, and whether they can be done in some order.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What can be done to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StepName {
    /// A new director joins.
    AddNode,
    /// A director gives its traffic away.
    DrainNode,
    /// It comes back.
    UndrainNode,
    /// `kill -9` of a daemon.
    KillDaemon,
    /// SIGSTOP of a daemon for ten seconds.
    HangDaemon,
    /// No frame in or out although the link stays up, everything on it stopped.
    LoseMachine,
    /// Three directors join at once.
    AddThree,
    /// Two directors are drained at once, and come back.
    DrainTwo,
    /// Every daemon is restarted, one after another without a pause.
    RollingRestart,
    /// A daemon is told to end, and nobody drains its director before.
    EndDaemon,
    /// `kill -9` of two daemons, one of which leads more shards than any other.
    KillWithLeader,
    /// `kill -9` of every daemon at once.
    KillAll,
    /// SIGSTOP for 30 s of a daemon that does not lead the control group.
    FreezeFollower,
    /// One director does not hear another one any more, who hears it.
    OneWay,
    /// A director and its peers do not hear each other, while its traffic goes on.
    CutOff,
    /// The router's ECMP is reshuffled while one backend is drained and another one removed.
    Reshuffle,
    /// What directors say to each other is late, out of order, and lost now and then.
    BadLinks,
    /// No director hears any other.
    BlockedLinks,
    /// The wall clocks of two directors jump by minutes.
    ClockJump,
    /// A director's disk stands still.
    DiskStall,
    /// A director's disk is full.
    DiskFull,
}

/// Whether the steps can be done in this order on so many directors; `option` named them.
pub fn check(option: &str, steps: &[StepName], directors: usize) -> Result<()> {
    let (mut directors, mut drained) = (directors, false);
    for (index, step) in steps.iter().enumerate() {
        let (name, number) = (step.name(), index + 1);
        if *step == StepName::UndrainNode {
            ensure!(
                drained,
                "{option}: at step {number} ({name}) no director is drained: put drain-node before it"
            );
            drained = false;
        }
        if *step == StepName::DrainNode {
            ensure!(
                !drained,
                "{option}: one director can be drained at a time, step {number} ({name}) \
                 would be the second: put undrain-node in between"
            );
            ensure!(
                directors > 1,
                "{option}: the last director cannot be drained: use --directors 2 or more"
            );
            drained = true;
            continue;
        }
        let serving = directors - usize::from(drained);
        let needed = step.serving_needed();
        if serving < needed && drained {
            bail!(
                "{option}: at step {number} ({name}) too few directors are left while one is drained: \
                 use --directors {} or more, or put undrain-node before it",
                needed + 1
            );
        }
        ensure!(
            serving >= needed,
            "{option}: step {number} ({name}) needs {needed} directors: use --directors {needed} or more"
        );
        directors += step.newcomers();
    }
    Ok(())
}

impl StepName {
    /// The steps of the demo, in order.
    pub const DEMO: [StepName; 6] = [
        StepName::AddNode,
        StepName::DrainNode,
        StepName::UndrainNode,
        StepName::KillDaemon,
        StepName::HangDaemon,
        StepName::LoseMachine,
    ];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            StepName::AddNode => "add-node",
            StepName::DrainNode => "drain-node",
            StepName::UndrainNode => "undrain-node",
            StepName::KillDaemon => "kill-daemon",
            StepName::HangDaemon => "hang-daemon",
            StepName::LoseMachine => "lose-machine",
            StepName::AddThree => "add-three",
            StepName::DrainTwo => "drain-two",
            StepName::RollingRestart => "rolling-restart",
            StepName::EndDaemon => "end-daemon",
            StepName::KillWithLeader => "kill-with-leader",
            StepName::KillAll => "kill-all",
            StepName::FreezeFollower => "freeze-follower",
            StepName::OneWay => "one-way",
            StepName::CutOff => "cut-off",
            StepName::Reshuffle => "reshuffle",
            StepName::BadLinks => "bad-links",
            StepName::BlockedLinks => "blocked-links",
            StepName::ClockJump => "clock-jump",
            StepName::DiskStall => "disk-stall",
            StepName::DiskFull => "disk-full",
        }
    }

    /// Whether an operator asks for it, so that it may cost nothing at all.
    pub fn is_planned(self) -> bool {
        matches!(
            self,
            StepName::AddNode
                | StepName::DrainNode
                | StepName::UndrainNode
                | StepName::AddThree
                | StepName::DrainTwo
                | StepName::RollingRestart
                | StepName::EndDaemon
        )
    }

    /// Whether a director stops to forward, so that the router has to leave it.
    pub fn is_crash(self) -> bool {
        matches!(
            self,
            StepName::KillDaemon
                | StepName::HangDaemon
                | StepName::LoseMachine
                | StepName::KillWithLeader
                | StepName::KillAll
                | StepName::FreezeFollower
        )
    }

    /// Whether the daemons it is about have been started anew when it is over.
    pub fn restarts(self) -> bool {
        matches!(
            self,
            StepName::KillDaemon
                | StepName::LoseMachine
                | StepName::KillWithLeader
                | StepName::KillAll
                | StepName::RollingRestart
                | StepName::EndDaemon
        )
    }

    /// Whether it proves nothing unless connections change director.
    pub fn has_to_move(self) -> bool {
        self.is_crash()
            || matches!(
                self,
                StepName::EndDaemon
                    | StepName::CutOff
                    | StepName::Reshuffle
                    | StepName::BadLinks
                    | StepName::DiskStall
            )
    }

    /// How many directors it brings.
    pub fn newcomers(self) -> usize {
        match self {
            StepName::AddNode => 1,
            StepName::AddThree => 3,
            _ => 0,
        }
    }

    /// Whether it needs machines that only a lab of the matrix has.
    pub fn is_of_the_matrix(self) -> bool {
        matches!(self, StepName::ClockJump | StepName::DiskStall | StepName::DiskFull)
    }

    /// How many directors have to serve before it.
    fn serving_needed(self) -> usize {
        match self {
            // Someone has to be left for a majority.
            StepName::KillWithLeader => 5,
            StepName::DrainTwo => 3,
            StepName::OneWay
            | StepName::CutOff
            | StepName::Reshuffle
            | StepName::RollingRestart
            | StepName::EndDaemon => 2,
            StepName::FreezeFollower => 2,
            _ => 1,
        }
    }

    /// The aim for the 99th percentile of stalls (ms), where there is one. Shown, not judged.
    pub fn stall_bound_ms(self) -> Option<u64> {
        match self {
            StepName::KillDaemon => Some(800),
            StepName::HangDaemon => Some(1_000),
            StepName::LoseMachine => Some(1_600),
            _ if self.is_planned() => Some(300),
            _ => None,
        }
    }

    /// The aim for the time until the router has moved its routes (ms). Shown, not judged.
    pub fn routes_bound_ms(self) -> Option<u64> {
        match self {
            StepName::KillDaemon => Some(100),
            StepName::HangDaemon => Some(250),
            StepName::LoseMachine => Some(400),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StepName::{AddNode, AddThree, DrainNode, KillDaemon, KillWithLeader, UndrainNode};

    #[test]
    fn steps_that_cannot_be_done_are_refused_before_anything_is_raised() {
        let check = |steps: &[StepName], directors| check("--steps", steps, directors);
        assert!(check(&StepName::DEMO, 1).is_ok(), "the first step brings a second director");
        assert!(check(&[KillDaemon], 1).is_ok());
        assert!(check(&[AddThree, KillWithLeader], 2).is_ok());
        for (steps, directors, word) in [
            (&[DrainNode, KillDaemon][..], 1, "--directors 2"),
            (&[DrainNode, DrainNode], 3, "undrain-node in between"),
            (&[DrainNode, UndrainNode, DrainNode, AddNode, DrainNode], 3, "step 5"),
            (&[UndrainNode], 3, "put drain-node before it"),
            (&[KillWithLeader], 3, "needs 5 directors"),
            (&[DrainNode, KillWithLeader], 5, "put undrain-node before it"),
        ] {
            let text = check(steps, directors).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
