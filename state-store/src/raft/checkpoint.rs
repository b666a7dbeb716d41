//! Checkpoints are written by a thread of their own, so that a slow disk delays no heartbeat.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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

#[derive(Default)]
struct Idle {
    waiting: Mutex<usize>,
    changed: Condvar,
}

/// The writer's handle.
pub struct Checkpointer {
    jobs: Option<SyncSender<Job>>,
    idle: Arc<Idle>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the writer; results go to `driver`.
    pub fn start(name: &str, db: Database, driver: SyncSender<Input>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(64);
        let idle = Arc::new(Idle::default());
        let shared = idle.clone();
        let thread = std::thread::Builder::new()
            .name(format!("{name}-ckpt"))
            .spawn(move || write_all(&db, &queue, &driver, &shared))?;
        Ok(Checkpointer { jobs: Some(jobs), idle, thread: Some(thread) })
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

fn write_all(db: &Database, queue: &Receiver<Job>, driver: &SyncSender<Input>, idle: &Idle) {
    for job in queue {
        let result = db.write(job.batch, false).map_err(|e| e.to_string());
        *lock(idle) -= 1;
        idle.changed.notify_all();
        let (group, generation, index) = (job.group, job.generation, job.index);
        let news = Input::Checkpointed { group, generation, index, result };
        // Waits for room; without a driver there is nobody left to care.
        let _ = driver.send(news);
    }
}
