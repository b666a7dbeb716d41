//! Checkpoints are written by a thread of their own, so that a slow disk delays no heartbeat.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rocksdb::WriteBatch;

use super::driver::Input;
use crate::storage::Database;

/// A checkpoint to be written.
pub struct Job {
    /// The group.
    pub group: u16,
    /// Its generation.
    pub generation: u32,
    /// The last entry it covers.
    pub index: u64,
    /// Everything to write.
    pub batch: WriteBatch,
}

/// What became of a checkpoint.
pub struct Report {
    /// The group.
    pub group: u16,
    /// Its generation.
    pub generation: u32,
    /// The last entry it covers.
    pub index: u64,
    /// What the disk said.
    pub result: Result<(), String>,
}

#[derive(Default)]
struct Idle {
    waiting: Mutex<usize>,
    changed: Condvar,
}

/// The writer's handle.
pub struct Checkpointer {
    jobs: Option<SyncSender<Job>>,
    /// Not among the driver's inputs: the writer would have to wait for room there, and so for a
    /// driver that may be waiting for the writer. There are no more reports than jobs.
    reports: Receiver<Report>,
    idle: Arc<Idle>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the writer; `driver` is woken when there are reports.
    pub fn start(name: &str, db: Database, driver: SyncSender<Input>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(64);
        let (done, reports) = channel();
        let idle = Arc::new(Idle::default());
        let shared = idle.clone();
        let thread = std::thread::Builder::new()
            .name(format!("{name}-ckpt"))
            .spawn(move || write_all(&db, &queue, &done, &driver, &shared))?;
        Ok(Checkpointer { jobs: Some(jobs), reports, idle, thread: Some(thread) })
    }

    /// Queues a checkpoint; false: the queue is full, try later.
    pub fn submit(&self, job: Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        *lock(&self.idle) += 1;
        let taken = jobs.try_send(job).is_ok();
        if !taken {
            *lock(&self.idle) -= 1;
        }
        taken
    }

    /// The next checkpoint that is done, if there is one.
    pub fn next_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    /// Waits until everything queued has been written.
    pub fn wait_idle(&self) {
        let mut waiting = lock(&self.idle);
        while *waiting > 0 {
            waiting = self.idle.changed.wait(waiting).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been reported as a failed checkpoint already.
            let _ = thread.join();
        }
    }
}

fn lock(idle: &Idle) -> std::sync::MutexGuard<'_, usize> {
    idle.waiting.lock().unwrap_or_else(|e| e.into_inner())
}

fn write_all(
    db: &Database,
    queue: &Receiver<Job>,
    reports: &Sender<Report>,
    driver: &SyncSender<Input>,
    idle: &Idle,
) {
    for job in queue {
        let result = db.write(job.batch, false).map_err(|e| e.to_string());
        let (group, generation, index) = (job.group, job.generation, job.index);
        // Without a driver there is nobody left to care.
        let _ = reports.send(Report { group, generation, index, result });
        *lock(idle) -= 1;
        idle.changed.notify_all();
        // A driver whose queue is full is awake, and looks for reports in every round.
        let _ = driver.try_send(Input::Checkpointed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_do_not_wait_for_a_driver_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let (driver, _full) = sync_channel(1);
        driver.send(Input::Attached).unwrap();
        let writer = Checkpointer::start("test", db, driver).unwrap();
        for index in 1..4 {
            let batch = WriteBatch::default();
            assert!(writer.submit(Job { group: 1, generation: 1, index, batch }));
        }
        writer.wait_idle();
        let reported: Vec<u64> =
            std::iter::from_fn(|| writer.next_report().map(|r| r.index)).collect();
        assert_eq!(reported, [1, 2, 3]);
    }
}
