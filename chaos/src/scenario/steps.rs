//! The steps of the scenario, their names and bounds.

use anyhow::{Result, ensure};
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
}

/// Whether the steps can be done in this order on so many directors.
pub fn check(steps: &[StepName], directors: usize) -> Result<()> {
    let (mut directors, mut drained) = (directors, false);
    for (index, step) in steps.iter().enumerate() {
        let name = step.name();
        match step {
            StepName::AddNode => directors += 1,
            StepName::UndrainNode => drained = false,
            StepName::DrainNode => {
                ensure!(
                    !drained,
                    "--steps: one director can be drained at a time, step {} ({name}) \
                    would be the second: put undrain-node in between",
                    index + 1
                );
                ensure!(
                    directors > 1,
                    "--steps: the last director cannot be drained: \
                    use --directors 2 or more"
                );
                drained = true;
            }
            StepName::KillDaemon | StepName::HangDaemon | StepName::LoseMachine => {
                ensure!(
                    directors > usize::from(drained),
                    "--steps: at step {} ({name}) the only \
                    director is drained: use --directors 2 or more, or put undrain-node before it",
                    index + 1
                );
            }
        }
    }
    Ok(())
}

impl StepName {
    /// All steps in the order of the demo.
    pub const ALL: [StepName; 6] = [
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
        }
    }

    /// Whether an operator asks for it, so that it may cost nothing at all.
    pub fn is_planned(self) -> bool {
        matches!(self, StepName::AddNode | StepName::DrainNode | StepName::UndrainNode)
    }

    /// The aim for the 99th percentile of stalls (ms). Shown, not judged.
    pub fn stall_bound_ms(self) -> u64 {
        match self {
            StepName::KillDaemon => 800,
            StepName::HangDaemon => 1_000,
            StepName::LoseMachine => 1_600,
            _ => 300,
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
    use StepName::{AddNode, DrainNode, KillDaemon, UndrainNode};

    #[test]
    fn steps_that_cannot_be_done_are_refused_before_anything_is_raised() {
        assert!(check(&StepName::ALL, 1).is_ok(), "the first step brings a second director");
        assert!(check(&[KillDaemon], 1).is_ok());
        for (steps, directors, word) in [
            (&[DrainNode, KillDaemon][..], 1, "--directors 2"),
            (&[DrainNode, DrainNode], 3, "undrain-node in between"),
            (&[DrainNode, UndrainNode, DrainNode, AddNode, DrainNode], 3, "step 5"),
        ] {
            let text = check(steps, directors).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
