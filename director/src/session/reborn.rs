//! A connection that takes the place of another one in the middle of an open session.
//!
//! This director has not been told that a connection has ended, so the SYN of the next one on the same
//! client port goes by the old record to the old backend; where the old connection is over, that opens
//! the new one. Its SYN-ACK shows it: it acknowledges another number than the session began with. From
//! then on this is another use of the key, with a record of its own. Left under the old name it would
//! give way to whatever the client's SYN has opened elsewhere, which its client knows nothing of.
#![forbid(unsafe_code)]

use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::session::SessionFlags;

use super::handle::Session;
use super::index::{Busy, Target, Wait};
use super::open::{NewSession, OpenError};
use super::record::{TIME_BASE_MS, high, low, state, word};
use super::stats::count;
use super::table::SessionTable;
use super::{Side, Slot};

/// How many freed slots are moved at most when the free list is empty.
const RECLAIM: usize = 64;

impl SessionTable {
    /// Gives both keys of the session in this slot to a new one: the client has opened another connection
    /// with this initial sequence number over them. `stamp` is as in [`NewSession`]. `Contended`: again
    /// next batch; what was begun is gone on with then.
    pub fn begin_again(
        &self,
        slot: Slot,
        isn: u32,
        stamp: u64,
        now_ms: u64,
    ) -> Result<Slot, OpenError> {
        let old = self.record(slot);
        let Some(version) = old.live() else { return Err(self.contended()) };
        let (key, reply) = (old.key(Side::Client), old.key(Side::Backend));
        let holder = self.target(&key, Wait::No)?.map(Target::slot);
        let begun = |holder: Slot| {
            let record = self.record(holder);
            let same = record.incarnation().isn == isn && record.key(Side::Backend) == reply;
            same && record.live().is_some()
        };
        let new = match holder {
            Some(holder) if holder == slot => self.take_client_key(slot, isn, stamp, now_ms)?,
            Some(holder) if begun(holder) => holder,
            _ => return Err(self.contended()),
        };
        let (from, to) = (Target::new(slot, Side::Backend), Target::new(new, Side::Backend));
        match self.l2.replace(&self.slab, from, to, Wait::No) {
            Ok(true) => {
                count(&self.counts.superseded);
                self.free(slot, version, Wait::No);
                if self.record(new).live().is_some() {
                    return Ok(new);
                }
                // A removal was quicker than our entries, which must not stay (as in `index`).
                for side in [Side::Client, Side::Backend] {
                    let _ = self.unlink(new, side, Wait::Yes);
                }
                Err(self.contended())
            }
            Ok(false) | Err(Busy) => Err(self.contended()),
        }
    }

    fn take_client_key(
        &self,
        slot: Slot,
        isn: u32,
        stamp: u64,
        now_ms: u64,
    ) -> Result<Slot, OpenError> {
        let old = self.record(slot);
        let session: Session<'_> = self.session(slot);
        let times = old.get(word::TIMES);
        let never = old.get(word::STATE) & state::NEVER != 0;
        let after = if never { ReplicateAfter::Never } else { ReplicateAfter::Millis(low(times)) };
        let next = NewSession {
            key: session.key(),
            reply: session.reply(),
            listener: session.listener(),
            backend: session.backend(),
            mode: session.mode(),
            bucket: session.bucket(),
            idle_timeout_ms: high(times),
            replicate_after: after,
            stamp,
            isn,
            flags: SessionFlags::CLIENT_OPENED,
            seq_end: isn.wrapping_add(1),
            ack: 0,
            isn_delta: session.isn_delta(),
            timestamp_delta: session.timestamp_delta(),
            replaces: Some(slot),
        };
        let stamp = stamp.max(old.get(word::STAMP).saturating_add(1));
        let class = self.classes.place(&old.key(Side::Backend));
        self.reserve_half_open(class)?;
        let slot_of = || {
            self.slab.reclaim(RECLAIM);
            self.slab.take()
        };
        let Some(new) = self.slab.take().or_else(slot_of) else {
            self.release_half_open(class);
            count(&self.counts.full);
            return Err(OpenError::Full);
        };
        let keys = (&old.key(Side::Client), &old.key(Side::Backend));
        let version = self.write_new(new, &next, keys, stamp, now_ms + TIME_BASE_MS);
        // Also what asks its listener (see `word::TIMES`).
        self.record(new).put(word::TIMES, times);
        let taken = self.check_published(new, Wait::No).and_then(|()| {
            let (from, to) = (Target::new(slot, Side::Client), Target::new(new, Side::Client));
            match self.l2.replace(&self.slab, from, to, Wait::No) {
                Ok(true) => Ok(new),
                Ok(false) | Err(Busy) => Err(self.contended()),
            }
        });
        match taken {
            Ok(_) => count(&self.counts.opened),
            Err(_) => drop(self.free(new, version, Wait::No)),
        }
        taken
    }
}
