//! Homes that hear of nothing, because a stream between directors stands still.
//!
//! What a director tells a home waits for their stream of control messages. And nobody is a home who has started and
//! does not know yet that this is recorded, since he sends no heartbeats before: the entry that says so waits for the
//! leader's stream of the log. That excuses the loss of a young session if it is so of all its homes, and not of what
//! was told before.

use holdfast_schema::session::SessionRecord;
use holdfast_state_store::homes::bucket_of;

use super::World;
use super::orphans::{CALM_US, REGISTRATION_MS};
use crate::director::process::Process;
use crate::plan::Stream;

impl World {
    /// Whether no home could hear of a session of this director, whose process has just ended. Who knows of no home
    /// could have told anybody.
    pub(super) fn homes_are_deaf(
        &self,
        id: u32,
        process: &Process,
        record: &SessionRecord,
    ) -> bool {
        let local_us = self.directors[id as usize - 1].clock.local_us(self.queue.now_us());
        let bucket = bucket_of(process.cluster(), &record.key);
        let (homes, _) = process.young.homes().asked(local_us / 1_000, bucket);
        let homes: Vec<u32> = homes.iter().map(|home| home.0).filter(|home| *home != id).collect();
        let age_us = u64::from(record.created_age_ms) * 1_000;
        let deaf = |home: u32| self.hears_nothing_of(id, home, age_us) || self.is_unrecorded(home);
        match homes.is_empty() {
            true => (1..=self.plan.directors).filter(|other| *other != id).all(deaf),
            false => homes.into_iter().take(2).all(deaf),
        }
    }

    /// Whether what one director tells another of a session of this age waits, or has just arrived.
    fn hears_nothing_of(&self, id: u32, home: u32, age_us: u64) -> bool {
        let (now_us, takes_us) = (self.queue.now_us(), REGISTRATION_MS * 1_000);
        let told_us = now_us.saturating_sub(age_us) + takes_us;
        let spell = self.peers.spell(id, home, Stream::Control);
        spell.is_some_and(|(from_us, until_us)| {
            from_us < told_us && until_us.is_none_or(|until_us| now_us < until_us + takes_us)
        })
    }

    /// Whether a director has not known for long that its start is recorded, and a stream of the log to it stood still
    /// before it knew.
    fn is_unrecorded(&self, id: u32) -> bool {
        let director = &self.directors[id as usize - 1];
        let (now_us, started_us) = (self.queue.now_us(), director.started_us);
        let recorded_us = director.recorded_us.unwrap_or(now_us);
        let waited = |from: u32| {
            let spell = self.peers.spell(from, id, Stream::Log);
            spell.is_some_and(|(from_us, until_us)| {
                from_us < recorded_us && until_us.is_none_or(|until_us| until_us > started_us)
            })
        };
        now_us < recorded_us + CALM_US && (1..=self.plan.directors).any(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::super::orphans::Death;
    use super::*;
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
}
