//! L2: from a flow key to the slot and side it belongs to, shared by all threads.
//!
//! A sharded hash table of four-byte entries. The keys themselves are in the slab only, where they
//! have to be compared anyway; that makes the table a tenth the size of one that repeats them and
//! saves a cache miss a lookup. Sized before start: it never grows (see [`room`]).
//!
//! Callers take part in the quiescence protocol (as workers or guests), so the records that entries
//! lead to keep their keys while they are compared: an entry goes before its slot is given back.
#![forbid(unsafe_code)]

use ahash::RandomState;
use crossbeam_utils::CachePadded;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::key::PackedKey;
use super::slab::Slab;
use super::{Side, Slot};

/// Where an entry leads: the slot, and in the top bit the side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

type Shard = CachePadded<RwLock<HashTable<Target>>>;

pub(super) struct Index {
    hasher: RandomState,
    /// A power of two of them.
    shards: Vec<Shard>,
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
        let shard = || CachePadded::new(RwLock::new(HashTable::with_capacity(room)));
        Index { hasher, shards: std::iter::repeat_with(shard).take(shards).collect() }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Target>> {
        // Bits that the shard's own table uses neither for the place (low) nor for the tag (top).
        &self.shards[(hash >> 40) as usize & (self.shards.len() - 1)]
    }

    fn read(&self, hash: u64, wait: Wait) -> Result<RwLockReadGuard<'_, HashTable<Target>>, Busy> {
        let shard = self.shard(hash);
        match wait {
            Wait::Yes => Ok(shard.read()),
            Wait::No => shard.try_read().ok_or(Busy),
        }
    }

    fn write(
        &self,
        hash: u64,
        wait: Wait,
    ) -> Result<RwLockWriteGuard<'_, HashTable<Target>>, Busy> {
        let shard = self.shard(hash);
        match wait {
            Wait::Yes => Ok(shard.write()),
            Wait::No => shard.try_write().ok_or(Busy),
        }
    }

    /// Where a key leads.
    pub(super) fn get(
        &self,
        slab: &Slab,
        key: &PackedKey,
        wait: Wait,
    ) -> Result<Option<Target>, Busy> {
        let hash = self.hasher.hash_one(key);
        let shard = self.read(hash, wait)?;
        Ok(shard.find(hash, |target| target.key(slab) == *key).copied())
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
        let mut shard = self.write(hash, wait)?;
        let equal = |other: &Target| other.key(slab) == key;
        match shard.entry(hash, equal, |other| self.hasher.hash_one(other.key(slab))) {
            Entry::Occupied(other) => Ok(Some(*other.get())),
            Entry::Vacant(vacant) => {
                vacant.insert(target);
                Ok(None)
            }
        }
    }

    /// Removes the entry of `target`. False if its key leads elsewhere or nowhere.
    pub(super) fn remove(&self, slab: &Slab, target: Target, wait: Wait) -> Result<bool, Busy> {
        let hash = self.hasher.hash_one(target.key(slab));
        let mut shard = self.write(hash, wait)?;
        match shard.find_entry(hash, |other| *other == target) {
            Ok(entry) => {
                entry.remove();
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Keeps the shard of a key locked.
    #[cfg(test)]
    pub(super) fn hold(&self, key: &PackedKey) -> RwLockWriteGuard<'_, HashTable<Target>> {
        self.shard(self.hasher.hash_one(key)).write()
    }

    /// The size of all shards.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().num_buckets()).sum()
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
        let hash = index.hasher.hash_one(key);
        let held = index.write(hash, Wait::Yes).unwrap();
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
