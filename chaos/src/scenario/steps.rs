//! The steps of the scenario, their names and bounds.

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
