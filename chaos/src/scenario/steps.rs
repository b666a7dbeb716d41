//! The steps of the scenario.

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
