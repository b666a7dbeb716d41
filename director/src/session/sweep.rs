//! The sweep: a walk over the slab in small steps that frees what is over and collects what the
//! store must be told. It decides; sending is the caller's.
//!
//! Every record says from when on there is something to do (its *due* time), so that a pass over
//! many quiet sessions reads one cache line of each. Whoever changes a record's flags makes it due.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_schema::bucket::{BUCKETS, Bucket, ShardId, ShardSet};
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::session::{HalfSeen, SessionChange, SessionFlags, SessionUpdate};

use super::Slot;
use super::expiring::{Probe, ProbeBudget};
use super::index::Wait;
use super::quiescence::WorkerHandle;
use super::record::{
    DEFAULT_AFTER, Record, SENT_SHIFT, TIME_BASE_MS, age, half, high, low, state, word,
};
use super::stats::{PassCounts, count};
use super::sync::fence;
use super::table::SessionTable;
use crate::tables::ForwardingTables;

/// A create or a closing that the store has not confirmed is said again after this time.
const REPEAT_MS: u64 = 1_000;

/// A session is adopted from a serving owner that was not heard to see the client for this long.
const OWNER_SILENT_MS: u64 = 10_000;

/// How long a session whose create was proposed, and neither confirmed nor used, is kept at the end.
const UNCONFIRMED_MS: u64 = 5_000;

/// How long, beyond a second idle limit, a session waits for the store to expire it. After that the
/// store does not have it any more (a shard that was re-formed, say), and nobody would ever end it.
const FORGOTTEN_MS: u64 = 600_000;

/// Adoptions of a departed owner's sessions are told at this rate at the most, sessions a second.
const ADOPTIONS_PER_S: u64 = 20_000;

/// Replicate-after when the listener is gone.
const DEFAULT_REPLICATE_AFTER_MS: u32 = 3_000;

/// The state bits that other threads change and the sweep goes by.
const OTHERS: u64 = state::FLAGS | state::ACKED | state::DETACHED | state::EXPIRING;

/// What the sweep goes by. Given anew at every step.
#[derive(Clone, Copy, Debug)]
pub struct SweepPolicy<'a> {
    /// A change is planned: propose every session at once, half-open ones included.
    pub flush: bool,
    /// The shards that have a quorum: to others nothing is proposed. Of those, sessions whose end the
    /// store was told are freed here although it has them, and what else is no open connection if room
    /// is needed. One that is without does not concern the others.
    pub quorum: ShardSet,
    /// The shards that take nothing at the moment, because their changes pile up on the way: what is to be
    /// said of their sessions waits for a later pass, and the others' does not.
    pub full: ShardSet,
    /// Directors whose sessions may be adopted at once: down, draining, drained, or removed. (All
    /// numbers ever given away that do not serve, ascending.)
    pub departed: &'a [DirectorId],
    /// Shards that this director leads: it tells the ends of their sessions when the owner cannot.
    pub leads: &'a [ShardId],
}

impl SweepPolicy<'static> {
    /// Nothing is planned, everybody is there, the store takes everything, and others lead.
    pub const CALM: SweepPolicy<'static> = SweepPolicy {
        flush: false,
        quorum: ShardSet::ALL,
        full: ShardSet::NONE,
        departed: &[],
        leads: &[],
    };
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SweepProgress {
    /// Records looked at.
    pub scanned: usize,
    /// Whether this step reached the end of the slab (the next one begins at its start).
    pub pass_complete: bool,
    /// Sessions that a flush has to wait for, in the whole table, now.
    pub unreplicated: u64,
    /// Creates handed out.
    pub created: usize,
    /// Updates handed out.
    pub updated: usize,
    /// Sessions freed.
    pub freed: usize,
}

/// Walks one table. There is one per table: what was said to the store is noted in the records.
pub struct Sweeper {
    handle: WorkerHandle,
    cursor: u32,
    pass: PassCounts,
    /// Table time since when each shard has had a quorum without interruption.
    quorum_since: [Option<u64>; BUCKETS],
    probes: Vec<Probe>,
    probe_budget: ProbeBudget,
}

