//! Sessions that nobody knows any more because the director that knew them died.
//!
//! Losing one is what rule 3 and the tiers are about, so it is judged at the death, by what the
//! others hold, and not by when its client notices. Which losses are nobody's fault is stated here:
//! the session was too young to be replicated. The client that has lost it is excused.

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Known, SessionRecord, SessionSink};

use super::World;
use super::rules::Rule;
use super::trace::FlowId;
use crate::director::process::Process;
use crate::director::{Director, frame};

/// What a long session may take from its age to the store (ms): the sweep's pass, the repetition of a
/// create that was lost, an election.
const PROMOTION_MS: u32 = 4_000;

/// What a session may take to be with its homes (ms), and how long nothing must have happened to those
/// who are to hear of it (us): a walk over all sessions makes up for what they have missed.
const REGISTRATION_MS: u64 = 500;
const CALM_US: u64 = 3_000_000;

impl World {
    /// Whether all other directors have been up and in hearing of this one for a while.
    fn homes_listen(&self, id: u32) -> bool {
        let now_us = self.queue.now_us();
        let listens = |d: &Director| d.runs() && now_us >= d.started_us + CALM_US;
        let mut others = self.directors.iter().filter(|d| d.id != id);
        let since_us = self.changed_us;
        self.plan.directors > 1
            && self.peers.whole()
            && others.all(listens)
            && now_us >= since_us + CALM_US
    }

    /// A director's process has ended; this is what it knew.
    pub(super) fn judge_death(&mut self, id: u32, known: Vec<(SessionRecord, bool)>) {
        self.note_quorum();
        let quorum_ms = self.quorum_for_ms();
        let calm = self.homes_listen(id);
        for (record, acknowledged) in known {
            let open = record.flags.established() && !record.flags.closing();
            // Idle for too long, it may have expired.
            let lives = record.idle_ms() < record.idle_limit_ms();
            if !open || !lives || self.held_elsewhere(id, &record) {
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
            let young = u64::from(record.created_age_ms) > REGISTRATION_MS && calm;
            let rule = match (acknowledged, long, young) {
                (true, ..) => Rule::Acknowledged,
                (false, true, _) => Rule::Long,
                (false, false, true) => Rule::Young,
                // Nobody's fault: it was too young, or those who should have known it were away.
                (false, false, false) => continue,
            };
            let what = format!(
                "director {id} died, and nobody else knows {} (age {} ms, {:?})",
                record.key, record.created_age_ms, record.flags
            );
            self.violate(rule, what, Some(flow));
        }
    }

    /// Sessions that only this director can know, because it is cut off from the majority or stopped:
    /// those it has not told, and those of whose last packets it has not told for most of their idle
    /// timeout, so that the others have to forget them. (As long as the router sends them here they
    /// live; when it moves them, nobody there knows them.)
    pub(super) fn strand(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let director = &self.directors[id as usize - 1];
        let Some(process) = &director.process else { return };
        let cut_us = [director.frozen_since, director.cut_since];
        let Some(since_us) = cut_us.into_iter().flatten().min() else { return };
        let cut_ms = (now_us - since_us) / 1_000;
        let now_ms = director.clock.local_us(now_us) / 1_000;
        let mut stranded = Vec::new();
        process.table.for_each(now_ms, |record, acknowledged| {
            // What it saw before and had not told yet: refreshes take a quarter of the idle timeout.
            let timeout_ms = u64::from(record.idle_timeout_ms);
            let untold_ms = cut_ms + timeout_ms / 4 + 1_000;
            let forgotten =
                cut_ms + 1_000 > timeout_ms / 2 && u64::from(record.idle_ms()) < untold_ms;
            if let std::net::SocketAddr::V4(client) = record.key.source()
                && (forgotten || !acknowledged)
            {
                stranded.push(frame::socket_number(&client));
            }
        });
        self.stranded.extend(stranded);
    }

    /// Whether the loss of a connection has a stated excuse. That somebody did not know is none for a
    /// reset while another one knows.
    pub(super) fn excused(&self, flow: FlowId, reset: bool) -> bool {
        let stranded = || self.stranded.contains(&flow) && !(reset && self.is_known(flow));
        self.orphans.contains(&flow) || stranded()
    }

    /// Whether any process has an open session of this client socket that has not expired.
    fn is_known(&self, flow: FlowId) -> bool {
        let now_us = self.queue.now_us();
        let mut known = false;
        for director in &self.directors {
            let Some(process) = director.process.as_deref() else { continue };
            process.table.for_each(director.clock.local_us(now_us) / 1_000, |record, _| {
                let of = match record.key.source() {
                    std::net::SocketAddr::V4(client) => frame::socket_number(&client),
                    std::net::SocketAddr::V6(_) => 0,
                };
                let lives = record.idle_ms() < record.idle_limit_ms();
                known |= of == flow && lives && !record.flags.closing();
            });
        }
        known
    }

    /// Whether another director, one that is stopped included, knows a session.
    fn held_elsewhere(&self, id: u32, record: &SessionRecord) -> bool {
        let others = self.directors.iter().filter(|d| d.id != id && !d.dead);
        let mut processes = others.filter_map(|d| d.process.as_deref());
        processes.any(|process| {
            process.young.keeps(0, process.cluster(), record)
                || match process.table.find(&record.key) {
                    Known::Session(other) => other.incarnation == record.incarnation,
                    // Something that it does not tell: give it the benefit of the doubt.
                    Known::Unsure => true,
                    Known::Nobody => false,
                }
        })
    }

    /// For how long (ms) there has been a quorum without interruption.
    fn quorum_for_ms(&self) -> u32 {
        let since = self.quorum_since_us.unwrap_or(u64::MAX);
        (self.queue.now_us().saturating_sub(since) / 1_000) as u32
    }

    /// Notes whether there is a quorum, and who is cut off from it.
    pub(super) fn note_quorum(&mut self) {
        let now_us = self.queue.now_us();
        for director in &mut self.directors {
            let hears = |p: &Process| p.share.has_quorum();
            match director.process.as_deref().is_some_and(hears) {
                true => director.cut_since = None,
                false => director.cut_since = director.cut_since.or(Some(now_us)),
            }
        }
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
