//! A disk in memory that writes when it is told to, and forgets like a real one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::raft::{Disk, Ended, Job, Report, Writer};
use crate::storage::{Backend, Batch, Database, Rows, Step};
use crate::store::error::StoreError;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The disk of one database. Clones are the same one; it outlives processes and their machine.
#[derive(Clone, Default)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// What a process reads.
    written: Content,
    /// What is left when the machine goes down.
    synced: Content,
    /// What lies between the two, in its order.
    unsynced: VecDeque<Batch>,
    /// Why writes fail, if they do.
    fault: Option<String>,
    /// Which process's driver is listened to.
    life: u64,
    queue: VecDeque<Job>,
    reports: VecDeque<Report>,
    /// What an earlier job of this life failed with: nothing is written after it.
    failed: Option<String>,
    waits: u64,
}

fn apply(content: &mut Content, batch: &Batch) {
    for step in batch.steps() {
        match step {
            Step::Put(key, value) => {
                content.insert(key.clone(), value.clone());
            }
            Step::Delete(key) => {
                content.remove(key);
            }
            Step::DeleteRange(from, to) if from < to => {
                let gone: Vec<Vec<u8>> =
                    content.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
                gone.iter().for_each(|key| {
                    content.remove(key);
                });
            }
            Step::DeleteRange(..) => {}
        }
    }
}

impl Inner {
    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), String> {
        if let Some(why) = &self.fault {
            return Err(why.clone());
        }
        apply(&mut self.written, &batch);
        self.unsynced.push_back(batch);
        if sync {
            self.sync(usize::MAX);
        }
        Ok(())
    }

    /// The oldest batches are on the disk for good.
    fn sync(&mut self, batches: usize) {
        let batches = batches.min(self.unsynced.len());
        for batch in self.unsynced.drain(..batches) {
            apply(&mut self.synced, &batch);
        }
    }

    fn write_next(&mut self) -> bool {
        let Some(Job { batch, sync, parts }) = self.queue.pop_front() else { return false };
        let bytes = batch.bytes();
        let result = match self.failed.clone() {
            Some(why) => Err(why),
            None => self.write(batch, sync),
        };
        self.failed = result.clone().err();
        self.reports.push_back(Report { parts, bytes, result });
        true
    }

    fn begin_life(&mut self) {
        self.life += 1;
        self.queue.clear();
        self.reports.clear();
        self.failed = None;
    }
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// The database on it, for [`super::Group::open`] and what founds one.
    pub fn database(&self) -> Database {
        Database::over(Arc::new(self.clone()))
    }

    /// The disk as the driver of a process that starts now has it.
    pub fn begin(&self) -> Disk {
        let life = {
            let mut inner = self.inner.lock();
            inner.begin_life();
            inner.life
        };
        Disk::new(Box::new(Queue { disk: self.clone(), life }))
    }

    /// Jobs of the driver that are not written yet.
    pub fn outstanding(&self) -> usize {
        self.inner.lock().queue.len()
    }

    /// Bytes of the next job, and whether it has to be synced.
    pub fn next_job(&self) -> Option<(usize, bool)> {
        self.inner.lock().queue.front().map(|job| (job.batch.bytes(), job.sync))
    }

    /// Writes the next job; false: there is none. The driver has to be polled then.
    pub fn write_next(&self) -> bool {
        self.inner.lock().write_next()
    }

    /// From now on writes fail, because the disk is full or broken; none: they pass again. (A driver
    /// that has met an error has ended.)
    pub fn fail(&self, why: Option<&str>) {
        self.inner.lock().fault = why.map(str::to_owned);
    }

    /// The process dies: what it had not written is gone.
    pub fn lose_process(&self) {
        self.inner.lock().begin_life();
    }

    /// Batches that the kernel has and the disk has not.
    pub fn unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// The machine goes down: of what was not synced, only the oldest batches are left, so many.
    pub fn lose_machine(&self, left: usize) {
        let mut inner = self.inner.lock();
        inner.begin_life();
        inner.sync(left);
        inner.unsynced.clear();
        inner.written = inner.synced.clone();
    }

    /// Another disk is put in its place.
    pub fn replace(&self) {
        let mut inner = self.inner.lock();
        inner.begin_life();
        inner.unsynced.clear();
        inner.written.clear();
        inner.synced.clear();
        inner.fault = None;
    }

    /// How often its driver did not go on before everything was written (a snapshot, a change of the
    /// configuration). It is written at once then: who simulates a stall holds the driver up himself.
    pub fn waits(&self) -> u64 {
        self.inner.lock().waits
    }
}

