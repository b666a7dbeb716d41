//! Barriers: the index of a no-op in every shard, behind everything that was said before.

use std::collections::BTreeMap;

use holdfast_schema::cluster::DirectorId;
use holdfast_state_store::simulation::Input;
use tokio::sync::oneshot;

use super::mail::{Mail, Out};

/// Time (us) until a shard that has not answered is asked again.
const AGAIN_US: u64 = 200_000;

/// A no-op of another director's barrier that this one commits.
struct Owed {
    to: DirectorId,
    round: u64,
    shard: u16,
    index: oneshot::Receiver<u64>,
}

/// The barriers of one process: one of its own at a time.
#[derive(Default)]
pub(super) struct Barriers {
    round: u64,
    shards: usize,
    indexes: BTreeMap<u16, u64>,
    asked_us: u64,
    own: Vec<(u16, oneshot::Receiver<u64>)>,
    owed: Vec<Owed>,
}

impl Barriers {
    pub(super) fn begin(&mut self, shards: usize) {
        self.round += 1;
        self.shards = shards;
        self.indexes.clear();
        self.own.clear();
        self.asked_us = 0;
    }

    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Whether a no-op is on its way here.
    pub(super) fn waits(&self) -> bool {
        !self.own.is_empty() || !self.owed.is_empty()
    }

    pub(super) fn done(&self) -> Option<Vec<u64>> {
        let complete = self.shards > 0 && self.indexes.len() == self.shards;
        complete.then(|| self.indexes.values().copied().collect())
    }

    /// The shards to be asked for now.
    pub(super) fn missing(&mut self, now_us: u64) -> Vec<u16> {
        if self.indexes.len() == self.shards || now_us < self.asked_us + AGAIN_US {
            return Vec::new();
        }
        self.asked_us = now_us;
        (0..self.shards as u16).filter(|shard| !self.indexes.contains_key(shard)).collect()
    }

    /// What commits one of the own no-ops.
    pub(super) fn commit(&mut self, shard: u16) -> Input {
        let (reply, index) = oneshot::channel();
        self.own.push((shard, index));
        Input::Barrier(shard, reply)
    }

    /// What commits one for another director.
    pub(super) fn owe(&mut self, to: DirectorId, round: u64, shard: u16) -> Option<Input> {
        let (reply, index) = oneshot::channel();
        self.owed.push(Owed { to, round, shard, index });
        Some(Input::Barrier(shard, reply))
    }

    /// Another director has committed one for this one.
    pub(super) fn told(&mut self, round: u64, shard: u16, index: u64) {
        if round == self.round {
            self.indexes.insert(shard, index);
        }
    }

    /// Takes the indexes that have come.
    pub(super) fn settle(&mut self, out: &Out) {
        let waits = |index: &mut oneshot::Receiver<u64>| match index.try_recv() {
            Ok(index) => Err(Some(index)),
            Err(oneshot::error::TryRecvError::Empty) => Ok(()),
            Err(oneshot::error::TryRecvError::Closed) => Err(None),
        };
        let indexes = &mut self.indexes;
        self.own.retain_mut(|(shard, index)| match waits(index) {
            Ok(()) => true,
            Err(index) => {
                indexes.extend(index.map(|index| (*shard, index)));
                false
            }
        });
        self.owed.retain_mut(|owed| match waits(&mut owed.index) {
            Ok(()) => true,
            Err(index) => {
                if let Some(index) = index {
                    out.push(owed.to, Mail::BarrierAt(owed.round, owed.shard, index));
                }
                false
            }
        });
    }
}
