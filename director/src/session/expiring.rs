//! The end of an open TCP connection that nobody used for its whole idle timeout.
//!
//! Its two ends do not know that it is over; forgotten in silence, it would hang at one of them for
//! ever. But they may know better: it may have been alive at a director that was cut off. So a session
//! that expires stays in the table for a while.
//!
//! 1. For [`VETO_MS`] only others speak. A packet of either end, or a director that saw one within the
//!    timeout and proposes the session again, brings it back.
//! 2. Then one director has both ends probed (`core/probe.rs`): the owner, or if that has departed
//!    since whoever leads the shard now. (One that comes back does not know what expired meanwhile.)
//!    Whoever leads also does it, two seconds later, if the owner may have started again unnoticed: it is
//!    not the one who made the session, in the same life.
//! 3. Whoever gets the answer, be it another director, judges it: numbers of a connection at rest get a
//!    reset with the number that this end accepts, anything else brings the session back. One end at rest
//!    proves little: what the other has sent may be lost, or on its way. So an end is reset when the other
//!    has shown here that it is at rest too, or if that stays silent here (it is dead, or another director
//!    gets its answers, who had a second for a veto) when it shows it again.
//! 4. When both ends were sent their reset, or answered nothing, the session is freed.
//!
//! A director that does not know it asks, and is told what it is ([`is_expiring`]): then it judges alike.
//!
//! All of that is state of the record, so nothing is lost when its owner or the leader dies meanwhile.
#![forbid(unsafe_code)]

use holdfast_schema::bucket::ShardId;
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::{SessionFlags, SessionRecord};

use super::handle::Session;
use super::record::{Record, TIME_BASE_MS, state, word};
use super::stats::{count, count_many};
use super::sweep::Step;
use super::sync::Ordering;
use super::table::SessionTable;
use super::{Side, Slot};

/// How long after a session's expiry its ends are left alone, so that others can veto.
const VETO_MS: u64 = 2_000;

/// From when on an answer counts as one. A little earlier than the first probe, because the clocks of
/// others began a little earlier.
pub(super) const ANSWER_MS: u64 = VETO_MS / 2;

/// How long a probe waits for its answer before the next one. (Linux answers old segments of a
/// connection twice a second at the most.)
const REPEAT_MS: u64 = 1_000;

/// How long an owner that may not know the session has its turn to itself.
const LATE_MS: u64 = 2 * REPEAT_MS;

/// How often an end is probed.
const PROBES: u64 = 3;

/// The unit of the times at which ends showed that they are at rest.
const SHOWN_UNIT_MS: u64 = 64;

/// Such a time, or 0.
const SHOWN: u64 = 0xffff;

/// How many units after the first answer one counts as that to a later probe. Before, it may be a copy
/// that the network made.
const LATER: u64 = 400 / SHOWN_UNIT_MS + 1;

/// How long a session waits for its turn to be probed at the most.
const TURN_MS: u64 = 30_000;

/// Probes a second, of one director. (A worker forwards a hundred times as many packets.)
pub const PROBES_PER_SECOND: u64 = 10_000;

/// Probes at once.
const BURST: u64 = 1_000;

/// Ends of a session that are to be probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    slot: Slot,
    version: u64,
    /// The client's.
    pub client: bool,
    /// The backend's.
    pub backend: bool,
}

impl Probe {
    /// The session's slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

/// How many probes may be sent now.
#[derive(Default)]
pub(super) struct ProbeBudget {
    left: u64,
    refilled: u64,
}

impl ProbeBudget {
    pub(super) fn refill(&mut self, now: u64) {
        let more = now.saturating_sub(self.refilled).saturating_mul(PROBES_PER_SECOND / 1_000);
        self.left = self.left.saturating_add(more).min(BURST);
        self.refilled = now;
    }

