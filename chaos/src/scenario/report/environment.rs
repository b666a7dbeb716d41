//! Where and how a run was made.

use serde::{Deserialize, Serialize};

/// Where and how a run was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// The commit that was built; `unknown` if nobody told.
    pub commit: String,
    /// The command that repeats the run, in a checkout of that commit.
    pub command: String,
    /// When it began (Unix time, ms).
    pub began_unix_ms: i64,
    /// Name, release and architecture of the kernel.
    pub kernel: String,
    /// Model of the processors.
    pub processor: String,
    /// How many of them this program may use.
    pub cores: u64,
    /// Memory (MiB).
    pub memory_mib: u64,
    /// How many processes wanted to run in the minute before it began (hundredths).
    pub load_before: u64,
    /// The same when it ended.
    pub load_after: u64,
    /// How many directors there were when it began.
    pub directors: u64,
    /// How many backends.
    pub backends: u64,
    /// How many clients.
    pub clients: u64,
    /// `replicate-after` of the listeners.
    pub replicate_after: String,
    /// `guard-timeout` of the directors (ms).
    pub guard_timeout_ms: u64,
}
