//! One session's record: what lies in which word.
//!
//! Every word is an atomic, so reading a record that is being rewritten is never undefined, only
//! wrong; the version word says which. Words of the first two lines and those marked *fixed* are
//! written before the record goes live and stay until its slot is used again. Each direction has a
//! line of its own, because its packets come to its own worker.
#![forbid(unsafe_code)]

use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, SessionFlags, SessionRecord,
};

use super::Side;
use super::key::{KEY_WORDS, LAST_WORD, PackedKey};
use super::slab::WORDS;
use super::sync::{AtomicU64, Ordering, fence};

/// Indexes of words.
pub(super) mod word {
    /// How often the slot was used, and [`Phase`](super::Phase) in the two low bits.
    pub const VERSION: usize = 0;
    /// [`SessionFlags`] and the bits of [`state`](super::state).
    pub const STATE: usize = 1;
    /// Client > VIP. Fixed.
    pub const KEY: usize = 2;
    /// Table time from which the sweep has something to do here.
    pub const DUE: usize = 7;
    /// Backend > LIP; mode and bucket above the last word's key bits. Fixed.
    pub const REPLY: usize = 8;
    /// Listener (high half), backend. Fixed.
    pub const TARGET: usize = 13;
    /// Incarnation: stamp. Fixed.
    pub const STAMP: usize = 14;
    /// Incarnation: counter. Fixed.
    pub const COUNTER: usize = 15;
    /// The client's direction: four words, see [`half`](super::half).
    pub const CLIENT: usize = 16;
    /// Table time of creation. Fixed.
    pub const CREATED: usize = 20;
    /// Idle timeout (high half), replicate-after ([`DEFAULT_AFTER`](super::DEFAULT_AFTER): ask the
    /// listener). Fixed.
    pub const TIMES: usize = 21;
    /// ISN delta (high half), timestamp delta. Fixed.
    pub const DELTAS: usize = 22;
    /// Owner (high half), generation.
    pub const OWNER: usize = 23;
    /// The backend's direction.
    pub const BACKEND: usize = 24;
    /// Flags that the store is known to have (low), flags last sent to it (16 bits higher). In the high
    /// half when the ends of an expiring session first showed that they are at rest: client, backend.
    pub const SAID: usize = 28;
    /// Incarnation: creator (high half), ISN. Fixed.
    pub const CREATOR: usize = 29;
    /// Table time of the last refresh that this director sent or was present at; of an expiring
    /// session, since when it is that.
    pub const REFRESHED: usize = 30;
    /// The next slot in a list of unused ones.
    pub const NEXT: usize = 31;
}

/// Words of a direction, from its first. What was seen here and what others reported have a writer
/// each (a worker; the store's apply thread), so that neither can overwrite the other's news.
pub(super) mod half {
    /// Table time of the last packet seen here; 0: none.
    pub const LOCAL: usize = 0;
    /// Its sequence end (high half) and acknowledgement.
    pub const LOCAL_NUMBERS: usize = 1;
    /// Table time of the last packet that another director reported; 0: none.
    pub const REMOTE: usize = 2;
    /// Its sequence end and acknowledgement.
    pub const REMOTE_NUMBERS: usize = 3;
}

