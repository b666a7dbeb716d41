//! Stands in for dashmap, whose lock loom cannot see.
//!
//! One list behind one lock, however many shards are asked for, and every entry is compared, whatever its
//! hash: all keys are in each other's way. The lock orders what dashmap's orders, and no more: acquire when it
//! is taken, release when it is left, nothing when a try fails. (loom's own lock orders more, and takes leaving
//! it for no step, so that no model would ever meet it taken.)
#![forbid(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use dashmap::SharedValue;

use crate::session::sync::{AtomicU32, Ordering, yield_now};

const WRITER: u32 = u32::MAX;

type Shard<K, V> = RwLock<Table<(K, SharedValue<V>)>>;

/// The part of dashmap's interface that L2 uses.
pub(in crate::session) struct DashMap<K, V, S> {
    shards: [Shard<K, V>; 1],
    hasher: PhantomData<S>,
}

impl<K, V, S> DashMap<K, V, S> {
    pub(in crate::session) fn with_capacity_and_hasher_and_shard_amount(
        _: usize,
        _: S,
        _: usize,
    ) -> DashMap<K, V, S> {
        DashMap { shards: [RwLock::new(Table(Vec::new()))], hasher: PhantomData }
    }

    pub(in crate::session) fn determine_shard(&self, _: usize) -> usize {
        0
    }

    pub(in crate::session) fn shards(&self) -> &[Shard<K, V>] {
        &self.shards
    }
}

/// Entries in no order.
pub(in crate::session) struct Table<T>(Vec<T>);

impl<T> Table<T> {
    pub(in crate::session) fn get(&self, _: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        let at = self.0.iter().position(is_it)?;
        self.0.get(at)
    }

    pub(in crate::session) fn get_mut(
        &mut self,
        _: u64,
        is_it: impl FnMut(&T) -> bool,
    ) -> Option<&mut T> {
        let at = self.0.iter().position(is_it)?;
        self.0.get_mut(at)
    }

    pub(in crate::session) fn insert(&mut self, _: u64, entry: T, _: impl Fn(&T) -> u64) {
        self.0.push(entry);
    }

    pub(in crate::session) fn remove_entry(
        &mut self,
        _: u64,
        is_it: impl FnMut(&T) -> bool,
    ) -> Option<T> {
        let at = self.0.iter().position(is_it)?;
        Some(self.0.swap_remove(at))
    }

    pub(in crate::session) fn buckets(&self) -> usize {
        self.0.capacity()
    }
}

/// A lock whose word is loom's. The inner lock only holds the data; it is free whenever the word says so.
pub(in crate::session) struct RwLock<T> {
    /// How many read, or [`WRITER`].
    holders: AtomicU32,
    data: parking_lot::RwLock<T>,
}

type ReadGuard<'l, T> = Guard<'l, parking_lot::RwLockReadGuard<'l, T>>;
type WriteGuard<'l, T> = Guard<'l, parking_lot::RwLockWriteGuard<'l, T>>;

impl<T> RwLock<T> {
    fn new(data: T) -> RwLock<T> {
        RwLock { holders: AtomicU32::new(0), data: parking_lot::RwLock::new(data) }
    }

    pub(in crate::session) fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let mut readers = 0;
        while let Err(seen) = self.take(readers, readers + 1) {
            if seen == WRITER {
                return None;
            }
            readers = seen;
        }
        let data = self.data.try_read().expect("no writer");
        Some(Guard { data, _held: Held { holders: &self.holders, by: 1 } })
    }

    pub(in crate::session) fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        self.take(0, WRITER).ok()?;
        let data = self.data.try_write().expect("nobody");
        Some(Guard { data, _held: Held { holders: &self.holders, by: WRITER } })
    }

    pub(in crate::session) fn read(&self) -> ReadGuard<'_, T> {
        loop {
            match self.try_read() {
                Some(guard) => return guard,
                None => yield_now(),
            }
        }
    }

    pub(in crate::session) fn write(&self) -> WriteGuard<'_, T> {
        loop {
            match self.try_write() {
                Some(guard) => return guard,
                None => yield_now(),
            }
        }
    }

    fn take(&self, from: u32, to: u32) -> Result<u32, u32> {
        self.holders.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed)
    }
}

/// The data first: it is let go before the word says so.
pub(in crate::session) struct Guard<'l, G> {
    data: G,
    _held: Held<'l>,
}

struct Held<'l> {
    holders: &'l AtomicU32,
    by: u32,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.holders.fetch_sub(self.by, Ordering::Release);
    }
}

impl<G: Deref> Deref for Guard<'_, G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.data
    }
}

impl<G: DerefMut> DerefMut for Guard<'_, G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.data
    }
}
