//! What went on at which time. All times are milliseconds since the run began.

use serde::{Deserialize, Serialize};

/// The time line of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// When the first interval of `alive` and `stalls` begins.
    pub from_ms: u64,
    /// How long an interval is; long runs have longer ones.
    pub every_ms: u64,
    /// Connections alive at the end of each interval, by kind.
    pub alive: Vec<Alive>,
    /// How long connections were overdue in each interval.
    pub stalls: StallSeries,
    /// What was done to the cluster.
    pub faults: Vec<Fault>,
    /// The directors, each in its own words.
    pub directors: Vec<Lane>,
    /// How busy the machine was.
    pub busy: Busy,
}

/// Connections of one kind, and how many were alive at the end of each interval.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Alive {
    /// The kind.
    pub cohort: String,
    /// One number an interval.
    pub count: Vec<u32>,
}

/// How long connections were overdue, at most, within each interval: a stall that lasts for several
/// shows in each of them with what it had come to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StallSeries {
    /// 99 of 100 connections that were alive were overdue no longer (ms).
    pub p99_ms: Vec<u32>,
    /// The longest (ms).
    pub max_ms: Vec<u32>,
}

/// Something that was done to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fault {
    /// The step.
    pub kind: String,
    /// Whom it concerned.
    pub target: String,
    /// When it began.
    pub begin_ms: u64,
    /// When it had taken effect.
    pub done_ms: u64,
    /// When everything was restored and settled.
    pub end_ms: u64,
}

/// A director through the run: what it said of itself whenever that had changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Each change, in order.
    pub changes: Vec<Change>,
    /// Changes beyond what is kept of one director.
    pub unrecorded: u64,
}

/// What a director said from this time on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Change {
    /// Since when.
    pub at_ms: u64,
    /// What it said; none: it did not answer.
    pub said: Option<Said>,
}

/// What a director says of itself and of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Said {
    /// What operators want of it: `joining`, `active`, `draining`, `drained`.
    pub state: Option<String>,
    /// Whether it is ready to attract traffic.
    pub ready: bool,
    /// What BIRD shows of its VIPs: `announced`, `worse`, `withdrawn`.
    pub announcement: Option<String>,
    /// Who leads the control group.
    pub leader: Option<String>,
    /// The control group's term.
    pub term: Option<u64>,
    /// How many of the session groups it leads itself.
    pub shards_led: u32,
    /// The sum of the session groups' terms: it grows with every election.
    pub shard_terms: u64,
    /// Configuration revision of the tables that it forwards by.
    pub revision: Option<u64>,
    /// Health version of these tables.
    pub health_version: Option<u64>,
    /// Hash of these tables.
    pub table_hash: Option<u64>,
    /// Planned changes under way: `drain d1`.
    pub planned: Vec<String>,
}

/// How busy the machine was.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Busy {
    /// When the first interval begins.
    pub from_ms: u64,
    /// How long an interval is.
    pub every_ms: u64,
    /// Share of all processors' time that was not idle (%), one number an interval.
    pub percent: Vec<u8>,
}
