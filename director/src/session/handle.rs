//! The handle through which a session in the slab is used.
#![forbid(unsafe_code)]

use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{ForwardingMode, Incarnation, SessionFlags, SessionRecord};

use super::record::{
    PROBED_UNIT_MS, Record, TIME_BASE_MS, half, high, low, pack, side_words, state, word,
};
use super::table::SessionTable;
use super::{Side, Slot};

/// A backend counts as asked twice when there was this much time (ms) between, by the rough clock of
/// [`PROBED_UNIT_MS`]: 65 at least, 192 at most. What is sent in one burst comes within a few; a client repeats what
/// was lost after 200.
const ASKED_AGAIN_MS: u64 = 2 * PROBED_UNIT_MS;

/// A session in the slab.
///
/// For a worker, everything here stays true from its lookup to its next quiescent point, even if
/// another thread frees the session meanwhile; the module's documentation says why.
#[derive(Clone, Copy)]
pub struct Session<'t> {
    pub(super) table: &'t SessionTable,
    pub(super) record: Record<'t>,
    pub(super) slot: Slot,
}

impl Session<'_> {
    /// Its slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Client > VIP.
    #[inline]
    pub fn key(&self) -> FlowKey {
        self.record.key(Side::Client).unpack()
    }

    /// Backend > LIP.
    #[inline]
    pub fn reply(&self) -> FlowKey {
        self.record.key(Side::Backend).unpack()
    }

    /// Which use of its key this is.
    pub fn incarnation(&self) -> Incarnation {
        self.record.incarnation()
    }

    /// The listener it came through.
    #[inline]
    pub fn listener(&self) -> ListenerId {
        ListenerId(high(self.record.get(word::TARGET)))
    }

    /// The backend it began with.
    #[inline]
    pub fn backend(&self) -> BackendId {
        BackendId(low(self.record.get(word::TARGET)))
    }

    /// How its packets are rewritten.
    #[inline]
    pub fn mode(&self) -> ForwardingMode {
        self.record.mode()
    }

    /// Its bucket.
    #[inline]
    pub fn bucket(&self) -> Bucket {
        self.record.bucket()
    }

    /// The director that forwards the client's side, as far as known here.
    pub fn owner(&self) -> DirectorId {
        self.record.owner()
    }

    /// The listener's idle timeout when it began.
    pub fn idle_timeout_ms(&self) -> u32 {
        high(self.record.get(word::TIMES))
    }

    /// When it was created (0: before this machine started).
    pub fn created_ms(&self) -> u64 {
        self.record.get(word::CREATED).saturating_sub(TIME_BASE_MS)
    }

    /// Added to the client's sequence numbers towards the backend.
    #[inline]
    pub fn isn_delta(&self) -> u32 {
        high(self.record.get(word::DELTAS))
    }

    /// Added to the client's TCP timestamps towards the backend.
    #[inline]
    pub fn timestamp_delta(&self) -> u32 {
        low(self.record.get(word::DELTAS))
    }

    /// What has been seen of it, by anybody.
    #[inline]
    pub fn flags(&self) -> SessionFlags {
        self.record.flags()
    }

    /// The flags, and whether the session is expiring.
    #[inline]
    pub fn standing(&self) -> (SessionFlags, bool) {
        let bits = self.record.get(word::STATE);
        (SessionFlags((bits & state::FLAGS) as u16), bits & state::EXPIRING != 0)
    }

    /// Adds flags. Cheap when they are all set already.
    #[inline]
    pub fn set_flags(&self, flags: SessionFlags) {
        if !self.record.flags().has(flags) {
            self.table.change(self.record, |word| word | u64::from(flags.0));
            self.table.look_soon(self.record);
        }
    }

    /// Has what was seen here told to all at once, and not with the next refresh.
    pub fn tell_soon(&self) {
        self.table.change(self.record, |bits| bits | state::FAR);
        self.table.look_soon(self.record);
    }

    /// Records a packet of one side: two plain stores.
    #[inline]
    pub fn touch(&self, side: Side, now_ms: u64, seq_end: u32, ack: u32) {
        let first = side_words(side);
        self.record.put(first + half::LOCAL_NUMBERS, pack(seq_end, ack));
        self.record.put(first + half::LOCAL, now_ms + TIME_BASE_MS);
    }

    /// Sequence end and acknowledgement of the last packet of one side, if anybody saw one.
    pub fn numbers(&self, side: Side) -> Option<(u32, u32)> {
        let (then, numbers) = self.record.merged(side_words(side));
        (then != 0).then(|| (high(numbers), low(numbers)))
    }

    /// For how long (ms) this director itself has seen no packet of one side; if it never saw one, for
    /// ever.
    pub fn unseen_ms(&self, side: Side, now_ms: u64) -> u64 {
        match self.record.get(side_words(side) + half::LOCAL) {
            0 => u64::MAX,
            then => (now_ms + TIME_BASE_MS).saturating_sub(then),
        }
    }

    /// How long ago (ms) it began, wherever that was.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        (now_ms + TIME_BASE_MS).saturating_sub(self.record.get(word::CREATED))
    }

    /// Whether the store is known to have it.
    pub fn replicated(&self) -> bool {
        self.record.get(word::STATE) & state::ACKED != 0
    }

    /// Whether another director has a session of the same opening, and it is not decided which stays.
    #[inline]
    pub fn has_twin(&self) -> bool {
        self.record.get(word::STATE) & state::TWIN != 0
    }

    /// Whether the others had an occasion to tell of another session of the same opening.
    pub fn was_asked(&self) -> bool {
        self.record.get(word::STATE) & state::ASKED != 0
    }

    /// Notes that they had one.
    pub fn note_asked(&self) {
        self.table.change(self.record, |bits| bits | state::ASKED);
    }

    /// Whether its backend was asked for its numbers.
    pub fn was_probed(&self) -> bool {
        self.record.get(word::STATE) & state::PROBED != 0
    }

    /// Notes that it was. What is asked of one burst of packets may be lost together: it counts once. The answer may
    /// come to another director: what the others have said before counts no more.
    pub fn note_probed(&self, now_ms: u64) {
        let before = self.record.get(word::STATE);
        let anew = before & state::PROBED == 0 || since_probed_ms(before, now_ms) >= ASKED_AGAIN_MS;
        if anew && before & state::PROBED_TWICE == 0 {
            let bit = if before & state::PROBED == 0 { state::PROBED } else { state::PROBED_TWICE };
            let then = (now_ms / PROBED_UNIT_MS) << state::PROBED_AT_SHIFT;
            self.table.change(self.record, |bits| bits & !state::PROBED_AT | bit | then);
        }
        if before & state::ASKED != 0 {
            self.table.change(self.record, |bits| bits & !state::ASKED);
        }
    }

    /// For how long (ms, to 64) its backend has not denied the connection with the client since it was asked, or
    /// asked `twice`; None if it was not, or has denied it.
    pub fn not_denied_for_ms(&self, twice: bool, now_ms: u64) -> Option<u64> {
        let bits = self.record.get(word::STATE);
        let asked = if twice { state::PROBED_TWICE } else { state::PROBED };
        let asked = bits & asked != 0 && !self.flags().has(SessionFlags::DENIED);
        asked.then_some(since_probed_ms(bits, now_ms))
    }

    /// Whether its backend was sent a SYN of another opening of its client.
    pub fn had_foreign_syn(&self) -> bool {
        self.record.get(word::STATE) & state::FOREIGN_SYN != 0
    }

    /// Notes that it was.
    pub fn note_foreign_syn(&self) {
        if !self.had_foreign_syn() {
            self.table.change(self.record, |bits| bits | state::FOREIGN_SYN);
        }
    }

    /// Whether its client has a newer session, and this one only keeps its local port.
    pub fn is_detached(&self) -> bool {
        self.record.get(word::STATE) & state::DETACHED != 0
    }

    /// The session as it is told to others.
    pub fn describe(&self, now_ms: u64) -> SessionRecord {
        self.record.describe(now_ms + TIME_BASE_MS)
    }
}

/// How long (ms) it is since the backend was asked, as far as that counts.
fn since_probed_ms(bits: u64, now_ms: u64) -> u64 {
    let then = bits >> state::PROBED_AT_SHIFT;
    let since = (now_ms / PROBED_UNIT_MS).wrapping_sub(then) & 0xffff;
    // Another worker's clock may be a little ahead.
    let since = if since < 0x8000 { since } else { 0 };
    since * PROBED_UNIT_MS
}