/// One step's surroundings.
pub(super) struct Step<'s> {
    pub(super) table: &'s SessionTable,
    pub(super) forwarding: &'s ForwardingTables,
    pub(super) policy: &'s SweepPolicy<'s>,
    pub(super) now: u64,
    quorum_since: &'s [Option<u64>; BUCKETS],
    /// Whether every shard has a quorum: then nobody has to look which one a session belongs to.
    quorum_everywhere: bool,
    pub(super) probes: &'s mut Vec<Probe>,
    pub(super) probe_budget: &'s mut ProbeBudget,
    out: &'s mut Vec<(ShardId, SessionChange)>,
    progress: SweepProgress,
}

impl Sweeper {
    /// A sweeper at the start of the slab.
    pub fn new(table: &Arc<SessionTable>) -> Sweeper {
        let handle = table.register_worker();
        handle.offline();
        Sweeper {
            handle,
            cursor: 0,
            pass: PassCounts::default(),
            quorum_since: [None; BUCKETS],
            probes: Vec::new(),
            probe_budget: ProbeBudget::default(),
        }
    }

    /// The sessions whose ends the last step wants probed. Those not taken before the next one are
    /// forgotten; they come again.
    pub fn take_probes(&mut self) -> std::vec::Drain<'_, Probe> {
        self.probes.drain(..)
    }

    /// The budget for a step every `interval_ms`, so that a pass takes half a second.
    pub fn budget(table: &SessionTable, interval_ms: u64) -> usize {
        let slots = u64::from(table.slab.high_water());
        (slots * interval_ms / 500 + 64) as usize
    }

    /// Looks at up to `budget` records and appends at most as many changes to `out`. A step ends at
    /// the end of the slab.
    pub fn step(
        &mut self,
        table: &SessionTable,
        forwarding: &ForwardingTables,
        now_ms: u64,
        policy: &SweepPolicy<'_>,
        budget: usize,
        out: &mut Vec<(ShardId, SessionChange)>,
    ) -> SweepProgress {
        let (key, shards) = forwarding.cluster_keys();
        table.set_cluster(key, shards);
        table.tick(now_ms);
        self.handle.online();
        let now = now_ms + TIME_BASE_MS;
        for (shard, since) in (0u16..).zip(&mut self.quorum_since) {
            let has = policy.quorum.contains(ShardId(shard));
            *since = has.then(|| since.unwrap_or(now));
        }
        let quorum_everywhere = Bucket::all().all(|b| policy.quorum.contains(shards.shard(b)));
        let progress = SweepProgress::default();
        self.probes.clear();
        self.probe_budget.refill(now);
        let (probes, probe_budget) = (&mut self.probes, &mut self.probe_budget);
        let mut step = Step {
            table,
            forwarding,
            policy,
            now,
            quorum_since: &self.quorum_since,
            quorum_everywhere,
            probes,
            probe_budget,
            out,
            progress,
        };
        let end = table.slab.high_water();
        while step.progress.scanned < budget && self.cursor < end {
            step.visit(Slot(self.cursor), &mut self.pass);
            self.cursor += 1;
            step.progress.scanned += 1;
        }
        let mut progress = step.progress;
        if self.cursor >= end {
            self.cursor = 0;
            progress.pass_complete = true;
            *table.pass.lock() = std::mem::take(&mut self.pass);
            count(&table.counts.passes);
        }
        self.handle.offline();
        if progress.pass_complete {
            table.offer_refused();
        }
        table.reclaim(budget.max(1_024));
        table.slab.warm();
        progress.unreplicated = table.unreplicated();
        progress
    }
}

/// The refresh interval of a session: a quarter of its idle timeout less up to an eighth of that,
/// which depends on the slot, so that sessions opened together are not refreshed together.
fn refresh_ms(record: Record<'_>, slot: Slot) -> u64 {
    let quarter = u64::from(high(record.get(word::TIMES))) / 4;
    quarter - quarter / 8 * u64::from(spread(slot)) / 256
}

/// A number below 256 that looks random (Fibonacci hashing).
fn spread(slot: Slot) -> u32 {
    slot.0.wrapping_mul(0x9e37_79b9) >> 24
}

