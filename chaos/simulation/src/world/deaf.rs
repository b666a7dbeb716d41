//! Homes that hear of nothing, because a stream between directors stands still.
//!
//! What a director tells a home waits for their stream of control messages. And who has started sends no heartbeats
//! before he knows that this is recorded, and is told nothing once he is declared down for that: the entry that says so
//! waits for the leader's stream of the log to him. No other stream excuses anybody. These excuse the loss of a young
//! session if it is so of all its homes, if the stream stood still before the session had to be told, and from when it
//! moves on for as long as telling takes.

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::SessionRecord;
use holdfast_state_store::homes::bucket_of;

use super::World;
use super::orphans::REGISTRATION_MS;
use crate::director::process::Process;
use crate::plan::Stream;

/// What a session may take to be with its homes (us).
const TOLD_US: u64 = REGISTRATION_MS * 1_000;

impl World {
    /// Whether no home could hear of a session of this director, whose process has just ended.
    pub(super) fn homes_are_deaf(
        &self,
        id: u32,
        process: &Process,
        record: &SessionRecord,
    ) -> bool {
        let now_us = self.queue.now_us();
        let age_us = u64::from(record.created_age_ms) * 1_000;
        let told_us = now_us.saturating_sub(age_us) + TOLD_US;
        let local_us = self.directors[id as usize - 1].clock.local_us(now_us);
        let bucket = bucket_of(process.cluster(), &record.key);
        let (homes, _) = process.young.homes().asked(local_us / 1_000, bucket);
        let homes: Vec<u32> = homes.iter().map(|home| home.0).filter(|home| *home != id).collect();
        let unrecorded = |home: u32| self.is_unrecorded(home, process, told_us);
        let unheard = |home: u32| self.stood_still((id, home, Stream::Control), told_us);
        match homes.is_empty() {
            // Who knows of no home could have told anybody.
            true => (1..=self.plan.directors).filter(|other| *other != id).all(unrecorded),
            false => homes.into_iter().take(2).all(|home| unheard(home) || unrecorded(home)),
        }
    }

    /// Whether a director was told nothing because the entry that records its start waits, or has just arrived. Until
    /// it is declared down, as the process knows that has ended, it is told of sessions whatever it knows itself.
    fn is_unrecorded(&self, home: u32, process: &Process, told_us: u64) -> bool {
        let Some(leader) = process.share.control_leader() else { return false };
        let stream = (leader.0, home, Stream::Log);
        let members = &process.cluster().members;
        let waited = match self.directors[home as usize - 1].recorded_us {
            None => members.get(&DirectorId(home)).is_some_and(|m| m.down),
            // What it knew before the stream moved on has not come by that.
            Some(recorded_us) => {
                let moved_us = self.peers.spell(stream).and_then(|(_, until_us)| until_us);
                moved_us.is_some_and(|moved_us| moved_us <= recorded_us)
            }
        };
        waited && self.stood_still(stream, told_us)
    }