/// Bits of the state word above the session's flags.
pub(super) mod state {
    /// Where the flags are.
    pub const FLAGS: u64 = 0xffff;
    /// Counted in the pool of half-open sessions and in its port class.
    pub const HALF_OPEN: u64 = 1 << 16;
    /// A flush has to wait for it. Derived, see `SessionTable::change`.
    pub const UNREPLICATED: u64 = 1 << 17;
    /// Its listener wants no replication.
    pub const NEVER: u64 = 1 << 18;
    /// The store has it.
    pub const ACKED: u64 = 1 << 19;
    /// Its create was handed out at least once.
    pub const PROPOSED: u64 = 1 << 20;
    /// A newer session took its client key; it only keeps its local port at rest.
    pub const DETACHED: u64 = 1 << 21;
    /// Its owner is this director.
    pub const OWNED: u64 = 1 << 22;
    /// Its owner changed here and the store was not told yet.
    pub const ADOPTED: u64 = 1 << 23;
    /// Freed.
    pub const DEAD: u64 = 1 << 24;
    /// Freed by a worker that might not wait for the index: something still leads here, and whoever
    /// meets that removes it.
    pub const LINKED: u64 = 1 << 25;
    /// Its time is over and the store has it no more: it stays until its ends have been told, or until
    /// somebody proves it alive.
    pub const EXPIRING: u64 = 1 << 26;
    /// The client was sent a reset that it accepts.
    pub const CLIENT_RESET: u64 = 1 << 27;
    /// So was the backend.
    pub const BACKEND_RESET: u64 = 1 << 28;
    /// The lower of two bits that count how often the ends were probed.
    pub const PROBES_SHIFT: u32 = 29;
    /// Its owner has departed since it is expiring.
    pub const ORPHANED: u64 = 1 << 31;
    /// Everything about the end of an expiring session.
    pub const ENDING: u64 = EXPIRING | CLIENT_RESET | BACKEND_RESET | 3 << PROBES_SHIFT | ORPHANED;
    /// Nobody needs to hear more of it.
    pub const SETTLED: u64 = NEVER | DETACHED | DEAD | EXPIRING;
    /// Another director has a session of the same opening; the client's next segment decides.
    pub const TWIN: u64 = 1 << 40;
    /// It came from another director, or the others were asked whether they have another one of the same
    /// opening.
    pub const ASKED: u64 = 1 << 41;
    /// Its backend was sent a SYN of another opening.
    pub const FOREIGN_SYN: u64 = 1 << 42;
    /// Its numbers here are far from those that all know.
    pub const FAR: u64 = 1 << 43;
    /// Its backend was asked for its numbers.
    pub const PROBED: u64 = 1 << 44;
    /// It was asked again.
    pub const PROBED_TWICE: u64 = 1 << 45;
    /// The lowest of the 16 bits that tell when it was asked last, of the first two times ([`PROBED_UNIT_MS`]).
    pub const PROBED_AT_SHIFT: u32 = 48;
    /// All of them.
    pub const PROBED_AT: u64 = 0xffff << PROBED_AT_SHIFT;
}

/// The unit (ms) in which a record keeps when its backend was asked for its numbers: it comes round after
/// more than an hour, and a half-open session lives for seconds.
pub(super) const PROBED_UNIT_MS: u64 = 64;

/// What a record is, in the low bits of its version.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Never used, or freed: zero is what fresh memory says.
    Free = 0,
    /// Being written.
    Writing = 1,
    /// In use.
    Live = 2,
}

const PHASE: u64 = 3;

/// Where in [`word::SAID`] the flags are that were last sent to the store.
pub(super) const SENT_SHIFT: u32 = 16;

/// Replicate-after of a record that came from another director.
pub(super) const DEFAULT_AFTER: u32 = u32::MAX;

/// Table time is CLOCK_MONOTONIC plus this: 0 stays "never", and an age (32 bits) that reaches back
/// before the machine's start can be subtracted.
pub(super) const TIME_BASE_MS: u64 = 1 << 32;

#[inline]
pub(super) fn pack(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[inline]
pub(super) fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline]
pub(super) fn low(word: u64) -> u32 {
    word as u32
}

/// How many milliseconds before `now` (table time) `then` was, within 32 bits.
pub(super) fn age(now: u64, then: u64) -> u32 {
    u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX)
}

/// The words of one record.
#[derive(Clone, Copy)]
pub(super) struct Record<'t>(pub(super) &'t [AtomicU64; WORDS]);

