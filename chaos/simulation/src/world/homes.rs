//! Sessions that only a home knew when it died, because their director had died before.
//!
//! What a home keeps is in its memory alone. With a quorum it hands what it has of the dead to their
//! shards; without one it has nobody to give it to, and takes it along when it dies. That loss has an
//! excuse, and one that it had time to prevent is a violation.

use std::net::SocketAddr;

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Known, SessionFlags, SessionRecord, SessionSink};

use super::World;
use super::excuses::Cause;
use super::marks::Mark;
use super::orphans::PROMOTION_MS;
use super::rules::Rule;
use crate::director::frame;

/// Whether two records are of one opening of a client.
pub(super) fn same_opening(a: &SessionRecord, b: &SessionRecord) -> bool {
    a.key == b.key && a.incarnation.isn == b.incarnation.isn
}

/// For how long (ms) since the end of a session's director a home could hand it over: it `heard` the quorum at
/// these times.
fn had_ms(ended_us: u64, heard: &[(u64, u64)]) -> u64 {
    let had_us = |(from, until): &(u64, u64)| until.saturating_sub(ended_us.max(*from));
    heard.iter().map(had_us).sum::<u64>() / 1_000
}

impl World {
    /// A director has died; this is what it kept as a home and had not in its table, and who had said it in
    /// which life.
    pub(super) fn judge_home(&mut self, id: u32, kept: Vec<(SessionRecord, (DirectorId, u64))>) {
        let used = self.hosts.sockets();
        let quorum_ms = u64::from(self.quorum_for_ms());
        // It is dead, and so what it heard has ended.
        let heard = self.directors[id as usize - 1].heard.clone();
        for (record, (owner, life)) in kept {
            // A director that lives has let go of it itself: it gave way, or was over.
            let owner = self.directors.iter().find(|d| d.id == owner.0);
            let Some(ended_us) = owner.and_then(|d| d.ended_us.get(&life)).copied() else {
                continue;
            };
            let SocketAddr::V4(client) = record.key.source() else { continue };
            let flow = frame::socket_number(&client);
            let open = record.flags.has(SessionFlags::BACKEND_ANSWERED)
                && !record.flags.closing()
                && record.idle_ms() < record.idle_limit_ms();
            let goes_on = used.contains(&record.key.source())
                && self.oracle.is_of_latest(flow, &record)
                && !self.is_over(id, &record);
            if !open || !goes_on || self.opening_known_elsewhere(id, &record) {
                continue;
            }
            self.marks.reach(Mark::LastHomeDied, 1);
            let had_ms = had_ms(ended_us, &heard);
            if had_ms <= PROMOTION_MS.into() {
                self.excuses.grant(flow, Cause::Orphaned);
            } else if record.flags.established() && quorum_ms > PROMOTION_MS.into() {
                let what = format!(
                    "director {id} died, a home that had {had_ms} ms to hand over {} (age {} ms)",
                    record.key, record.created_age_ms
                );
                self.violate(Rule::Young, what, Some(flow));
            }
        }
    }

    /// Whether another director, one that is stopped included, knows a session of the same opening.
    fn opening_known_elsewhere(&self, id: u32, record: &SessionRecord) -> bool {
        let now_us = self.queue.now_us();
        let others = self.directors.iter().filter(|d| d.id != id && !d.dead);
        let mut processes = others.filter_map(|d| d.process.as_deref().map(|p| (d, p)));
        processes.any(|(director, process)| {
            let local_ms = director.clock.local_us(now_us) / 1_000;
            process.young.keeps_opening(local_ms, process.cluster(), record)
                || match process.table.find(&record.key) {
                    Known::Session(other) => same_opening(&other, record),
                    // Something that it does not tell: give it the benefit of the doubt.
                    Known::Unsure => true,
                    Known::Nobody => false,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_can_hand_over_while_it_hears_the_quorum_and_the_director_is_dead() {
        let heard = |spells: &[(u64, u64)]| {
            let us = |(from, until): &(u64, u64)| (from * 1_000_000, until * 1_000_000);
            had_ms(5_000_000, &spells.iter().map(us).collect::<Vec<_>>())
        };
        assert_eq!(heard(&[(1, 9)]), 4_000, "from the death on");
        assert_eq!(heard(&[(8, 9)]), 1_000, "from the quorum on");
        assert_eq!(heard(&[(1, 4)]), 0, "it was cut off before");
        assert_eq!(heard(&[(1, 8), (9, 10), (14, 16)]), 6_000, "a short cut takes nothing back");
    }
}
