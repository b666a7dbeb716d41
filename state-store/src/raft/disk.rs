//! What a driver has decided and wants to have written, without waiting for it.
//!
//! Everything under the keys of a driver's groups goes through it, first in, first out: the order on
//! the disk is the order of decision, and what a crash loses is the end of it.

use std::collections::VecDeque;

use crate::storage::Batch;

/// Most jobs outstanding before new work has to wait.
pub const JOBS: usize = 1024;
/// Most bytes outstanding before new work has to wait.
const BYTES: usize = 64 << 20;

/// What a job is about, for its report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The news of a group: raft-rs' ready of this number.
    Ready {
        /// The group.
        group: u16,
        /// Its generation.
        generation: u32,
        /// raft-rs' number.
        number: u64,
    },
    /// A checkpoint of a group up to this entry.
    Checkpoint {
        /// The group.
        group: u16,
        /// Its generation.
        generation: u32,
        /// The last entry in it.
        index: u64,
    },
}

/// Something to be written as a whole.
#[derive(Default)]
pub struct Job {
    /// What to write.
    pub batch: Batch,
    /// Whether it has to be on the disk, not only with the kernel, when it is reported.
    pub sync: bool,
    /// What it is about.
    pub parts: Vec<Part>,
}

/// What became of a job.
pub struct Report {
    /// What it was about.
    pub parts: Vec<Part>,
    /// How large it was.
    pub bytes: usize,
    /// What the disk said. After an error every report is one.
    pub result: Result<(), String>,
}

/// The writer has ended without having been told to.
#[derive(Debug)]
pub struct Ended;

/// Who writes a driver's jobs, in their order, and reports each of them, in their order.
pub trait Writer: Send {
    /// Takes a job.
    fn submit(&mut self, job: Job) -> Result<(), Ended>;
    /// The next report, if it is there.
    fn report(&mut self) -> Result<Option<Report>, Ended>;
    /// Waits for the next report. (Only while a job is outstanding.)
    fn wait(&mut self) -> Result<Report, Ended>;
}

/// A driver's handle of its writer.
pub struct Disk {
    writer: Box<dyn Writer>,
    /// Parts that have been written and not been taken.
    written: VecDeque<Part>,
    outstanding: usize,
    /// Jobs reported so far.
    done: u64,
    bytes: usize,
    failed: Option<String>,
}

impl Disk {
    /// Has jobs written by this writer.
    pub fn new(writer: Box<dyn Writer>) -> Disk {
        let written = VecDeque::new();
        Disk { writer, written, outstanding: 0, done: 0, bytes: 0, failed: None }
    }

    /// Queues a job. An error: the disk, or its writer, has failed, and nothing is written any more.
    pub fn submit(&mut self, job: Job) -> Result<(), String> {
        self.outstanding += 1;
        self.bytes += job.batch.bytes();
        self.writer.submit(job).map_err(|e| self.ended(e))
    }

    /// Whether so much waits that new work has to wait as well.
    pub fn full(&self) -> bool {
        self.outstanding >= JOBS || self.bytes >= BYTES
    }

    /// The number of the job whose report comes next, if there is one.
    pub fn awaited(&self) -> Option<u64> {
        (self.outstanding > 0).then_some(self.done)
    }

    /// The next part that has been written, if one has.
    pub fn next_written(&mut self) -> Result<Option<Part>, String> {
        while self.written.is_empty() {
            match self.writer.report() {
                Ok(Some(report)) => self.note(report),
                Ok(None) => break,
                Err(e) => return Err(self.ended(e)),
            }
        }
        match &self.failed {
            Some(why) => Err(why.clone()),
            None => Ok(self.written.pop_front()),
        }
    }

    /// Waits until everything queued has been written. Reports are kept.
    pub fn wait_idle(&mut self) -> Result<(), String> {
        while self.outstanding > 0 {
            match self.writer.wait() {
                Ok(report) => self.note(report),
                Err(e) => return Err(self.ended(e)),
            }
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Writes this behind everything else, through to the disk, and waits for it.
    pub fn write_through(&mut self, batch: Batch) -> Result<(), String> {
        self.submit(Job { batch, sync: true, parts: Vec::new() })?;
        self.wait_idle()
    }

    fn note(&mut self, report: Report) {
        self.outstanding -= 1;
        self.done += 1;
        self.bytes -= report.bytes;
        match report.result {
            Ok(()) => self.written.extend(report.parts),
            Err(why) => {
                self.failed.get_or_insert(why);
            }
        }
    }

    fn ended(&self, _: Ended) -> String {
        self.failed.clone().unwrap_or_else(|| "the storage thread has ended".to_owned())
    }
}