impl Record<'_> {
    #[inline]
    pub(super) fn get(&self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn put(&self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    /// The version, if the record is live. What is read afterwards counts if [`still`](Self::still).
    #[inline]
    pub(super) fn live(&self) -> Option<u64> {
        let version = self.0[word::VERSION].load(Ordering::Acquire);
        (version & PHASE == Phase::Live as u64).then_some(version)
    }

    /// Whether the record was not rewritten since its version was read.
    #[inline]
    pub(super) fn still(&self, version: u64) -> bool {
        // The reading half of a sequence lock: the words read before may not move below this.
        fence(Ordering::Acquire);
        self.get(word::VERSION) == version
    }

    /// Begins to write a record whose slot nobody else may use.
    pub(super) fn begin(&self) {
        let version = self.get(word::VERSION);
        self.put(word::VERSION, (version | PHASE) + 1 + Phase::Writing as u64);
        // The writing half of the sequence lock: the words written after may not move above.
        fence(Ordering::Release);
    }

    /// Ends writing: live from now on. Returns the version that names the session.
    pub(super) fn publish(&self) -> u64 {
        let version = self.get(word::VERSION) & !PHASE | Phase::Live as u64;
        self.0[word::VERSION].store(version, Ordering::Release);
        version
    }

    /// Ends the life of the session that `version` names. Only one caller is told true.
    pub(super) fn end(&self, version: u64) -> bool {
        let free = version & !PHASE | Phase::Free as u64;
        self.0[word::VERSION]
            .compare_exchange(version, free, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    fn packed(&self, first: usize) -> PackedKey {
        let mut key = PackedKey([0; KEY_WORDS]);
        for (to, at) in key.0.iter_mut().zip(first..) {
            *to = self.get(at);
        }
        key.0[KEY_WORDS - 1] &= LAST_WORD;
        key
    }

    #[inline]
    pub(super) fn key(&self, side: Side) -> PackedKey {
        self.packed(match side {
            Side::Client => word::KEY,
            Side::Backend => word::REPLY,
        })
    }

    pub(super) fn put_keys(
        &self,
        key: &PackedKey,
        reply: &PackedKey,
        mode: ForwardingMode,
        bucket: Bucket,
    ) {
        for i in 0..KEY_WORDS {
            self.put(word::KEY + i, key.0[i]);
            self.put(word::REPLY + i, reply.0[i]);
        }
        let extra = (mode as u64) << 40 | (bucket.index() as u64) << 48;
        self.put(word::REPLY + KEY_WORDS - 1, reply.0[KEY_WORDS - 1] | extra);
    }

    pub(super) fn mode(&self) -> ForwardingMode {
        match (self.get(word::REPLY + KEY_WORDS - 1) >> 40) as u8 {
            0 => ForwardingMode::FullNat,
            1 => ForwardingMode::Dnat,
            2 => ForwardingMode::DsrL2,
            _ => ForwardingMode::DsrTunnel,
        }
    }

    pub(super) fn bucket(&self) -> Bucket {
        // `of_local_port` takes the low six bits, which is all there is.
        Bucket::of_local_port((self.get(word::REPLY + KEY_WORDS - 1) >> 48) as u16)
    }

    #[inline]
    pub(super) fn flags(&self) -> SessionFlags {
        SessionFlags((self.get(word::STATE) & state::FLAGS) as u16)
    }

    /// Whether the store has the session and does not know how far its handshake is. (`bits` is the state
    /// word.) Whoever carries it on sees none.
    pub(super) fn untold(&self, bits: u64) -> bool {
        self.lacks_handshake(bits, 0)
    }

    /// The same, and it was not sent either.
    pub(super) fn unsent(&self, bits: u64) -> bool {
        self.lacks_handshake(bits, 0) && self.lacks_handshake(bits, SENT_SHIFT)
    }

    /// Whether its backend has denied the connection with the client, and the store is not known to know that.
    pub(super) fn has_news_of_denial(&self, bits: u64) -> bool {
        let flags = SessionFlags((bits & state::FLAGS) as u16);
        let stored = || SessionFlags(self.get(word::SAID) as u16).has(SessionFlags::DENIED);
        flags.has(SessionFlags::DENIED)
            && !flags.established()
            && !flags.closing()
            && bits & state::SETTLED == 0
            && !(bits & state::ACKED != 0 && stored())
    }

    fn lacks_handshake(&self, bits: u64, said_shift: u32) -> bool {
        const HANDSHAKE: u64 =
            (SessionFlags::BACKEND_ANSWERED.0 | SessionFlags::ESTABLISHED.0) as u64;
        // What is said lies in another cache line than the state.
        bits & state::ACKED != 0
            && bits & state::SETTLED == 0
            && bits & HANDSHAKE != 0
            && !SessionFlags((bits & state::FLAGS) as u16).closing()
            && bits & !(self.get(word::SAID) >> said_shift) & HANDSHAKE != 0
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        let creator = self.get(word::CREATOR);
        Incarnation {
            stamp: self.get(word::STAMP),
            creator: DirectorId(high(creator)),
            counter: self.get(word::COUNTER),
            isn: low(creator),
        }
    }

    pub(super) fn put_incarnation(&self, incarnation: &Incarnation) {
        self.put(word::STAMP, incarnation.stamp);
        self.put(word::COUNTER, incarnation.counter);
        self.put(word::CREATOR, pack(incarnation.creator.0, incarnation.isn));
    }

    pub(super) fn owner(&self) -> DirectorId {
        DirectorId(high(self.get(word::OWNER)))
    }

    /// The later of what was seen here and what was reported, as (table time, numbers).
    pub(super) fn merged(&self, first: usize) -> (u64, u64) {
        let (local, remote) = (self.get(first + half::LOCAL), self.get(first + half::REMOTE));
        if local >= remote {
            (local, self.get(first + half::LOCAL_NUMBERS))
        } else {
            (remote, self.get(first + half::REMOTE_NUMBERS))
        }
    }

    /// Table time of the last packet of either side that this director saw itself; 0: none.
    pub(super) fn seen_here(&self) -> u64 {
        self.get(word::CLIENT + half::LOCAL).max(self.get(word::BACKEND + half::LOCAL))
    }

    /// Table time of the last packet of either side that anybody saw, or of creation.
    pub(super) fn seen(&self) -> u64 {
        self.merged(word::CLIENT).0.max(self.merged(word::BACKEND).0).max(self.get(word::CREATED))
    }

    /// Table time from which the session is forgotten if no packet comes.
    pub(super) fn expires(&self) -> u64 {
        let limit = self.flags().idle_limit_ms(high(self.get(word::TIMES)));
        self.seen() + u64::from(limit)
    }

    /// Takes over what another director saw of a direction, if it is not older than the last report.
    pub(super) fn report(&self, first: usize, seen: &HalfSeen, now: u64) {
        let then = now.saturating_sub(u64::from(seen.age_ms)).max(1);
        if then >= self.get(first + half::REMOTE) {
            self.put(first + half::REMOTE_NUMBERS, pack(seen.seq, seen.ack));
            self.put(first + half::REMOTE, then);
        }
    }

    /// One direction as it is told to others. A side never seen counts as seen at creation.
    pub(super) fn half_seen(&self, first: usize, now: u64) -> HalfSeen {
        let (then, numbers) = match self.merged(first) {
            // Its words are those of the slot's session before.
            (0, _) => (self.get(word::CREATED), 0),
            seen => seen,
        };
        HalfSeen { age_ms: age(now, then), seq: high(numbers), ack: low(numbers) }
    }

    /// The session as it is told to others; ages relative to `now` (table time).
    pub(super) fn describe(&self, now: u64) -> SessionRecord {
        let (target, deltas) = (self.get(word::TARGET), self.get(word::DELTAS));
        SessionRecord {
            key: self.key(Side::Client).unpack(),
            reply: self.key(Side::Backend).unpack(),
            incarnation: self.incarnation(),
            generation: low(self.get(word::OWNER)),
            listener: ListenerId(high(target)),
            backend: BackendId(low(target)),
            mode: self.mode(),
            owner: self.owner(),
            flags: self.flags(),
            created_age_ms: age(now, self.get(word::CREATED)),
            idle_timeout_ms: high(self.get(word::TIMES)),
            isn_delta: high(deltas),
            timestamp_delta: low(deltas),
            client: self.half_seen(word::CLIENT, now),
            backend_seen: self.half_seen(word::BACKEND, now),
        }
    }
}

/// Replicate-after as the record keeps it, and whether it is *never*.
pub(super) fn pack_replicate_after(after: ReplicateAfter) -> (u32, bool) {
    match after {
        ReplicateAfter::Millis(ms) => (ms.min(DEFAULT_AFTER - 1), false),
        ReplicateAfter::Never => (0, true),
    }
}

pub(super) fn side_words(side: Side) -> usize {
    match side {
        Side::Client => word::CLIENT,
        Side::Backend => word::BACKEND,
    }
}
