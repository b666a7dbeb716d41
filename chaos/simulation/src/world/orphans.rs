//! Sessions that nobody knows any more because the director that knew them died.
//!
//! Losing one is what rule 3 and the tiers are about, so it is judged at the death, by what the
//! others hold, and not by when its client notices. Which losses are nobody's fault is stated here:
//! the session was too young to be replicated. The client that has lost it is excused.

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Known, SessionRecord, SessionSink};

use super::World;
use super::rules::Rule;
use crate::director::frame;

/// What a long session may take from its age to the store (ms): the sweep's pass, the repetition of a
/// create that was lost, an election.
const PROMOTION_MS: u32 = 4_000;

impl World {
    /// A director's process has ended; this is what it knew.
    pub(super) fn judge_death(&mut self, id: u32, known: Vec<(SessionRecord, bool)>) {
        self.note_quorum();
        let quorum_ms = self.quorum_for_ms();
        for (record, acknowledged) in known {
            let open = record.flags.established() && !record.flags.closing();
            if !open || self.held_elsewhere(id, &record) {
                continue;
            }
            let std::net::SocketAddr::V4(client) = record.key.source() else { continue };
            let flow = frame::socket_number(&client);
            if acknowledged && quorum_ms == 0 {
                // With a majority gone it is on disks, and comes back with them.
                continue;
            }
            self.orphans.insert(flow);
            let long = record.created_age_ms > self.plan.replicate_after_ms + PROMOTION_MS
                && quorum_ms > PROMOTION_MS;
            let rule = match (acknowledged, long) {
                (true, _) => Rule::Acknowledged,
                (false, true) => Rule::Long,
                // Too young: nobody's fault.
                (false, false) => continue,
            };
            let what = format!(
                "director {id} died, and nobody else knows {} (age {} ms, {:?})",
                record.key, record.created_age_ms, record.flags
            );
            self.violate(rule, what, Some(flow));
        }
    }

    /// Whether another director, one that is stopped included, knows a session.
    fn held_elsewhere(&self, id: u32, record: &SessionRecord) -> bool {
        let others = self.directors.iter().filter(|d| d.id != id && !d.dead);
        let mut processes = others.filter_map(|d| d.process.as_deref());
        processes.any(|process| match process.table.find(&record.key) {
            Known::Session(other) => other.incarnation == record.incarnation,
            // Something that it does not tell: give it the benefit of the doubt.
            Known::Unsure => true,
            Known::Nobody => false,
        })
    }

    /// For how long (ms) there has been a quorum without interruption.
    fn quorum_for_ms(&self) -> u32 {
        let since = self.quorum_since_us.unwrap_or(u64::MAX);
        (self.queue.now_us().saturating_sub(since) / 1_000) as u32
    }

    /// Notes whether there is a quorum.
    pub(super) fn note_quorum(&mut self) {
        let now_us = self.queue.now_us();
        let reached = |id: DirectorId| {
            self.directors.iter().any(|d| {
                d.id == id.0 && d.runs() && d.process.as_ref().is_some_and(|p| p.share.has_quorum())
            })
        };
        let count = (1..=self.plan.directors).filter(|id| reached(DirectorId(*id))).count();
        match count > self.plan.directors as usize / 2 {
            true => self.quorum_since_us = Some(self.quorum_since_us.unwrap_or(now_us)),
            false => self.quorum_since_us = None,
        }
    }
}
