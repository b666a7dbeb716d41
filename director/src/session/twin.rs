//! Twins: two sessions that one opening of a client has made at two directors, because its SYN came
//! twice and the router sent the second one elsewhere. A home notices (`state-store`, homes) and tells
//! whoever registered his later. What becomes of that one depends on how far it is:
//!
//! - Its backend has not answered: it gives way to the first, at once.
//! - Its backend has answered, the client not: the client's next segment decides, for it acknowledges
//!   the number of one backend or of the other. Until then the first record is kept aside.
//! - It is established: client and backend have agreed on it. It stays, and is said again, so that
//!   everybody prefers it to the first.
//!
//! The half-open connection of a backend whose session gave way is reset: left alone it would go on
//! answering, and a client that takes its SYN-ACK for an old one would make it reset the client.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use crossbeam_queue::ArrayQueue;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{SessionFlags, SessionRecord};
use parking_lot::Mutex;

use super::index::Wait;
use super::key::PackedKey;
use super::record::{TIME_BASE_MS, state};
use super::sink::Source;
use super::stats::count;
use super::table::SessionTable;
use super::{Side, Slot};

/// Resets, and sessions to be said again, that may wait.
const QUEUE: usize = 1_024;

/// First records that are kept aside. One that finds no room is forgotten: its twin stays, then.
const ASIDE: usize = 1_024;

/// How long (ms) a first record is kept aside.
const ASIDE_MS: u64 = 30_000;

/// The backend's side of a half-open connection that is to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HalfOpenReset {
    /// Backend > LIP.
    pub reply: FlowKey,
    /// The number that the backend expects.
    pub seq: u32,
}

/// What has to be done about twins.
pub(super) struct Twins {
    aside: Mutex<HashMap<PackedKey, (u64, SessionRecord), RandomState>>,
    resets: ArrayQueue<HalfOpenReset>,
    again: ArrayQueue<Slot>,
    adopted: AtomicU64,
    kept: AtomicU64,
}

impl Twins {
    pub(super) fn new() -> Twins {
        Twins {
            aside: Mutex::new(HashMap::with_capacity_and_hasher(ASIDE, RandomState::new())),
            resets: ArrayQueue::new(QUEUE),
            again: ArrayQueue::new(QUEUE),
            adopted: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    /// Sessions that gave way to their twin, and sessions that did not.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.adopted.load(Ordering::Relaxed), self.kept.load(Ordering::Relaxed))
    }
}

/// What the client's segment says about a session with a twin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TwinVerdict {
    /// It belongs to the first session, which has taken the place of the other.
    First(Slot),
    /// There is nothing to decide any more.
    Own,
    /// Another thread is writing: again next batch.
    Contended,
}

impl SessionTable {
    /// Another director has registered `first`, and this one a session of the same opening later.
    pub fn adopt_twin(&self, first: &SessionRecord) {
        let now = self.now();
        let key = PackedKey::new(&first.key);
        let _guest = self.slab.epochs.guest();
        let own = self.with(&key, Wait::Yes, |record, target| {
            let version = record.live()?;
            let incarnation = record.incarnation();
            let flags = record.flags();
            let twin = incarnation.isn == first.incarnation.isn && incarnation != first.incarnation;
            (twin && !flags.closing()).then_some((target.slot(), version, flags))
        });
        let Ok(Some(Some((slot, version, flags)))) = own else { return };
        let decided = first.flags.established();
        if flags.established() && !decided {
            count(&self.twins.kept);
            self.say_again(slot);
        } else if flags.established() {
            // Both say that the client has agreed with them: the store decides.
        } else if flags.has(SessionFlags::BACKEND_ANSWERED) && !decided {
            let mut aside = self.twins.aside.lock();
            if aside.len() >= ASIDE {
                aside.retain(|_, (since, _)| now < *since + ASIDE_MS);
            }
            if aside.len() < ASIDE {
                aside.insert(key, (now, first.clone()));
                drop(aside);
                self.change(self.record(slot), |bits| bits | state::TWIN);
            }
        } else {
            self.give_up(slot, version, Wait::Yes);
            let _ = self.accept(first, now, Source::Peer);
        }
    }

    /// The client's segment does not belong to the session in this slot, which has a twin: the first
    /// takes its place.
    pub fn resolve_twin(&self, slot: Slot, now_ms: u64) -> TwinVerdict {
        let record = self.record(slot);
        let key = record.key(Side::Client);
        let Some(mut aside) = self.twins.aside.try_lock() else { return TwinVerdict::Contended };
        let first = aside.remove(&key);
        drop(aside);
        self.change(record, |bits| bits & !state::TWIN);
        let Some((since, first)) = first else { return TwinVerdict::Own };
        let Some(version) = record.live() else { return TwinVerdict::Contended };
        self.give_up(slot, version, Wait::No);
        let mut first = first;
        let aged = u32::try_from(now_ms + TIME_BASE_MS - since.min(now_ms + TIME_BASE_MS));
        let aged = aged.unwrap_or(u32::MAX);
        first.created_age_ms = first.created_age_ms.saturating_add(aged);
        first.client.age_ms = first.client.age_ms.saturating_add(aged);
        first.backend_seen.age_ms = first.backend_seen.age_ms.saturating_add(aged);
        match self.install(&first, now_ms) {
            Ok(slot) => TwinVerdict::First(slot),
            // The homes know it: its next packet asks them.
            Err(_) => TwinVerdict::Contended,
        }
    }

    /// A session with a twin is established: everybody should know.
    pub fn twin_won(&self, slot: Slot) {
        let record = self.record(slot);
        self.change(record, |bits| bits & !state::TWIN);
        count(&self.twins.kept);
        self.say_again(slot);
    }

    fn say_again(&self, slot: Slot) {
        // What finds no room is said with the next telling.
        let _ = self.twins.again.push(slot);
    }

    fn give_up(&self, slot: Slot, version: u64, wait: Wait) {
        let record = self.record(slot);
        let reply = record.key(Side::Backend).unpack();
        let isn = record.incarnation().isn;
        if self.free(slot, version, wait) {
            count(&self.twins.adopted);
            if reply.protocol == Protocol::Tcp {
                // One that finds no room leaves the backend's half-open connection to its own timer.
                let _ = self.twins.resets.push(HalfOpenReset { reply, seq: isn.wrapping_add(1) });
            }
        }
    }

    /// A backend's half-open connection that is to be reset now. For workers.
    pub fn next_reset(&self) -> Option<HalfOpenReset> {
        self.twins.resets.pop()
    }

    /// A session that homes have to be told of again.
    pub fn next_said_again(&self) -> Option<Slot> {
        self.twins.again.pop()
    }
}
