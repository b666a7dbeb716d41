//! Twins: two sessions that one opening of a client has made at two directors, because its SYN came
//! twice and the router sent the second one elsewhere. A home notices (`state-store`, homes) and tells
//! both directors of the other's; or the client's segment comes first, and is in question here because it
//! acknowledges a number that is not this backend's: then the others are asked for its session. What
//! becomes of the one that is here depends on how far it is:
//!
//! - Its backend has not answered: it gives way to an older one, at once.
//! - Its backend has answered, the client not: the client's next segment decides, for it acknowledges
//!   the number of one backend or of the other. Until then the other record is kept aside.
//! - It is established: client and backend have agreed on it. It stays, and is said again, so that
//!   everybody prefers it to the other.
//! - The other is established: it gives way.
//!
//! To one that has expired nothing gives way. (What a home keeps outlives a director that died.)
//!
//! Which one is older both directors see alike ([`prevails`]): when they tell each other at the same time,
//! only one gives way.
//!
//! The half-open connection of a backend whose session gave way is reset: left alone it would go on
//! answering, and a client that takes its SYN-ACK for an old one would make it reset the client.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use crossbeam_queue::ArrayQueue;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{HalfSeen, Incarnation, SessionFlags, SessionRecord, prevails};
use parking_lot::Mutex;

use super::accept::Source;
use super::index::Wait;
use super::key::PackedKey;
use super::open::OpenError;
use super::record::{TIME_BASE_MS, state};
use super::stats::count;
use super::table::SessionTable;
use super::{Side, Slot};

/// Resets, and sessions to be said again, that may wait.
const QUEUE: usize = 1_024;

/// Records of others that are kept aside. One that finds no room is forgotten: its twin stays, then.
const ASIDE: usize = 1_024;

/// How long (ms) one is kept aside.
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
            // Twice the room: workers write here, and with less it might have to grow one day.
            aside: Mutex::new(HashMap::with_capacity_and_hasher(2 * ASIDE, RandomState::new())),
            resets: ArrayQueue::new(QUEUE),
            again: ArrayQueue::new(QUEUE),
            adopted: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }

    /// What is kept aside and not out of date, and what is queued.
    #[cfg(feature = "simulation")]
    pub(super) fn waiting(&self, now: u64) -> (u64, u64) {
        let aside = self.aside.lock();
        let aside = aside.values().filter(|(since, _)| now < since + ASIDE_MS).count();
        (aside as u64, (self.resets.len() + self.again.len()) as u64)
    }

    /// Sessions that gave way to their twin, and sessions that did not.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.adopted.load(Ordering::Relaxed), self.kept.load(Ordering::Relaxed))
    }
}

/// What the client's segment says about a session with a twin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TwinVerdict {
    /// It belongs to the other session, which has taken the place of this one.
    Other(Slot),
    /// There is nothing to decide any more.
    Own,
    /// Another thread is writing: again next batch.
    Contended,
}

/// A session of which another director has a twin.
struct Own {
    slot: Slot,
    version: u64,
    incarnation: Incarnation,
    flags: SessionFlags,
}

impl SessionTable {
    /// Another director has `other`, and this one, perhaps, a session of the same opening.
    pub fn adopt_twin(&self, other: &SessionRecord) {
        let _guest = self.slab.epochs.guest();
        if let Ok(Some(own)) = self.twin_here(other, Wait::Yes) {
            self.settle(&own, other, self.now(), Wait::Yes);
        }
    }

    /// Takes what another director has answered to a question. For workers. What finds a session with a
    /// better claim here, or no room, is not taken; false: it was the room, or another thread was writing.
    pub fn learn(&self, said: &SessionRecord, now_ms: u64) -> bool {
        let _guest = self.slab.epochs.guest();
        match self.twin_here(said, Wait::No) {
            Ok(Some(own)) if said.incarnation.is_twin_of(&own.incarnation) => {
                self.settle(&own, said, now_ms + TIME_BASE_MS, Wait::No)
            }
            Ok(_) => matches!(self.install(said, now_ms), Ok(_) | Err(OpenError::Exists(_))),
            Err(_) => false,
        }
    }

    /// The session here that is not over and was made by the same opening as `other`.
    fn twin_here(&self, other: &SessionRecord, wait: Wait) -> Result<Option<Own>, OpenError> {
        let own = self.with(&PackedKey::new(&other.key), wait, |record, target| {
            let version = record.live()?;
            let (incarnation, flags) = (record.incarnation(), record.flags());
            let twin = incarnation.isn == other.incarnation.isn && incarnation != other.incarnation;
            let own = Own { slot: target.slot(), version, incarnation, flags };
            (twin && !flags.closing()).then_some(own)
        })?;
        Ok(own.flatten())
    }

