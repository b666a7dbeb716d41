//! A director: its machine, and the process on it that is made of the real cores.

pub mod announcer;
pub mod asking;
pub mod clock;
pub mod flush;
pub mod frame;
pub mod message;
pub mod packets;
pub mod process;
pub mod sessions;
pub mod share;
pub mod sink;
pub mod young;

use std::collections::BTreeMap;

use clock::Clock;
use process::Process;
use share::Disks;

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
    /// The process that runs, if one does.
    pub process: Option<Box<Process>>,
    /// The process is stopped; since when (us).
    pub frozen_since: Option<u64>,
    /// Since when its process has not heard of a leader of every group (us).
    pub cut_since: Option<u64>,
    /// Since when its process has heard one, or had when it last did (us).
    pub hears_since: u64,
    /// The guard has let go of the routes of the frozen process.
    pub released: bool,
    /// The machine is dead.
    pub dead: bool,
    /// Counts processes, so that what concerns an earlier one is recognised.
    pub life: u32,
    /// When (us) its earlier processes ended, by their incarnations.
    pub ended_us: BTreeMap<u64, u64>,
    /// When its process started (us).
    pub started_us: u64,
    /// When it looks at everything next.
    pub turn_us: u64,
}

impl Director {
    /// Whether something runs here.
    pub fn runs(&self) -> bool {
        self.process.is_some() && self.frozen_since.is_none() && !self.dead
    }
}
