//! The thread that writes what a driver has decided, so that a slow disk delays no heartbeat.
//!
//! Its reports wait in a channel of their own, which never fills up: there are as many as the driver
//! has jobs outstanding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::disk::{Disk, Ended, Job, Report, Writer};
use super::driver::Input;
use crate::metrics::{Metrics, count};
use crate::storage::{Batch, Database};

/// Most jobs that share one fsync.
const JOBS_PER_SYNC: usize = 64;
/// A write that takes longer is worth a warning.
const SLOW: Duration = Duration::from_millis(200);

/// Starts a storage thread; `driver` is woken when there are reports.
pub fn start(
    name: &'static str,
    db: Database,
    metrics: Arc<Metrics>,
    driver: SyncSender<Input>,
) -> std::io::Result<Disk> {
    let (jobs, queue) = channel();
    let (to_driver, reports) = channel();
    let told = Arc::new(AtomicBool::new(false));
    let end = ThreadEnd { name, db, metrics, driver, reports: to_driver, told: told.clone() };
    let thread = std::thread::Builder::new()
        .name(format!("{name}-disk"))
        .spawn(move || end.write_all(&queue))?;
    Ok(Disk::new(Box::new(DriverEnd { jobs: Some(jobs), reports, told, thread: Some(thread) })))
}

struct DriverEnd {
    jobs: Option<Sender<Job>>,
    reports: Receiver<Report>,
    told: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer for DriverEnd {
    fn submit(&mut self, job: Job) -> Result<(), Ended> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(Ended) }
    }

    fn report(&mut self) -> Result<Option<Report>, Ended> {
        // What is reported after this wakes the driver again. (A plain store could pass the look at
        // the reports, and a report in between would wake nobody.)
        self.told.swap(false, Ordering::AcqRel);
        match self.reports.try_recv() {
            Ok(report) => Ok(Some(report)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Ended),
        }
    }

    fn wait(&mut self) -> Result<Report, Ended> {
        self.reports.recv().map_err(|_| Ended)
    }
}

impl Drop for DriverEnd {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has ended the driver already.
            let _ = thread.join();
        }
    }
}

struct ThreadEnd {
    name: &'static str,
    db: Database,
    metrics: Arc<Metrics>,
    driver: SyncSender<Input>,
    reports: Sender<Report>,
    told: Arc<AtomicBool>,
}

impl ThreadEnd {
    fn write_all(&self, queue: &Receiver<Job>) {
        let mut failed = None;
        while let Ok(first) = queue.recv() {
            let mut run = vec![first];
            while run.len() < JOBS_PER_SYNC
                && let Ok(next) = queue.try_recv()
            {
                run.push(next);
            }
            self.write_run(run, &mut failed);
        }
    }

    /// Writes jobs that were found waiting; if one of them has to be synced, they are all reported
    /// after the last, whose fsync is everybody's (RocksDB syncs all of its log).
    fn write_run(&self, run: Vec<Job>, failed: &mut Option<String>) {
        let sync = run.iter().any(|job| job.sync);
        let last = run.len() - 1;
        let mut done = Vec::new();
        for (at, job) in run.into_iter().enumerate() {
            let bytes = job.batch.bytes();
            // After an error nothing more is written: the disk keeps a beginning of what was decided.
            if failed.is_none() {
                *failed = self.write(&job.batch, sync && at == last).err();
            }
            done.push(Report { parts: job.parts, bytes, result: Ok(()) });
            if !sync || at == last {
                for mut report in done.drain(..) {
                    report.result = failed.clone().map_or(Ok(()), Err);
                    // Without a driver there is nobody left to care.
                    let _ = self.reports.send(report);
                }
                self.wake();
            }
        }
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), String> {
        let begun = Instant::now();
        self.db.write(batch, sync).map_err(|e| e.to_string())?;
        let took = begun.elapsed();
        if sync {
            count(&self.metrics.synced_writes);
        }
        if took > SLOW {
            count(&self.metrics.slow_writes);
            let took_ms = took.as_millis() as u64;
            tracing::warn!(driver = self.name, took_ms, sync, "the disk is slow");
        }
        Ok(())
    }

    fn wake(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            // A driver whose queue is full is awake, and looks for reports in every round.
            let _ = self.driver.try_send(Input::Written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::raft::disk::{JOBS, Part};
    use crate::storage::gate::Gate;

    fn job(key: &[u8], sync: bool, number: u64) -> Job {
        let mut batch = Batch::default();
        batch.put(key, b"value");
        Job { batch, sync, parts: vec![Part::Ready { group: 1, generation: 1, number }] }
    }

    fn start(driver: SyncSender<Input>) -> (tempfile::TempDir, Database, Arc<Metrics>, Disk) {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let disk = super::start("test", db.clone(), metrics.clone(), driver).unwrap();
        (dir, db, metrics, disk)
    }

    #[test]
    fn reports_do_not_wait_for_a_driver_that_waits() {
        let (driver, _queue) = sync_channel(1);
        driver.send(Input::Attached).unwrap();
        let (_dir, _db, _metrics, mut disk) = start(driver);
        for number in 1..100 {
            disk.submit(job(b"k", false, number)).unwrap();
        }
        disk.wait_idle().unwrap();
        for want in 1..100 {
            let part = disk.next_written().unwrap().unwrap();
            assert!(matches!(part, Part::Ready { number, .. } if number == want));
        }
        assert_eq!(disk.next_written().unwrap(), None);
    }

    #[test]
    fn jobs_that_wait_share_one_sync() {
        let (driver, queue) = sync_channel(16);
        let (_dir, db, metrics, mut disk) = start(driver);
        db.gate.set(Gate::Stalled);
        for number in 1..=50 {
            disk.submit(job(b"k", true, number)).unwrap();
        }
        assert_eq!(disk.next_written().unwrap(), None, "not before it is written");
        db.gate.set(Gate::Open);
        disk.wait_idle().unwrap();
        let syncs = metrics.synced_writes.load(Ordering::Relaxed);
        assert!(syncs <= 2, "the first, and the others together: {syncs}");
        let woken = queue.recv_timeout(Duration::from_secs(10));
        assert!(matches!(woken, Ok(Input::Written)), "the driver is woken");
    }

    #[test]
    fn nothing_is_written_after_an_error() {
        let (driver, _queue) = sync_channel(16);
        let (_dir, db, _metrics, mut disk) = start(driver);
        db.gate.set(Gate::Broken);
        disk.submit(job(b"one", false, 1)).unwrap();
        disk.wait_idle().unwrap_err();
        db.gate.set(Gate::Open);
        disk.submit(job(b"two", true, 2)).unwrap();
        disk.wait_idle().unwrap_err();
        disk.next_written().unwrap_err();
        assert_eq!((db.get(b"one").unwrap(), db.get(b"two").unwrap()), (None, None));
    }

    #[test]
    fn what_is_outstanding_has_a_limit() {
        let (driver, _queue) = sync_channel(16);
        let (_dir, db, _metrics, mut disk) = start(driver);
        db.gate.set(Gate::Stalled);
        let mut number = 0;
        while !disk.full() {
            number += 1;
            disk.submit(job(b"k", false, number)).unwrap();
        }
        assert_eq!(number as usize, JOBS);
        assert_eq!(disk.awaited(), Some(0));
        db.gate.set(Gate::Open);
        disk.wait_idle().unwrap();
        assert!(!disk.full() && disk.awaited().is_none());
    }
}