    fn take(&mut self, n: u64) -> bool {
        let left = self.left.checked_sub(n);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// The age of the last packets of an expiring session, as it is told to who asks: more than any timeout.
const OVER: u32 = u32::MAX;

/// Whether who told of this session has it as an expiring one.
pub(super) fn is_expiring(said: &SessionRecord) -> bool {
    said.idle_ms() == OVER
}

impl Record<'_> {
    /// The session as it is told to who asks, if it is. A listener's private ones are nobody else's
    /// business. A detached one is found by its reply key only, and its client key is its successor's by
    /// now. An expiring one is told as that, when the time has come from which on an answer of its ends
    /// counts: so it does at once where it is told. (Unless it is closing by now, and about to be that.)
    pub(super) fn tell(&self, now: u64) -> Option<SessionRecord> {
        let bits = self.get(word::STATE);
        if bits & (state::NEVER | state::DETACHED) != 0 {
            return None;
        }
        let mut told = self.describe(now);
        if bits & state::EXPIRING != 0 {
            if told.flags.closing() || now < self.get(word::REFRESHED) + ANSWER_MS {
                return None;
            }
            (told.client.age_ms, told.backend_seen.age_ms) = (OVER, OVER);
        }
        Some(told)
    }
}

impl SessionTable {
    /// Whether what a director knows itself stops an expiry. Always; but a simulation proves that it
    /// notices what comes of it otherwise.
    #[inline]
    pub(crate) fn vetoes(&self) -> bool {
        #[cfg(feature = "simulation")]
        return !self.without_veto.load(std::sync::atomic::Ordering::Relaxed);
        #[cfg(not(feature = "simulation"))]
        true
    }

    /// Switches the veto off.
    #[cfg(feature = "simulation")]
    pub fn set_without_veto(&self) {
        self.without_veto.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Keeps a session whose time is over until its ends have been told. False: there is nobody to tell,
    /// or no room for that, and it is to be freed.
    pub(super) fn begin_expiring(&self, record: Record<'_>, now: u64) -> bool {
        let flags = record.flags();
        let open = flags.established() && !flags.closing();
        let detached = record.get(word::STATE) & state::DETACHED != 0;
        if !open || detached || record.key(Side::Client).unpack().protocol != Protocol::Tcp {
            return false;
        }
        if self.crowded() {
            count_many(&self.counts.ends_unprobed, 2);
            return false;
        }
        if record.get(word::STATE) & state::EXPIRING == 0 {
            count(&self.counts.expired);
            record.put(word::REFRESHED, now);
            // A worker that met its last end late may have noted something.
            record.0[word::SAID].fetch_and(u64::from(u32::MAX), Ordering::Relaxed);
            let gone = state::ACKED | state::PROPOSED | state::ADOPTED | state::ENDING;
            self.change(record, |bits| bits & !gone | state::EXPIRING);
            self.look_soon(record);
        }
        true
    }

    /// Keeps a session that the store does not have, because it is alive: it is to be proposed (again).
    pub(super) fn keep(&self, record: Record<'_>) {
        count(&self.counts.vetoed);
        self.propose_again(record);
    }

    /// Takes a session for one that the store does not have and was told nothing of.
    pub(super) fn propose_again(&self, record: Record<'_>) {
        record.put(word::SAID, 0);
        self.change(record, |bits| bits & !(state::ACKED | state::PROPOSED | state::ENDING));
        self.look_soon(record);
    }

    /// The session that is to be probed, if it still is; valid until the caller's next quiescent point.
    pub fn probed(&self, probe: &Probe) -> Option<Session<'_>> {
        let session = self.session(probe.slot);
        let same = session.record.live() == Some(probe.version);
        (same && session.standing().1).then_some(session)
    }
}

impl Session<'_> {
    /// Whether an answer to a probe may come by now. (Of a session that is expiring.)
    pub fn may_be_answered(&self, now_ms: u64) -> bool {
        now_ms + TIME_BASE_MS >= self.record.get(word::REFRESHED) + ANSWER_MS
    }

    /// An end of an expiring session shows that it is at rest. True: it is to be reset. False: it is not
    /// yet, because the other may have something else to say.
    pub fn shows_rest(&self, side: Side, now_ms: u64) -> bool {
        if !self.table.vetoes() {
            return true;
        }
        let (own, other, other_reset) = match side {
            Side::Client => (32, 48, state::BACKEND_RESET),
            Side::Backend => (48, 32, state::CLIENT_RESET),
        };
        let said = self.record.get(word::SAID);
        if self.record.get(word::STATE) & other_reset != 0 || said >> other & SHOWN != 0 {
            return true;
        }
        // It wraps after more than an hour: that long it takes only without a quorum.
        let since = (now_ms + TIME_BASE_MS).saturating_sub(self.record.get(word::REFRESHED));
        let now = since / SHOWN_UNIT_MS % SHOWN + 1;
        let first = said >> own & SHOWN;
        let age = (now + SHOWN - first) % SHOWN;
        if first != 0 && (LATER..SHOWN / 2).contains(&age) {
            return true;
        }
        if first == 0 || age >= SHOWN / 2 {
            let set = |said: u64| Some(said & !(SHOWN << own) | now << own);
            let _ =
                self.record.0[word::SAID].fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        }
        false
    }

