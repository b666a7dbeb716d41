//! Sessions that nobody knows any more because the director that knew them died.
//!
//! Losing one is what rule 3 and the tiers are about, so it is judged at the death, by what the
//! others hold, and not by when its client notices. Which losses are nobody's fault is stated here:
//! the session was too young to be replicated, or its director was cut off from the quorum until its
//! end, or what it told all its homes waited on streams that stood still, or the only memory of it in a cluster
//! without a majority went with its machine or its disk. The client that has lost it is excused. A connection counts, and not a record: whose client is gone has lost nothing.

use std::net::SocketAddr;

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Known, SessionFlags, SessionRecord, SessionSink};

use super::World;
use super::excuses::Cause;
use super::marks::Mark;
use super::rules::Rule;
use crate::director::process::Process;
use crate::director::{Director, frame};

/// What a long session may take from its age to the store (ms): the sweep's pass, the repetition of a
/// create that was lost, an election.
pub(super) const PROMOTION_MS: u32 = 4_000;

/// What a session may take to be with its homes (ms), and how long nothing must have happened to those
/// who are to hear of it (us): a walk over all sessions makes up for what they have missed.
pub(super) const REGISTRATION_MS: u64 = 500;
pub(super) const CALM_US: u64 = 3_000_000;

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Death {
    /// Its disks keep what they have.
    Process,
    /// With its machine, which loses what was in memory.
    Machine,
    /// Because what it has of sessions on its disk lacks something: it begins anew there.
    Sessions,
}

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
    pub(super) fn judge_death(
        &mut self,
        id: u32,
        death: Death,
        known: Vec<(SessionRecord, bool)>,
        process: &Process,
    ) {
        self.note_quorum();
        let quorum_ms = self.quorum_for_ms();
        let (cut_ms, heard_ms) = self.cut_for_ms(id);
        let calm = self.homes_listen(id);
        let used = self.hosts.sockets();
        for (record, acknowledged) in known {
            // The client may hold for established what has been answered only.
            let answered = record.flags.has(SessionFlags::BACKEND_ANSWERED);
            // Idle for too long, it may have expired.
            let lives = record.idle_ms() < record.idle_limit_ms();
            if !answered || !lives || self.held_elsewhere(id, &record) {
                continue;
            }
            let SocketAddr::V4(client) = record.key.source() else { continue };
            let flow = frame::socket_number(&client);
            if !used.contains(&record.key.source()) || !self.oracle.is_of_latest(flow, &record) {
                // Others have forgotten what is over, and this one, which was away, had not heard of it.
                self.marks.reach(Mark::RecordOutlived, 1);
                continue;
            }
            let on_disk = acknowledged && death == Death::Process || self.on_a_disk(id, &record);
            if quorum_ms == 0 && on_disk {
                continue; // With a majority gone it is on disks, and comes back with them.
            }
            let long = record.created_age_ms.saturating_sub(cut_ms)
                > self.plan.replicate_after_ms + PROMOTION_MS
                && quorum_ms.min(heard_ms) > PROMOTION_MS;
            let due = u64::from(record.created_age_ms) > REGISTRATION_MS && calm;
            let deaf = due && !acknowledged && !long && self.homes_are_deaf(id, process, &record);
            self.marks.reach(Mark::HomesDeaf, u64::from(deaf));
            let young = due && !deaf;
            let closing = record.flags.closing();
            if closing && (acknowledged || long || young) {
                continue; // Whoever has heard that both ends have parted may have forgotten it.
            }
            self.excuses.grant(flow, Cause::Orphaned);
            if closing || !record.flags.established() {
                continue; // What is still on its way nobody else knows, or nobody was promised anything.
            }
            let rule = match (acknowledged, long, young) {
                // More than a minority: the others are gone, and this replica lost what it had.
                (true, ..) if quorum_ms == 0 => continue,
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

    /// Whether another director knows a later use of a session's key: its client has ended it, and who was
    /// away has not seen that.
    pub(super) fn is_over(&self, id: u32, record: &SessionRecord) -> bool {
        let later = |known| match known {
            Known::Session(other) => {
                other.incarnation.isn != record.incarnation.isn && other.prevails_over(record)
            }
            _ => false,
        };
        let others = self.directors.iter().filter(|d| d.id != id);
        let mut processes = others.filter_map(|d| d.process.as_deref());
        processes.any(|process| later(process.table.find(&record.key)))
    }

    /// Whether the client of a session had used the same port before.
    pub(super) fn is_reused(&self, record: &SessionRecord) -> bool {
        let flow = match record.key.source() {
            SocketAddr::V4(client) => frame::socket_number(&client),
            SocketAddr::V6(_) => return false,
        };
        self.sockets_reused.contains(&flow)
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

    /// Whether a director whose process is dead has left a session on its disk.
    fn on_a_disk(&self, id: u32, record: &SessionRecord) -> bool {
        self.directors.iter().any(|d| d.id != id && d.has_on_disk(record))
    }

    /// For how long (ms) a director has been cut off from the quorum, and for how long it had heard it
    /// before: what it could tell nobody is not in the store (rule 5: promotion waits).
    fn cut_for_ms(&self, id: u32) -> (u32, u32) {
        let director = &self.directors[id as usize - 1];
        let now_us = self.queue.now_us();
        let until_us = director.cut_since.unwrap_or(now_us);
        let ms = |from: u64, to: u64| (to.saturating_sub(from) / 1_000) as u32;
        (ms(until_us, now_us), ms(director.hears_since, until_us))
    }

    /// For how long (ms) there has been a quorum without interruption.
    pub(super) fn quorum_for_ms(&self) -> u32 {
        let since = self.quorum_since_us.unwrap_or(u64::MAX);
        (self.queue.now_us().saturating_sub(since) / 1_000) as u32
    }

    /// Notes whether there is a quorum, and who is cut off from it.
    pub(super) fn note_quorum(&mut self) {
        let now_us = self.queue.now_us();
        for director in &mut self.directors {
            let hears = |p: &Process| p.share.has_quorum();
            director.hears(director.process.as_deref().is_some_and(hears), now_us);
            if director.process.as_deref().is_some_and(|p| p.share.announced()) {
                director.recorded_us.get_or_insert(now_us);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    /// Three directors in calm times, and the clients whose sessions the store has.
    fn stored() -> (World, Vec<u64>) {
        let seed = (1..).find(|seed| Plan::fair(*seed).founding == 3).expect("one of them");
        let mut world = World::new(Plan::fair(seed));
        world.begin();
        while world.step(12_000_000) {}
        let mut flows = Vec::new();
        let process = world.directors[0].process.as_deref().expect("it runs");
        process.table.for_each(0, |record, acknowledged| {
            let SocketAddr::V4(client) = record.key.source() else { return };
            if acknowledged && record.flags.established() && !record.flags.closing() {
                flows.push(frame::socket_number(&client));
            }
        });
        assert!(!flows.is_empty() && world.violations.is_empty());
        (world, flows)
    }

    fn excused(deaths: [Death; 3]) -> usize {
        let (mut world, flows) = stored();
        for (id, death) in (1..).zip(deaths) {
            world.kill(id, death);
        }
        assert!(world.violations.is_empty());
        flows.iter().filter(|flow| world.excuses.has(**flow)).count()
    }

    #[test]
    fn what_a_dead_peer_has_on_its_disk_is_not_lost_with_the_last_memory() {
        use Death::{Machine, Process, Sessions};
        assert_eq!(excused([Process, Process, Sessions]), 0);
        assert_eq!(excused([Machine, Process, Machine]), 0, "one disk has it");
        assert!(excused([Machine, Sessions, Machine]) > 0, "no disk has it");
    }
}
