//! The phases of a run: faults, healing, leaving.

use holdfast_schema::session::{HALF_OPEN_LINGER_MS, TIME_WAIT_LINGER_MS};

use super::World;
use super::happening::{Glance, Happening};
use super::marks::Mark;
use super::rules::Rule;
use crate::director::Director;
use crate::director::process::Process;

const S: u64 = 1_000_000;

/// How often it is looked whether a phase is over (us).
const LOOK_US: u64 = 500_000;

/// How long everything may take to be in service again (us).
const CONVERGE_US: u64 = 30 * S;

/// What the store and the sweep may take beyond the longest linger (us): the unconfirmed, the veto's
/// second round, the walk.
const SETTLE_US: u64 = 30 * S;

impl World {
    /// Runs until nothing is left to be seen, or a rule is broken.
    pub fn run(&mut self) {
        self.begin();
        self.safety();
        if self.violations.is_empty() {
            self.liveness();
        }
        if self.violations.is_empty() {
            self.conservation();
        }
        self.collect_marks();
    }

    /// Lets time pass until `done`, a rule is broken, or it is `until_us`. Whether it is done.
    fn until(&mut self, until_us: u64, mut done: impl FnMut(&mut World) -> bool) -> bool {
        loop {
            let next_us = (self.queue.now_us() + LOOK_US).min(until_us);
            while self.violations.is_empty() && self.step(next_us) {}
            self.take_back();
            if !self.violations.is_empty() || done(self) {
                return true;
            }
            if next_us >= until_us {
                return false;
            }
        }
    }

    fn safety(&mut self) {
        self.note(None, Happening::Phase("safety: things go wrong"));
        self.until(self.plan.heal_us, |_| false);
    }

    fn liveness(&mut self) {
        self.note(None, Happening::Phase("liveness: everything heals"));
        // Whoever had not joined yet does so now.
        for id in 1..=self.plan.directors {
            if self.director(id).process.is_none() {
                self.start(id);
            }
        }
        self.healed = true;
        let until_us = self.queue.now_us() + CONVERGE_US;
        let served = self.until(until_us, |world| {
            world.undrain();
            world.directors.iter().all(|d| d.process.as_ref().is_some_and(|p| p.serves()))
        });
        if !served {
            let stage = |process: &Process| match process.share.caught_up() {
                Ok(()) => process.announcer.stage().word().to_owned(),
                Err(why) => format!("{}, {why}", process.announcer.stage().word()),
            };
            let stages: Vec<_> =
                self.directors.iter().filter_map(|d| d.process.as_deref()).map(stage).collect();
            self.violate(Rule::Liveness, format!("not all directors serve: {stages:?}"), None);
            return;
        }
        // Clients end in their own time; those that wait for something that never comes say so.
        let until_us = self.queue.now_us() + 2 * self.plan.patience_us();
        self.until(until_us, |world| world.hosts.all_gone());
        if self.violations.is_empty() && !self.hosts.all_gone() {
            self.leave();
            let until_us = self.queue.now_us() + self.plan.patience_us();
            let gone = self.until(until_us, |world| world.hosts.all_gone());
            if let (false, Some((_, what))) = (gone, self.hosts.open().first()) {
                let what = what.clone();
                self.violate(Rule::Liveness, format!("a client cannot end: {what}"), None);
            }
        }
    }

    fn conservation(&mut self) {
        self.note(None, Happening::Phase("conservation: all clients have left"));
        let linger_ms = HALF_OPEN_LINGER_MS.max(TIME_WAIT_LINGER_MS).max(self.plan.idle_timeout_ms);
        let until_us = self.queue.now_us() + 2 * u64::from(linger_ms) * 1_000 + SETTLE_US;
        if self.until(until_us, |world| world.remains().is_empty()) {
            return;
        }
        let remains = self.remains();
        let flow = self.lost_packets().next().and_then(|(_, packet)| self.flow_of(packet));
        self.violate(Rule::Conservation, remains.join("; "), flow);
    }

    /// What is left of sessions anywhere.
    fn remains(&self) -> Vec<String> {
        let now_us = self.queue.now_us();
        let mut remains = Vec::new();
        for director in &self.directors {
            let Some(process) = &director.process else { continue };
            let now_ms = director.clock.local_us(now_us) / 1_000;
            for (count, what) in process.remains(now_ms) {
                remains.push(format!("director {} has {count} {what}", director.id));
            }
        }
        let lost = self.lost_packets().filter_map(|(id, packet)| Some((id, Glance::at(packet)?)));
        remains.extend(lost.map(|(id, at)| format!("director {id} has lost what waited: {at}")));
        remains
    }

    /// Packets that waited at a director where nothing waits any more, and did not come out.
    fn lost_packets(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let at_rest = |d: &&Director| d.process.as_ref().is_some_and(|p| p.parked() == 0);
        let directors = self.directors.iter().filter(at_rest);
        directors.flat_map(|d| self.oracle.waiting.at(d.id).map(|packet| (d.id, packet)))
    }

    fn collect_marks(&mut self) {
        let World { directors, marks, peers, .. } = self;
        marks.reach(Mark::Overtaken, peers.seen.overtook);
        marks.reach(Mark::StreamWaited, peers.seen.waited);
        for director in directors {
            director.process.iter().for_each(|process| marks.collect(process));
            // The first generation is 1.
            let again = director.disks.identity.borrow().generations.iter().any(|g| *g > 1);
            marks.reach(Mark::FormedAnew, u64::from(again));
        }
    }

    /// Connections that were begun, and that were established.
    pub fn connections(&self) -> (u64, u64) {
        self.hosts.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn what_there_is_of_sessions_is_named_until_nothing_is() {
        let mut world = World::new(Plan::fair(1));
        world.begin();
        while world.step(12 * S) {}
        let named = |world: &World, what: &str| world.remains().iter().any(|r| r.ends_with(what));
        for what in [" sessions", " sessions in the store", " home entries"] {
            assert!(named(&world, what), "{what}: {:?}", world.remains());
        }
        let leftovers = world.directors[0].process.as_ref().unwrap().table.leftovers();
        let sessions = world.directors[0].process.as_ref().unwrap().table.stats().sessions;
        assert!(leftovers.ports > 0 && leftovers.keys >= u64::from(sessions), "{leftovers:?}");
        assert_eq!(leftovers.lost_slots, 0);
        world.safety();
        world.liveness();
        world.conservation();
        assert!(world.violations.is_empty() && world.remains().is_empty(), "{:?}", world.remains());
    }
}
