//! Taking records of other directors: what the store says (`sink`), and answers to misses.
#![forbid(unsafe_code)]

use holdfast_schema::session::{HalfSeen, Incarnation, SessionFlags, SessionRecord, prevails};

use super::Slot;
use super::expiring::{ANSWER_MS, is_expiring};
use super::index::{Busy, Target, Wait};
use super::key::PackedKey;
use super::open::OpenError;
use super::record::{DEFAULT_AFTER, Record, TIME_BASE_MS, half, pack, state, word};
use super::stats::count;
use super::sync::yield_now;
use super::table::SessionTable;

/// How often a worker tries a record against a table that changes under it, before "next batch".
const ATTEMPTS_PEER: usize = 8;

/// How often the store's threads try: what they wait for are a few instructions of another thread,
/// which may have lost its processor, so they yield in between.
const ATTEMPTS_STORE: usize = 100_000;

/// How many records that were refused are offered again at a time.
const OFFERS: usize = 1_024;

/// A session that stands in the way of another, as it was seen under its L2 entry.
struct Holder {
    slot: Slot,
    version: u64,
    incarnation: Incarnation,
    flags: SessionFlags,
}

/// What stands at a key.
enum Standing {
    Nothing,
    /// A session that is being freed; its entry is about to go.
    Ending(Slot),
    Session(Holder),
}

/// Where a record came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The store applied it.
    Store,
    /// Another director answered a miss with it.
    Peer,
}

impl Source {
    fn wait(self) -> Wait {
        match self {
            Source::Store => Wait::Yes,
            Source::Peer => Wait::No,
        }
    }
}

