//! L2: from a flow key to the slot and side it belongs to, shared by all threads.
//!
//! A dashmap of four-byte entries, used through its raw interface. The keys themselves are in the
//! slab only, where they have to be compared anyway; that makes the table a tenth the size of one that
//! repeats them and saves a cache miss a lookup. Sized before start: it never grows (see [`room`]).
//!
//! Callers take part in the quiescence protocol (as workers or guests), so the records that entries
//! lead to keep their keys while they are compared: an entry goes before its slot is given back.
#![forbid(unsafe_code)]

use ahash::RandomState;
use dashmap::SharedValue;

use super::key::PackedKey;
use super::slab::Slab;
use super::sync::DashMap;
use super::{Side, Slot};

/// Where an entry leads: the slot, and in the top bit the side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Target(u32);

impl Target {
    pub(super) fn new(slot: Slot, side: Side) -> Target {
        Target(slot.0 | if side == Side::Backend { 1 << 31 } else { 0 })
    }

    pub(super) fn slot(self) -> Slot {
        Slot(self.0 & !(1 << 31))
    }

    pub(super) fn side(self) -> Side {
        if self.0 >> 31 == 0 { Side::Client } else { Side::Backend }
    }

    fn key(self, slab: &Slab) -> PackedKey {
        slab.record(self.slot()).key(self.side())
    }
}

/// Whether a thread may wait for another one's short write to a shard. Workers may not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// Another thread holds the shard, and the caller may not wait.
#[derive(Debug)]
pub(super) struct Busy;

pub(super) struct Index {
    hasher: RandomState,
    map: DashMap<Target, (), RandomState>,
}

/// How many shards there are, and room for how many entries in each, so that none ever grows. (One
/// would when it is more than half full and the places of erased entries use up the rest, hence twice
/// the room; it gets its mean share plus six standard deviations.)
fn room(max_sessions: u32) -> (usize, usize) {
    let keys = max_sessions as usize * 2;
    let shards = (keys / 1024).next_power_of_two().clamp(16, 512);
    let mean = keys / shards + 1;
    let most = mean + 6 * (mean as f64).sqrt().ceil() as usize + 16;
    (shards, most * 2)
}

impl Index {
    pub(super) fn new(max_sessions: u32, hasher: RandomState) -> Index {
        let (shards, room) = room(max_sessions);
        let map = DashMap::with_capacity_and_hasher_and_shard_amount(
            shards * room,
            hasher.clone(),
            shards,
        );
        Index { hasher, map }
    }

    /// Which shard a hash leads to.
    fn place(&self, hash: u64) -> usize {
        self.map.determine_shard(hash as usize)
    }

    /// Where a key leads.
    pub(super) fn get(
        &self,
        slab: &Slab,
        key: &PackedKey,
        wait: Wait,
    ) -> Result<Option<Target>, Busy> {
        let hash = self.hasher.hash_one(key);
        let lock = &self.map.shards()[self.place(hash)];
        let shard = match wait {
            Wait::Yes => lock.read(),
            Wait::No => lock.try_read().ok_or(Busy)?,
        };
        Ok(shard.get(hash, |(target, _)| target.key(slab) == *key).map(|(target, _)| *target))
    }

    /// Makes the key of `target` lead there; tells where it leads already, if it does.
    pub(super) fn insert(
        &self,
        slab: &Slab,
        target: Target,
        wait: Wait,
    ) -> Result<Option<Target>, Busy> {
        let key = target.key(slab);
        let hash = self.hasher.hash_one(key);
        let lock = &self.map.shards()[self.place(hash)];
        let mut shard = match wait {
            Wait::Yes => lock.write(),
            Wait::No => lock.try_write().ok_or(Busy)?,
        };
        if let Some((other, _)) = shard.get(hash, |(other, _)| other.key(slab) == key) {
            return Ok(Some(*other));
        }
        let hash_of =
            |(other, _): &(Target, SharedValue<()>)| self.hasher.hash_one(other.key(slab));
        shard.insert(hash, (target, SharedValue::new(())), hash_of);
        Ok(None)
    }

    /// Removes the entry of `target`. False if its key leads elsewhere or nowhere.
    pub(super) fn remove(&self, slab: &Slab, target: Target, wait: Wait) -> Result<bool, Busy> {
        let hash = self.hasher.hash_one(target.key(slab));
        let lock = &self.map.shards()[self.place(hash)];
        let mut shard = match wait {
            Wait::Yes => lock.write(),
            Wait::No => lock.try_write().ok_or(Busy)?,
        };
        Ok(shard.remove_entry(hash, |(other, _)| *other == target).is_some())
    }