    /// Decides between twins, or prepares the decision of the client's next segment. False: there is no room
    /// for that, or another thread was writing.
    fn settle(&self, own: &Own, other: &SessionRecord, now: u64, wait: Wait) -> bool {
        let (flags, decided) = (own.flags, other.flags.established());
        if flags.established() {
            // If both say that the client has agreed with them, the store decides.
            if !decided {
                count(&self.twins.kept);
                self.say_again(own.slot);
            }
            return true;
        }
        // It would be gone at the next look, and there would be none.
        if other.idle_ms() >= other.idle_limit_ms() {
            return true;
        }
        let two = other.incarnation.is_twin_of(&own.incarnation);
        let loses = !two || prevails((&other.incarnation, other.flags), (&own.incarnation, flags));
        if decided || loses && !flags.has(SessionFlags::BACKEND_ANSWERED) {
            self.give_up(own.slot, own.version, other, wait);
            let _ = self.accept(other, now, Source::Peer);
        } else if !other.flags.closing() {
            if !self.put_aside(other, now, wait) {
                return false;
            }
            self.change(self.record(own.slot), |bits| bits | state::TWIN);
        }
        true
    }

    fn put_aside(&self, other: &SessionRecord, now: u64, wait: Wait) -> bool {
        let aside = match wait {
            Wait::Yes => Some(self.twins.aside.lock()),
            Wait::No => self.twins.aside.try_lock(),
        };
        let Some(mut aside) = aside else { return false };
        if aside.len() >= ASIDE {
            aside.retain(|_, (since, _)| now < *since + ASIDE_MS);
        }
        let room = aside.len() < ASIDE;
        if room {
            aside.insert(PackedKey::new(&other.key), (now, other.clone()));
        }
        room
    }

    /// The client's segment with this acknowledgement does not fit the session in this slot, which has a
    /// twin: if it is the twin's, that takes its place. One of the two backends' numbers has to tell;
    /// `excluded`: that of this session's says that it is not of this one.
    pub fn resolve_twin(&self, slot: Slot, now_ms: u64, excluded: bool, ack: u32) -> TwinVerdict {
        let record = self.record(slot);
        let key = record.key(Side::Client);
        let Some(mut aside) = self.twins.aside.try_lock() else { return TwinVerdict::Contended };
        let is_its = |other: &SessionRecord| match other.flags.has(SessionFlags::BACKEND_ANSWERED) {
            true => other.backend_seen.seq == ack,
            // One that its backend has denied it is not: it is a third one's, or nobody's.
            false => excluded && !other.flags.has(SessionFlags::DENIED),
        };
        if aside.get(&key).is_some_and(|(_, other)| !is_its(other)) {
            return TwinVerdict::Own;
        }
        let other = aside.remove(&key);
        drop(aside);
        self.change(record, |bits| bits & !state::TWIN);
        let Some((since, mut other)) = other else { return TwinVerdict::Own };
        let Some(version) = record.live() else { return TwinVerdict::Contended };
        self.give_up(slot, version, &other, Wait::No);
        let aged = u32::try_from(now_ms + TIME_BASE_MS - since.min(now_ms + TIME_BASE_MS));
        let aged = aged.unwrap_or(u32::MAX);
        other.created_age_ms = other.created_age_ms.saturating_add(aged);
        other.client.age_ms = other.client.age_ms.saturating_add(aged);
        other.backend_seen.age_ms = other.backend_seen.age_ms.saturating_add(aged);
        if !other.flags.has(SessionFlags::BACKEND_ANSWERED) {
            // The client has agreed with one of the two backends, and not with this director's.
            other.flags = other.flags.with(SessionFlags::BACKEND_ANSWERED);
            let acknowledged = other.incarnation.isn.wrapping_add(1);
            other.backend_seen = HalfSeen { age_ms: 0, seq: ack, ack: acknowledged };
        }
        match self.install(&other, now_ms) {
            Ok(slot) => TwinVerdict::Other(slot),
            // The homes know it: its next packet asks them.
            Err(_) => TwinVerdict::Contended,
        }
    }

    /// Whether a segment that does not fit its session is in question. (A simulation proves that it notices
    /// what comes of it otherwise.)
    #[inline]
    pub(crate) fn expects_twins(&self) -> bool {
        #[cfg(feature = "simulation")]
        return !self.without_twins.load(Ordering::Relaxed);
        #[cfg(not(feature = "simulation"))]
        true
    }

    /// Takes every segment for one of the session that is here.
    #[cfg(feature = "simulation")]
    pub fn set_without_twins(&self) {
        self.without_twins.store(true, Ordering::Relaxed);
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

    fn give_up(&self, slot: Slot, version: u64, other: &SessionRecord, wait: Wait) {
        let record = self.record(slot);
        let reply = record.key(Side::Backend).unpack();
        let isn = record.incarnation().isn;
        if self.free(slot, version, wait) {
            count(&self.twins.adopted);
            if reply.protocol == Protocol::Tcp && reply != other.reply {
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