    /// Whether a stream stood still before something had to be told, and does so still, or did until a moment ago.
    fn stood_still(&self, stream: (u32, u32, Stream), told_us: u64) -> bool {
        let now_us = self.queue.now_us();
        self.peers.spell(stream).is_some_and(|(from_us, until_us)| {
            from_us < told_us && until_us.is_none_or(|until_us| now_us < until_us + TOLD_US)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::orphans::Death;
    use super::*;
    use crate::director::Director;
    use crate::plan::{Fault, Plan, Planned};
    use crate::world::marks::Mark;

    const S: u64 = 1_000_000;

    /// Two directors, of which the first dies after these faults: how many young sessions nobody could be told of,
    /// in several worlds. None is lost without that excuse.
    fn untold(faults: &[(u64, u64, Fault)], dies_us: u64) -> u64 {
        let two = (1..).map(Plan::fair).filter(|plan| plan.directors == 2 && plan.founding == 2);
        let untold = two.take(4).map(|plan| {
            let planned = |(at_us, until_us, fault): &(u64, u64, Fault)| Planned {
                at_us: *at_us,
                until_us: *until_us,
                fault: fault.clone(),
            };
            let faults = faults.iter().map(planned).collect();
            let mut world = World::new(Plan { faults, replicate_after_ms: 20_000, ..plan });
            world.begin();
            while world.step(dies_us) {}
            world.kill(1, Death::Process);
            assert!(world.violations.is_empty(), "{:?}", world.violations);
            world.marks.count(Mark::HomesDeaf)
        });
        untold.sum()
    }

    #[test]
    fn what_waits_for_a_stream_that_stands_still_is_told_nobody() {
        let still = |until_us, stream| [(12 * S, until_us, Fault::StallStream(1, 2, stream))];
        assert!(untold(&still(20 * S, Stream::Control), 14 * S) > 0);
        assert_eq!(untold(&still(13 * S, Stream::Control), 14 * S), 0, "it has arrived");
        assert_eq!(untold(&still(20 * S, Stream::Log), 14 * S), 0, "it does not wait for that");
    }

    #[test]
    fn who_cannot_know_that_his_start_is_recorded_is_no_home() {
        let again = (12 * S, 13 * S, Fault::Kill(2));
        let still = (12 * S, 20 * S, Fault::StallStream(1, 2, Stream::Log));
        assert!(untold(&[again.clone(), still], 18 * S) > 0);
        assert_eq!(untold(&[again], 18 * S), 0, "he knows");
    }

    /// Of three directors one that does not lead has started again at 12 s, while a stream of the log to it stands
    /// still until 17 s: the leader's, or that of the third. Whether it had to be told nothing if the leader died now.
    fn unrecorded(of_leader: bool, now_us: u64) -> bool {
        let three = |plan: &Plan| plan.directors == 3 && plan.founding == 3;
        let mut world = World::new((1..).map(Plan::fair).find(three).expect("one of them"));
        world.begin();
        while world.step(12 * S) {}
        let leads = |d: &&Director| d.process.as_deref().is_some_and(|p| p.share.leads_control());
        let leader = world.directors.iter().find(leads).expect("one leads").id;
        let others: Vec<u32> = (1..=3).filter(|id| *id != leader).collect();
        let (home, third) = (others[0], others[1]);
        let from = if of_leader { leader } else { third };
        let fault = Fault::StallStream(from, home, Stream::Log);
        world.plan.faults.push(Planned { at_us: 12 * S, until_us: 17 * S, fault });
        world.begin_fault(0);
        world.kill(home, Death::Process);
        world.start(home);
        while world.step(now_us) {}
        let process = world.directors[leader as usize - 1].process.as_deref().expect("it runs");
        world.is_unrecorded(home, process, now_us)
    }

    #[test]
    fn only_the_leaders_log_records_a_start() {
        assert!(!unrecorded(true, 14 * S), "it is not declared down");
        assert!(unrecorded(true, 17 * S - S / 2));
        assert!(unrecorded(true, 17 * S + S / 4), "it has just heard");
        assert!(!unrecorded(true, 18 * S), "and can have been told since");
        for now_us in [14 * S, 17 * S - S / 2, 17 * S + S / 4] {
            assert!(!unrecorded(false, now_us), "the third does not lead");
        }
    }

    #[test]
    fn what_should_have_been_told_before_a_stream_stood_still_is_not_excused() {
        let mut world = World::new(Plan::fair(1));
        let stream = (1, 2, Stream::Control);
        world.peers.hold(0, 3 * S, stream);
        assert!(world.stood_still(stream, 3 * S + 1));
        assert!(!world.stood_still(stream, 3 * S));
        assert!(!world.stood_still((2, 1, Stream::Control), 3 * S + 1), "the other way");
        assert!(!world.stood_still((1, 2, Stream::Log), 3 * S + 1), "another stream");
    }
}
