//! L1: one worker's flow table. No locks, no allocation after start, lookups in batches.
//!
//! Open addressing over buckets of one cache line, eight entries each. An entry is a tag (32 bits of
//! the key's hash), a side and a slot; the key itself is in the slab, where it is compared in full.
//! An entry whose session is gone is recognised by that comparison and dropped. It is a cache: an
//! entry that has to make room costs a lookup in L2 the next time.
#![forbid(unsafe_code)]

use ahash::RandomState;
use holdfast_schema::flow::FlowKey;

use super::key::PackedKey;
use super::memory::{prefer_huge_pages, prefetch};
use super::record::word;
use super::table::SessionTable;
use super::{Side, Slot, record::side_words};

const BUCKET_ENTRIES: usize = 8;

/// How many lookups are in flight together.
const BATCH: usize = 32;

const SIDE: u64 = 1 << 31;
const SLOT: u64 = SIDE - 1;

/// What a [`FlowCache`] counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheStats {
    /// Lookups that found their session.
    pub hits: u64,
    /// Lookups that found nothing.
    pub misses: u64,
    /// Entries dropped because their session was gone.
    pub stale: u64,
    /// Entries that had to make room for another.
    pub evicted: u64,
}

/// One worker's index of the sessions it forwards.
pub struct FlowCache {
    hasher: RandomState,
    entries: Vec<u64>,
    /// Entries to skip so that buckets begin on a cache line.
    shift: usize,
    /// Number of buckets less one; a power of two less one.
    mask: usize,
    victim: usize,
    stats: CacheStats,
}

fn entry(hash: u64, slot: Slot, side: Side) -> u64 {
    let side = if side == Side::Backend { SIDE } else { 0 };
    // Slot + 1, so that an entry is never zero, which means empty.
    hash & !u64::from(u32::MAX) | side | (u64::from(slot.0 + 1) & SLOT)
}

fn target(entry: u64) -> (Slot, Side) {
    let side = if entry & SIDE == 0 { Side::Client } else { Side::Backend };
    (Slot(((entry & SLOT) as u32).wrapping_sub(1)), side)
}

impl FlowCache {
    /// A cache with room for both directions of `max_sessions` sessions, twice over. The seed has to
    /// be random in production: clients choose their ports.
    pub fn new(max_sessions: u32, seed: u64) -> FlowCache {
        let buckets = (max_sessions as usize * 4 / BUCKET_ENTRIES).next_power_of_two().max(16);
        let entries = vec![0u64; (buckets + 1) * BUCKET_ENTRIES];
        prefer_huge_pages(&entries);
        let shift = entries.as_ptr().align_offset(64).min(BUCKET_ENTRIES);
        FlowCache {
            hasher: RandomState::with_seeds(
                seed,
                !seed,
                seed.rotate_left(32),
                0x686f_6c64_6661_7374,
            ),
            entries,
            shift,
            mask: buckets - 1,
            victim: 0,
            stats: CacheStats::default(),
        }
    }

    /// What it counted so far.
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    #[inline]
    fn bucket(&self, hash: u64) -> &[u64] {
        let first = self.shift + (hash as usize & self.mask) * BUCKET_ENTRIES;
        self.entries.get(first..first + BUCKET_ENTRIES).unwrap_or(&[])
    }

    #[inline]
    fn bucket_mut(&mut self, hash: u64) -> &mut [u64] {
        let first = self.shift + (hash as usize & self.mask) * BUCKET_ENTRIES;
        self.entries.get_mut(first..first + BUCKET_ENTRIES).unwrap_or(&mut [])
    }

    /// Looks up many keys; `out` is as long as `keys` (what is longer is left alone).
    ///
    /// The worker must be online in the table's quiescence protocol; what is found is valid until its
    /// next quiescent point.
    pub fn lookup_batch(
        &mut self,
        table: &SessionTable,
        keys: &[FlowKey],
        out: &mut [Option<(Slot, Side)>],
    ) {
        debug_assert_eq!(keys.len(), out.len());
        for (keys, out) in keys.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            self.lookup_some(table, keys, out);
        }
    }

    fn lookup_some(
        &mut self,
        table: &SessionTable,
        keys: &[FlowKey],
        out: &mut [Option<(Slot, Side)>],
    ) {
        // Three passes, so that the cache misses of all keys overlap: bucket, record, comparison.
        let mut work = [(0u64, PackedKey([0; 5])); BATCH];
        for ((hash, packed), key) in work.iter_mut().zip(keys) {
            *packed = PackedKey::new(key);
            *hash = self.hasher.hash_one(*packed);
            if let Some(first) = self.bucket(*hash).first() {
                prefetch(first);
            }
        }
        let work = &work[..keys.len().min(BATCH)];
        for (hash, _) in work {
            if let Some(found) = self.bucket(*hash).iter().find(|e| (*e ^ hash) >> 32 == 0) {
                let (slot, side) = target(*found);
                let words = table.record(slot).0;
                prefetch(&words[word::VERSION]);
                prefetch(&words[word::REPLY]);
                prefetch(&words[side_words(side)]);
            }
        }
        for ((hash, packed), out) in work.iter().zip(out) {
            *out = self.find(table, *hash, packed);
        }
    }

    #[inline]
    fn find(&mut self, table: &SessionTable, hash: u64, key: &PackedKey) -> Option<(Slot, Side)> {
        let mut stale = 0;
        let mut found = None;
        for entry in self.bucket_mut(hash) {
            if *entry == 0 || (*entry ^ hash) >> 32 != 0 {
                continue;
            }
            let (slot, side) = target(*entry);
            if table.matches(slot, side, key) {
                found = Some((slot, side));
                break;
            }
            // Its session is gone (or, one time in four billion, it is another one's: a cache may
            // forget it).
            *entry = 0;
            stale += 1;
        }
        self.stats.stale += stale;
        match found {
            Some(_) => self.stats.hits += 1,
            None => self.stats.misses += 1,
        }
        found
    }

    /// Remembers where a key leads to.
    pub fn insert(&mut self, key: &FlowKey, slot: Slot, side: Side) {
        let hash = self.hasher.hash_one(PackedKey::new(key));
        let new = entry(hash, slot, side);
        let victim = self.victim % BUCKET_ENTRIES;
        let bucket = self.bucket_mut(hash);
        let same = bucket.iter().position(|e| *e != 0 && (*e ^ hash) >> 32 == 0);
        let place = same.or_else(|| bucket.iter().position(|e| *e == 0));
        if let Some(cell) = bucket.get_mut(place.unwrap_or(victim)) {
            *cell = new;
        }
        if place.is_none() {
            self.victim = self.victim.wrapping_add(1);
            self.stats.evicted += 1;
        }
    }
}