    /// Makes the key that `old` and `new` share lead to `new`. False if it does not lead to `old`.
    pub(super) fn replace(
        &self,
        slab: &Slab,
        old: Target,
        new: Target,
        wait: Wait,
    ) -> Result<bool, Busy> {
        debug_assert_eq!(old.key(slab), new.key(slab));
        let hash = self.hasher.hash_one(new.key(slab));
        let lock = &self.map.shards()[self.place(hash)];
        let mut shard = match wait {
            Wait::Yes => lock.write(),
            Wait::No => lock.try_write().ok_or(Busy)?,
        };
        let entry = shard.get_mut(hash, |(target, _)| *target == old);
        Ok(entry.map(|(target, _)| *target = new).is_some())
    }

    /// Keys that lead anywhere.
    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether two keys have locks of their own.
    #[cfg(test)]
    pub(super) fn apart(&self, one: &PackedKey, other: &PackedKey) -> bool {
        self.place(self.hasher.hash_one(one)) != self.place(self.hasher.hash_one(other))
    }

    /// Lets others look the shard of a key up, but not change it.
    #[cfg(test)]
    pub(super) fn hold_reading(&self, key: &PackedKey) -> impl Sized + '_ {
        self.map.shards()[self.place(self.hasher.hash_one(key))].read()
    }

    /// Keeps the shard of a key locked.
    #[cfg(test)]
    pub(super) fn hold(&self, key: &PackedKey) -> impl Sized + '_ {
        self.map.shards()[self.place(self.hasher.hash_one(key))].write()
    }

    /// The size of all shards.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.map.shards().iter().map(|shard| shard.read().buckets()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::word;

    /// Gives a slot keys that are all its own.
    fn name(slab: &Slab, slot: Slot, n: u64) {
        let record = slab.record(slot);
        record.put(word::KEY, n);
        record.put(word::REPLY, !n);
    }

    #[test]
    fn both_sides_of_a_slot_are_found_and_removed_apart() {
        let (slab, index) = (Slab::new(4), Index::new(4, RandomState::new()));
        let slot = slab.take().unwrap();
        name(&slab, slot, 7);
        for side in [Side::Client, Side::Backend] {
            let target = Target::new(slot, side);
            assert_eq!((target.slot(), target.side()), (slot, side));
            let key = target.key(&slab);
            assert_eq!(index.get(&slab, &key, Wait::No).unwrap(), None);
            assert_eq!(index.insert(&slab, target, Wait::No).unwrap(), None);
            assert_eq!(index.insert(&slab, target, Wait::No).unwrap(), Some(target));
            assert_eq!(index.get(&slab, &key, Wait::No).unwrap(), Some(target));
        }
        let remove = |side| index.remove(&slab, Target::new(slot, side), Wait::No).unwrap();
        assert!(remove(Side::Client));
        assert!(!remove(Side::Client));
        assert!(remove(Side::Backend));
    }

    #[test]
    fn a_lock_in_use_is_busy_for_workers() {
        let (slab, index) = (Slab::new(4), Index::new(4, RandomState::new()));
        let key = PackedKey([1; 5]);
        let held = index.hold(&key);
        assert!(index.get(&slab, &key, Wait::No).is_err());
        drop(held);
        assert!(index.get(&slab, &key, Wait::No).is_ok());
    }

    #[test]
    fn churn_at_the_limit_does_not_make_it_grow() {
        const MAX: u32 = 20_000;
        let (slab, index) = (Slab::new(MAX), Index::new(MAX, RandomState::new()));
        let before = index.size();
        let mut live = std::collections::VecDeque::new();
        for n in 0..u64::from(MAX) * 20 {
            let slot = slab.take().unwrap_or_else(|| {
                let slot: Slot = live.pop_front().unwrap();
                for side in [Side::Client, Side::Backend] {
                    assert!(index.remove(&slab, Target::new(slot, side), Wait::No).unwrap());
                }
                slot
            });
            name(&slab, slot, n);
            for side in [Side::Client, Side::Backend] {
                assert_eq!(index.insert(&slab, Target::new(slot, side), Wait::No).unwrap(), None);
            }
            live.push_back(slot);
        }
        assert_eq!(index.size(), before);
    }
}