impl Step<'_> {
    fn visit(&mut self, slot: Slot, pass: &mut PassCounts) {
        let record = self.table.record(slot);
        let Some(version) = record.live() else {
            return self.table.finish_free(slot, Wait::Yes);
        };
        let bits = record.get(word::STATE);
        let flags = SessionFlags((bits & state::FLAGS) as u16);
        tally(pass, bits, flags);
        let due = record.get(word::DUE);
        if self.now < due && !self.urgent(record, bits, flags) {
            return;
        }
        let said = self.progress.updated + self.progress.created;
        let next = self.examine(slot, record, version, bits, due);
        record.put(word::DUE, next);
        // With the fence in `look_soon`: what others changed after we read it is not missed.
        fence(Ordering::SeqCst);
        // (What was far before this look may have been told by it, and be far again.)
        let now = record.get(word::STATE);
        let told = self.progress.updated + self.progress.created > said;
        if (now ^ bits) & OTHERS != 0 || (told || bits & state::FAR == 0) && now & state::FAR != 0 {
            record.put(word::DUE, 0);
        }
    }

    /// Whether the policy makes a record due before its time.
    fn urgent(&self, record: Record<'_>, bits: u64, flags: SessionFlags) -> bool {
        let unproposed = bits & state::UNREPLICATED != 0 && bits & state::PROPOSED == 0;
        let settled = flags.established() && !flags.closing();
        let foreign = bits & state::OWNED == 0;
        self.policy.flush && (unproposed || record.unsent(bits)) && self.has_quorum(record)
            || !settled && !self.has_quorum(record)
            || foreign && !self.policy.departed.is_empty() && self.departed(record.owner())
    }

    /// Does what is to be done about a session and says when to look again.
    fn examine(
        &mut self,
        slot: Slot,
        record: Record<'_>,
        version: u64,
        bits: u64,
        due: u64,
    ) -> u64 {
        if bits & state::EXPIRING != 0 {
            return self.tell_ends(slot, record, version, bits, due);
        }
        let mut due = due;
        if bits & (state::OWNED | state::DETACHED) == 0 && self.adopt(slot, record, due) {
            due = self.now + self.adoption_delay(slot, record);
        }
        let expires = record.expires();
        if self.now >= expires && self.is_over(record, bits, expires) {
            if !self.knows_end(record, bits) || !self.table.begin_expiring(record, self.now) {
                self.end(slot, version);
            }
            return 0;
        }
        if bits & state::DETACHED != 0 {
            expires
        } else if bits & state::ACKED != 0 {
            self.refresh(slot, record, due)
        } else if self.now < expires {
            self.promote(record, bits, due, expires).min(expires)
        } else {
            expires + UNCONFIRMED_MS
        }
    }

    /// Makes this director the owner if it sees the client and the owner does not. True if a departed
    /// owner was replaced, which others should learn before the next refresh.
    fn adopt(&mut self, slot: Slot, record: Record<'_>, due: u64) -> bool {
        let here = record.get(word::CLIENT + half::LOCAL);
        let elsewhere = record.get(word::CLIENT + half::REMOTE);
        let me = self.table.me;
        if here == 0 || here <= elsewhere || record.owner() == me || self.departed(me) {
            return false;
        }
        let departed = self.departed(record.owner());
        // From a serving owner only when there is a refresh to ride on, and only if the owner had its
        // turn to tell of a packet: two routers that hash differently send the client's packets to both,
        // and must not make the session wander.
        let refreshed = record.get(word::REFRESHED) + refresh_ms(record, slot);
        let told = elsewhere + u64::from(high(record.get(word::TIMES))) / 4 + OWNER_SILENT_MS;
        let silent =
            self.now >= due.max(refreshed).max(told) && here >= elsewhere + OWNER_SILENT_MS;
        if !departed && !silent {
            return false;
        }
        let generation = low(record.get(word::OWNER)).wrapping_add(1);
        self.table.change(record, |bits| bits | state::ADOPTED);
        self.table.set_owner(record, self.table.me, generation);
        count(&self.table.counts.adopted);
        departed
    }

    /// Whether this director can know that a session is over for everybody: it hears the others, or
    /// nobody else has the session.
    fn knows_end(&self, record: Record<'_>, bits: u64) -> bool {
        bits & state::NEVER != 0 || self.has_quorum(record)
    }

    /// Since when the shard of a session has had a quorum without interruption.
    pub(super) fn quorum_since(&self, record: Record<'_>) -> Option<u64> {
        let shard = self.forwarding.shard(record.bucket());
        self.quorum_since.get(usize::from(shard.0)).copied().flatten()
    }

    fn has_quorum(&self, record: Record<'_>) -> bool {
        self.quorum_everywhere || self.quorum_since(record).is_some()
    }

    /// Whether the store takes what it is to be told of a session.
    fn is_heard(&self, record: Record<'_>) -> bool {
        let full = self.policy.full;
        let has_room = || !full.contains(self.forwarding.shard(record.bucket()));
        self.has_quorum(record) && (full == ShardSet::NONE || has_room())
    }

    /// Frees a session.
    pub(super) fn end(&mut self, slot: Slot, version: u64) {
        if self.table.free(slot, version, Wait::Yes) {
            self.progress.freed += 1;
        }
    }

    pub(super) fn departed(&self, director: DirectorId) -> bool {
        self.policy.departed.binary_search(&director).is_ok()
    }

    /// How long an adoption waits to be told, so that a million of them are no storm.
    fn adoption_delay(&self, slot: Slot, record: Record<'_>) -> u64 {
        let window = u64::from(self.table.sessions()) * 1_000 / ADOPTIONS_PER_S;
        window.min(refresh_ms(record, slot)) * u64::from(spread(slot)) / 256
    }

    /// Whether a session past its idle limit is freed now and here.
    fn is_over(&self, record: Record<'_>, bits: u64, expires: u64) -> bool {
        let flags = SessionFlags((bits & state::FLAGS) as u16);
        let settled = flags.established() && !flags.closing();
        if bits & (state::DETACHED | state::NEVER) != 0 {
            true
        } else if bits & state::ACKED != 0 {
            // The store's clock decides; without a quorum it stands still, and what is not an open
            // connection need not wait for it. But an end that the store was not told has to be: or it
            // holds the connection for open, and tells who asks so. And one that is half-open here may
            // be established elsewhere, which who has forgotten it would not understand.
            let limit = u64::from(flags.idle_limit_ms(high(record.get(word::TIMES))));
            let stored = SessionFlags(record.get(word::SAID) as u16);
            let told = flags.closing() && stored.has(flags);
            match self.quorum_since(record) {
                None => !settled && (told || self.table.is_in_the_way(record)),
                Some(since) => self.now >= expires.max(since) + limit + FORGOTTEN_MS,
            }
        } else if settled && !self.has_quorum(record) {
            // Others may carry it on, and nobody can tell them. It waits for the quorum, while there is
            // room, also among the ports that it takes one of.
            self.table.is_in_the_way(record)
        } else {
            // Perhaps its create is on its way: then the store expires it, but not here first.
            bits & state::PROPOSED == 0 || self.now >= expires + UNCONFIRMED_MS
        }
    }

    /// An acknowledged session: says what the store does not know yet.
    fn refresh(&mut self, slot: Slot, record: Record<'_>, due: u64) -> u64 {
        let bits = record.get(word::STATE);
        let flags = SessionFlags((bits & state::FLAGS) as u16);
        let said = record.get(word::SAID);
        let (stored, sent) = (SessionFlags(said as u16), SessionFlags((said >> SENT_SHIFT) as u16));
        if !stored.has(flags) {
            if !self.is_heard(record) {
                return self.now + REPEAT_MS;
            }
            if sent == flags && self.now < due {
                return due;
            }
            return self.update(record, flags);
        }
        let interval = refresh_ms(record, slot);
        let last = record.get(word::REFRESHED);
        let adopted = bits & (state::ADOPTED | state::FAR) != 0;
        let ripe = self.now >= last + interval || adopted && self.now >= due;
        if !ripe {
            return if adopted { due } else { last + interval };
        }
        if !adopted && (record.seen_here() <= last || flags.closing()) {
            return self.now + interval;
        }
        if !self.is_heard(record) {
            return self.now + REPEAT_MS;
        }
        self.update(record, flags);
        self.now + interval
    }

    /// Hands out an update; returns when to repeat it if it brings no confirmation.
    fn update(&mut self, record: Record<'_>, flags: SessionFlags) -> u64 {
        // What is seen from now on is told another time.
        self.table.change(record, |bits| bits & !(state::ADOPTED | state::FAR));
        // Only what was seen here: repeating others' reports would make them a little younger each
        // time.
        let half = |first: usize| {
            let (then, numbers) =
                (record.get(first + half::LOCAL), record.get(first + half::LOCAL_NUMBERS));
            (then != 0).then(|| HalfSeen {
                age_ms: age(self.now, then),
                seq: high(numbers),
                ack: low(numbers),
            })
        };
        let update = SessionUpdate {
            key: record.key(super::Side::Client).unpack(),
            incarnation: record.incarnation(),
            from: self.table.me,
            owner: record.owner(),
            flags,
            client: half(word::CLIENT),
            backend_seen: half(word::BACKEND),
        };
        self.say(record, flags, SessionChange::Update(update));
        self.progress.updated += 1;
        self.now + REPEAT_MS
    }

    /// A session that the store is not known to have: proposes it when it is time.
    fn promote(&mut self, record: Record<'_>, bits: u64, due: u64, expires: u64) -> u64 {
        if bits & state::UNREPLICATED == 0 {
            return expires;
        }
        let flags = SessionFlags((bits & state::FLAGS) as u16);
        let proposed = bits & state::PROPOSED != 0;
        let when = if proposed {
            due
        } else if self.policy.flush {
            self.now
        } else if flags.established() {
            record.get(word::CREATED) + self.replicate_after_ms(record)
        } else {
            // Becoming established makes it due.
            return expires;
        };
        if self.now < when {
            return when;
        }
        if self.is_heard(record) {
            let told = state::ADOPTED | state::FAR;
            self.table.change(record, |bits| bits & !told | state::PROPOSED);
            let description = record.describe(self.now);
            self.say(record, description.flags, SessionChange::Create(description));
            self.progress.created += 1;
        }
        self.now + REPEAT_MS
    }

    fn replicate_after_ms(&self, record: Record<'_>) -> u64 {
        let own = low(record.get(word::TIMES));
        if own != DEFAULT_AFTER {
            return u64::from(own);
        }
        let listener = holdfast_schema::cluster::ListenerId(high(record.get(word::TARGET)));
        let after = self.forwarding.listener_by_id(listener).map(|entry| entry.replicate_after);
        u64::from(match after {
            Some(ReplicateAfter::Millis(ms)) => ms,
            Some(ReplicateAfter::Never) | None => DEFAULT_REPLICATE_AFTER_MS,
        })
    }

    fn say(&mut self, record: Record<'_>, flags: SessionFlags, change: SessionChange) {
        // The low half has another writer (the store's calls), so only the high half is exchanged.
        let cell = &record.0[word::SAID];
        let sent = u64::from(flags.0) << SENT_SHIFT;
        let set = |said: u64| Some(said & u64::from(u16::MAX) | sent);
        let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        record.put(word::REFRESHED, self.now);
        self.out.push((self.forwarding.shard(record.bucket()), change));
    }
}

fn tally(pass: &mut PassCounts, bits: u64, flags: SessionFlags) {
    let closing = flags.closing();
    let expiring = !closing && bits & state::EXPIRING != 0;
    pass.closing += u64::from(closing);
    pass.expiring += u64::from(expiring);
    pass.established += u64::from(!closing && !expiring && flags.established());
    pass.half_open += u64::from(!closing && !flags.established());
    let owned = bits & state::OWNED != 0;
    pass.owned += u64::from(owned);
    pass.owned_open += u64::from(owned && !closing && !expiring);
    pass.replicated += u64::from(bits & state::ACKED != 0);
    pass.never += u64::from(bits & state::NEVER != 0);
}
