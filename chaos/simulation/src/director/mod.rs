//! A director: its machine, and the process on it that is made of the real cores.

pub mod announcer;
pub mod asking;
pub mod clock;
pub mod flush;
pub mod frame;
pub mod message;
pub mod packets;
pub mod process;
pub mod runs;
pub mod sessions;
pub mod share;
pub mod sink;
pub mod young;

use std::collections::BTreeMap;

use clock::Clock;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, SessionRecord};
use process::Process;
use runs::Runs;
use share::{Disks, Which};

/// A machine and its process.
pub struct Director {
    /// Its number, from 1 on.
    pub id: u32,
    /// Its clocks.
    pub clock: Clock,
    /// Its disks.
    pub disks: Disks,
    /// How long (us) a disk takes for a job, at the most.
    pub disk_us: u64,
    /// Its disk takes nothing more.
    pub disk_full: bool,
    /// So many faults have its disk do nothing now.
    pub disk_stalls: u32,
    /// Jobs that were due meanwhile, and of which life.
    pub disk_owes: Vec<(u32, Which)>,
    /// What its disk writes behind what has waited for it.
    pub disk_runs: Runs,
    /// The process that runs, if one does.
    pub process: Option<Box<Process>>,
    /// The process is stopped; since when (us).
    pub frozen_since: Option<u64>,
    /// Since when its process has not heard of a leader of every group (us).
    pub cut_since: Option<u64>,
    /// Since when its process has heard one, or had when it last did (us).
    pub hears_since: u64,
    /// When this process had heard one before (us): from when, until when.
    pub heard: Vec<(u64, u64)>,
    /// The guard has let go of the routes of the frozen process.
    pub released: bool,
    /// The machine is dead.
    pub dead: bool,
    /// Counts processes, so that what concerns an earlier one is recognised.
    pub life: u32,
    /// When (us) its earlier processes ended, by their incarnations.
    pub ended_us: BTreeMap<u64, u64>,
    /// Sessions that its earlier process had heard to be in the store: if none runs, they are on its disk.
    pub stored: Vec<(FlowKey, Incarnation)>,
    /// When its process started (us).
    pub started_us: u64,
    /// Since when (us) its process knows that its start is recorded.
    pub recorded_us: Option<u64>,
    /// When it looks at everything next.
    pub turn_us: u64,
}

impl Director {
    /// Whether something runs here.
    pub fn runs(&self) -> bool {
        self.process.is_some() && self.frozen_since.is_none() && !self.dead
    }

    /// Since when (us) it does not run, if it does not.
    pub fn gone_since(&self) -> u64 {
        let ended_us = self.ended_us.values().max().copied().unwrap_or(0);
        self.frozen_since.unwrap_or(ended_us)
    }

    /// Whether no process runs here, and the one before has left this session on the disk.
    pub fn has_on_disk(&self, record: &SessionRecord) -> bool {
        let same = |(key, incarnation): &(FlowKey, Incarnation)| {
            *key == record.key && *incarnation == record.incarnation
        };
        self.process.is_none() && self.stored.iter().any(same)
    }

    /// It hears a leader of every group, or not.
    pub fn hears(&mut self, hears: bool, now_us: u64) {
        match (hears, self.cut_since) {
            (true, Some(_)) => {
                self.cut_since = None;
                self.hears_since = now_us;
            }
            (false, None) => {
                self.heard.push((self.hears_since, now_us));
                self.cut_since = Some(now_us);
            }
            _ => {}
        }
    }
}
