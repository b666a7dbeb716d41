//! Changes on their way into a driver.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_schema::session::SessionChange;
use parking_lot::Mutex;

use crate::store::error::Busy;
use crate::store::types::Limits;

/// Changes that wait to be proposed, per shard. Shared by everybody who proposes and the driver.
pub struct Feed {
    shards: Vec<Mutex<VecDeque<SessionChange>>>,
    limit: usize,
    told: AtomicBool,
}

impl Feed {
    /// Empty queues.
    pub fn new(shards: u16, limits: &Limits) -> Feed {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Feed { shards, limit: limits.proposals_per_shard, told: AtomicBool::new(false) }
    }

    /// Queues changes, all or none; `Ok(true)`: the driver has to be told.
    pub fn push(&self, shard: u16, changes: Vec<SessionChange>) -> Result<bool, Busy> {
        let queue = self.shards.get(usize::from(shard)).ok_or(Busy)?;
        let mut queue = queue.lock();
        if queue.len() + changes.len() > self.limit {
            return Err(Busy);
        }
        queue.extend(changes);
        Ok(!self.told.swap(true, Ordering::AcqRel))
    }

    /// Changes that wait.
    pub fn waiting(&self) -> usize {
        self.shards.iter().map(|q| q.lock().len()).sum()
    }

    pub(super) fn heard(&self) {
        self.told.store(false, Ordering::Release);
    }

    pub(crate) fn take(&self, shard: u16, most: usize) -> Vec<SessionChange> {
        let Some(queue) = self.shards.get(usize::from(shard)) else { return Vec::new() };
        let mut queue = queue.lock();
        let n = queue.len().min(most);
        queue.drain(..n).collect()
    }
}