    /// One end was sent the reset that ends it.
    pub fn note_reset(&self, side: Side) {
        let told = match side {
            Side::Client => state::CLIENT_RESET,
            Side::Backend => state::BACKEND_RESET,
        };
        self.table.change(self.record, |bits| bits | told);
    }

    /// An expiring session is alive after all.
    pub fn revive(&self) {
        if self.table.vetoes() {
            self.table.keep(self.record);
        }
    }
}

impl Step<'_> {
    /// What is to be done about an expiring session; says when to look again.
    pub(super) fn tell_ends(
        &mut self,
        slot: Slot,
        record: Record<'_>,
        version: u64,
        bits: u64,
        due: u64,
    ) -> u64 {
        if SessionFlags((bits & state::FLAGS) as u16).closing() {
            // An end is gone and said so with a reset of its own: an ordinary closing.
            self.table.change(record, |bits| bits & !state::ENDING);
            return self.now;
        }
        let mut bits = bits;
        if bits & state::ORPHANED == 0 && self.departed(record.owner()) {
            bits = self.table.change(record, |bits| bits | state::ORPHANED);
        }
        let private = bits & state::NEVER != 0;
        // Who is cut off does not hear of vetoes: those of that time come when it is back.
        let since = record.get(word::REFRESHED);
        let since = match self.quorum_since(record) {
            Some(quorum) => since.max(quorum),
            None if private => since,
            None => return self.now + REPEAT_MS,
        };
        let probes = bits >> state::PROBES_SHIFT & 3;
        let untold = [state::CLIENT_RESET, state::BACKEND_RESET].map(|told| bits & told == 0);
        let missing = untold.iter().filter(|untold| **untold).count() as u64;
        let first = since + VETO_MS;
        let answered = missing == 0 || probes == PROBES && self.now >= due;
        if answered || self.now >= first + TURN_MS + PROBES * REPEAT_MS {
            self.end(slot, version);
            if self.answers_for(record, bits) && probes > 0 {
                count_many(&self.table.counts.ends_given_up, missing);
            } else if self.answers_for(record, bits) && self.probes(record, bits, first) {
                count_many(&self.table.counts.ends_unprobed, missing);
            }
            return 0;
        }
        if self.now < first || probes > 0 && self.now < due {
            return due.max(first);
        }
        if probes == PROBES || !self.probes(record, bits, first) {
            // Perhaps it is soon: the one who does may die.
            return self.now + REPEAT_MS;
        }
        if !self.probe_budget.take(missing) {
            return self.now;
        }
        self.probes.push(Probe { slot, version, client: untold[0], backend: untold[1] });
        self.table.change(record, |bits| bits + (1 << state::PROBES_SHIFT));
        self.now + REPEAT_MS
    }

    /// Whether this director probes the ends of a session, which can be done from `first` on.
    fn probes(&self, record: Record<'_>, bits: u64, first: u64) -> bool {
        let leads = |shard: ShardId| self.policy.leads.contains(&shard);
        let orphaned = || {
            bits & state::ORPHANED != 0 || self.now >= first + LATE_MS && !self.carried_on(record)
        };
        record.owner() == self.table.me
            || leads(self.forwarding.shard(record.bucket())) && orphaned()
    }

    /// Whether the ends of a session are told by this director, or by nobody: one that leads probes also those of a
    /// living owner that has adopted the session, for it may have started again, and does not hear of its resets.
    fn answers_for(&self, record: Record<'_>, bits: u64) -> bool {
        let owner = record.owner();
        owner == self.table.me
            || bits & state::ORPHANED != 0
            || owner == record.incarnation().creator
    }

    /// Whether the owner has had the session in one life since it made it. Else it may have started again,
    /// so quickly that nobody took it for gone, while the session expired; then it does not know it.
    fn carried_on(&self, record: Record<'_>) -> bool {
        let made = record.incarnation();
        // A creator counts from its number of starts on.
        let life = self.forwarding.life(made.creator).map(|life| life & u64::from(u32::MAX));
        made.creator == record.owner() && life == Some(made.counter >> 32)
    }
}