impl SessionTable {
    /// Runs `visit` on the record that a key leads to. (It may be ending; the caller is a guest, so it
    /// is not another session's.) `Err`: another thread was writing near it (never with `Wait::Yes`).
    pub(super) fn with<T>(
        &self,
        key: &PackedKey,
        wait: Wait,
        visit: impl FnOnce(Record<'_>, Target) -> T,
    ) -> Result<Option<T>, OpenError> {
        let target = self.target(key, wait)?;
        Ok(target.map(|target| visit(self.record(target.slot()), target)))
    }

    fn standing(&self, key: &PackedKey, wait: Wait) -> Result<Standing, OpenError> {
        let found = self.with(key, wait, |record, target| match record.live() {
            None => Standing::Ending(target.slot()),
            Some(version) => Standing::Session(Holder {
                slot: target.slot(),
                version,
                incarnation: record.incarnation(),
                flags: record.flags(),
            }),
        })?;
        Ok(found.unwrap_or(Standing::Nothing))
    }

    /// Puts a session that another director answered a miss with into the table. The slot is valid
    /// until the caller's next quiescent point. `Exists`: this director knows a session under that key
    /// that prevails; `ReplyTaken`: one with a better claim to the reply key; `Removed`: its listener or
    /// backend is not there any more.
    pub fn install(&self, record: &SessionRecord, now_ms: u64) -> Result<Slot, OpenError> {
        self.accept(record, now_ms + TIME_BASE_MS, Source::Peer)
    }

    pub(super) fn accept(
        &self,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        let attempts = match source {
            Source::Store => ATTEMPTS_STORE,
            Source::Peer => ATTEMPTS_PEER,
        };
        let accepted = self.accept_within(attempts, said, now, source);
        if accepted.is_err() {
            count(&self.counts.refused);
        }
        accepted
    }

    fn accept_within(
        &self,
        attempts: usize,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        self.check_configured(said.listener, said.backend, source.wait())?;
        let _guest = self.slab.epochs.guest();
        let keys = (PackedKey::new(&said.key), PackedKey::new(&said.reply));
        for attempt in 0..attempts {
            match self.try_accept(&keys, said, now, source)? {
                Some(slot) => return Ok(slot),
                None if attempt > 2 && source == Source::Store => yield_now(),
                None => {}
            }
        }
        Err(OpenError::Contended)
    }

    /// Offers records of the store that were refused to the table again. Not for workers.
    pub(super) fn offer_refused(&self) {
        let now = self.now();
        for _ in 0..OFFERS {
            // Locked all the while: what the store says of this record comes before or after.
            let Some(mut refused) = self.refused.some() else { return };
            let Some((key, said)) = refused.next(now) else { return };
            match self.accept_within(ATTEMPTS_PEER, &said, now, Source::Store) {
                Ok(_) | Err(OpenError::Exists(_) | OpenError::Removed) => {
                    refused.remove(&key, &said.incarnation);
                }
                Err(OpenError::Full) => return,
                Err(error) => refused.refused_again(&key, error == OpenError::ReplyTaken),
            }
        }
    }

    /// Whether the store should tell everything again: there were more records without a place than
    /// could be kept aside, and there is room now.
    pub fn wants_all(&self) -> bool {
        let capacity = self.slab.capacity();
        self.refused.wants_all() && self.sessions() < capacity - capacity / 8
    }

    /// One attempt; `None` when the table changed under it or something had to make way first.
    fn try_accept(
        &self,
        (key, reply): &(PackedKey, PackedKey),
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Option<Slot>, OpenError> {
        if let Some(slot) = self.join(key, said, now, source)? {
            return Ok(Some(slot));
        }
        match self.standing(key, source.wait())? {
            Standing::Nothing => {}
            Standing::Ending(slot) => {
                self.finish_free(slot, source.wait());
                return Ok(None);
            }
            // It came in between, and is to be joined.
            Standing::Session(holder) if holder.incarnation == said.incarnation => return Ok(None),
            Standing::Session(holder) => {
                let kept = (&holder.incarnation, holder.flags);
                // The shard's rule: of two twins of one SYN both have to keep the same.
                if !prevails((&said.incarnation, said.flags), kept) {
                    if source == Source::Store {
                        self.not_stored(&holder);
                    }
                    return Err(OpenError::Exists(holder.slot));
                }
                let superseded = self.supersede(holder.slot, holder.version, source.wait());
                superseded.map_err(|Busy| self.contended())?;
                return Ok(None);
            }
        }
        match self.standing(reply, source.wait())? {
            Standing::Nothing => {}
            Standing::Ending(slot) => {
                self.finish_free(slot, source.wait());
                return Ok(None);
            }
            Standing::Session(holder) if !has_better_claim(said, &holder) => {
                return Err(OpenError::ReplyTaken);
            }
            Standing::Session(holder) => {
                count(&self.counts.superseded);
                self.free(holder.slot, holder.version, source.wait());
                return Ok(None);
            }
        }
        match self.add(key, reply, said, now, source) {
            // Somebody put one of the keys in between: look again who.
            Err(OpenError::Exists(_) | OpenError::ReplyTaken) => Ok(None),
            Err(error) => Err(error),
            Ok(slot) => {
                count(&self.counts.received);
                Ok(Some(slot))
            }
        }
    }

    /// Merges a record into the session of the same identity, if that is here.
    fn join(
        &self,
        key: &PackedKey,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Option<Slot>, OpenError> {
        let joined = self.with(key, source.wait(), |record, target| {
            if record.live().is_none() || !self.concerns(&said.incarnation, record) {
                return None;
            }
            record.report(word::CLIENT, &said.client, now);
            if backend_was_seen(said) {
                record.report(word::BACKEND, &said.backend_seen, now);
            }
            let mut bits = u64::from(said.flags.0);
            if source == Source::Peer {
                bits |= state::ASKED;
            } else {
                bits |= state::ACKED;
                // Before the flags: the sweep must not take them for news to the store.
                self.stored(record, said.flags);
                if said.generation >= record.get(word::OWNER) as u32 {
                    self.set_owner(record, said.owner, said.generation);
                }
            }
            // What the store has again is alive, whatever this director was about to do.
            let revived = if source == Source::Store { state::ENDING } else { 0 };
            self.change(record, |old| old & !revived | bits);
            self.look_soon(record);
            Some(target.slot())
        })?;
        Ok(joined.flatten())
    }

    /// The store keeps another session under this one's key than this director: what it was not told yet
    /// (that this one is established) would have decided otherwise. News of this one are nothing to it any
    /// more, but a create is, and wins. (Its expiry may have come before: then it has had its end.)
    fn not_stored(&self, holder: &Holder) {
        let record = self.record(holder.slot);
        let bits = record.get(word::STATE);
        let same = record.live() == Some(holder.version);
        if same && bits & state::ACKED != 0 && bits & state::EXPIRING == 0 {
            self.propose_again(record);
        }
    }

    /// Notes flags that the store is known to have.
    pub(super) fn stored(&self, record: Record<'_>, flags: SessionFlags) {
        use std::sync::atomic::Ordering::Relaxed;
        record.0[word::SAID].fetch_or(u64::from(flags.0), Relaxed);
    }

    fn add(
        &self,
        key: &PackedKey,
        reply: &PackedKey,
        said: &SessionRecord,
        now: u64,
        source: Source,
    ) -> Result<Slot, OpenError> {
        // Others' half-open sessions are not in this director's pool; they may not take the room that
        // established ones need.
        if !said.flags.established() && self.crowded() {
            return Err(OpenError::HalfOpenFull);
        }
        let expiring = source == Source::Peer && is_expiring(said);
        if expiring && self.crowded() {
            return Err(OpenError::Full);
        }
        let slot = self.slab.take().or_else(|| {
            self.slab.reclaim(64);
            self.slab.take()
        });
        let slot = slot.ok_or(OpenError::Full)?;
        let record = self.record(slot);
        record.begin();
        record.put_keys(key, reply, said.mode, self.bucket_of(said));
        record.put(word::TARGET, pack(said.listener.0, said.backend.0));
        record.put_incarnation(&said.incarnation);
        record.put(word::CREATED, now.saturating_sub(u64::from(said.created_age_ms)).max(1));
        record.put(word::TIMES, pack(said.idle_timeout_ms, DEFAULT_AFTER));
        record.put(word::DELTAS, pack(said.isn_delta, said.timestamp_delta));
        record.put(word::OWNER, pack(said.owner.0, said.generation));
        for first in [word::CLIENT, word::BACKEND] {
            record.put(first + half::LOCAL, 0);
            record.put(first + half::REMOTE, 0);
        }
        let most = if expiring { said.idle_limit_ms() } else { u32::MAX };
        let seen = |half: &HalfSeen| HalfSeen { age_ms: half.age_ms.min(most), ..*half };
        record.report(word::CLIENT, &seen(&said.client), now);
        if backend_was_seen(said) {
            record.report(word::BACKEND, &seen(&said.backend_seen), now);
        }
        record.put(word::REFRESHED, now);
        record.put(word::DUE, 0);
        let mut bits = u64::from(said.flags.0);
        if expiring {
            count(&self.counts.expired);
            record.put(word::REFRESHED, now.saturating_sub(ANSWER_MS));
            bits |= state::EXPIRING;
        }
        if source == Source::Store {
            bits |= state::ACKED;
            record.put(word::SAID, u64::from(said.flags.0));
        } else {
            bits |= state::ASKED;
            record.put(word::SAID, 0);
        }
        if said.owner == self.me {
            bits |= state::OWNED;
        }
        self.put_state(record, bits);
        let version = record.publish();
        self.index(slot, version, None, source.wait()).map(|()| slot)
    }
}

/// Whether what a record says of the backend's side is more than its time of creation: others' numbers
/// decide whose packet an ACK of the client is.
fn backend_was_seen(said: &SessionRecord) -> bool {
    said.flags.has(SessionFlags::BACKEND_ANSWERED) || said.flags.closing()
}

/// Whether a record takes a reply key from the session that holds it here. Established beats not
/// established: the latter's SYN has met the former's connection at the backend. Else the newer one.
fn has_better_claim(said: &SessionRecord, holder: &Holder) -> bool {
    let open = |flags: SessionFlags| flags.established() && !flags.closing();
    match (open(said.flags), open(holder.flags)) {
        (true, false) => true,
        (false, true) => false,
        _ => said.incarnation > holder.incarnation,
    }
}