impl Backend for SimulatedDisk {
    fn place(&self) -> String {
        "simulated disk".to_owned()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner.lock().written.get(key).cloned())
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), StoreError> {
        let written = self.inner.lock().write(batch.clone(), sync);
        written.map_err(|cause| StoreError::Storage { place: self.place(), cause })
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_> {
        let inner = self.inner.lock();
        let rows: Vec<_> = match from < to {
            true => inner.written.range(from.to_vec()..to.to_vec()).collect(),
            false => Vec::new(),
        };
        let rows: Vec<_> = rows.into_iter().map(|(k, v)| Ok((k.clone(), v.clone()))).collect();
        Box::new(rows.into_iter())
    }
}

/// The driver's end.
struct Queue {
    disk: SimulatedDisk,
    life: u64,
}

impl Queue {
    /// The disk, unless the process is gone.
    fn alive<T>(&self, use_it: impl FnOnce(&mut Inner) -> T) -> Result<T, Ended> {
        let mut inner = self.disk.inner.lock();
        if inner.life == self.life { Ok(use_it(&mut inner)) } else { Err(Ended) }
    }
}

impl Writer for Queue {
    fn submit(&mut self, job: Job) -> Result<(), Ended> {
        self.alive(|inner| inner.queue.push_back(job))
    }

    fn report(&mut self) -> Result<Option<Report>, Ended> {
        self.alive(|inner| inner.reports.pop_front())
    }

    fn wait(&mut self) -> Result<Report, Ended> {
        let report = self.alive(|inner| {
            inner.waits += 1;
            if inner.reports.is_empty() {
                inner.write_next();
            }
            inner.reports.pop_front()
        })?;
        report.ok_or(Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(key: u8, sync: bool) -> Job {
        let mut batch = Batch::default();
        batch.put(vec![key], vec![key]);
        Job { batch, sync, parts: Vec::new() }
    }

    fn keys(disk: &SimulatedDisk) -> Vec<u8> {
        disk.database().range(&[0], &[255]).map(|row| row.unwrap().0[0]).collect()
    }

    #[test]
    fn a_process_loses_what_is_outstanding_and_a_machine_what_is_not_synced() {
        let disk = SimulatedDisk::new();
        let mut driver = disk.begin();
        for (key, sync) in [(1, false), (2, true), (3, false), (4, false), (5, false)] {
            driver.submit(job(key, sync)).unwrap();
        }
        (0..4).for_each(|_| assert!(disk.write_next()));
        assert_eq!((keys(&disk), disk.outstanding(), disk.unsynced()), (vec![1, 2, 3, 4], 1, 2));
        disk.lose_process();
        driver.submit(job(6, true)).unwrap_err();
        assert_eq!((keys(&disk), disk.outstanding()), (vec![1, 2, 3, 4], 0));
        disk.lose_machine(1);
        assert_eq!(keys(&disk), [1, 2, 3]);
        disk.replace();
        assert_eq!(keys(&disk), []);
    }

    #[test]
    fn who_waits_has_everything_written_in_its_order() {
        let disk = SimulatedDisk::new();
        let mut driver = disk.begin();
        driver.submit(job(1, false)).unwrap();
        let mut batch = Batch::default();
        batch.delete_range(vec![0], vec![2]);
        batch.put(vec![9], vec![9]);
        driver.write_through(batch).unwrap();
        assert_eq!((keys(&disk), disk.unsynced(), disk.waits()), (vec![9], 0, 2));
    }

    #[test]
    fn nothing_is_written_after_an_error() {
        let disk = SimulatedDisk::new();
        let mut driver = disk.begin();
        disk.fail(Some("no space left"));
        driver.submit(job(1, false)).unwrap();
        disk.write_next();
        disk.fail(None);
        driver.submit(job(2, false)).unwrap();
        disk.write_next();
        assert!(driver.next_written().unwrap_err().contains("no space"));
        assert_eq!(keys(&disk), []);
    }
}
