//! Disks that take nothing more, and those that stall. A process whose store has ended does not go on without it. It ends, and
//! is started again until its disk takes what it notes first.

use super::happening::Happening;
use super::marks::Mark;
use super::orphans::Death;
use super::{Event, World};
use crate::director::share::Which;
use crate::plan::Without;

/// How often (us) a daemon looks whether its store goes on.
pub(super) const STORE_WATCH_US: u64 = 200_000;

/// After what time (us) the service manager starts a daemon again.
const AGAIN_US: u64 = 1_000_000;

impl World {
    /// A director's disk is full, or is not any more.
    pub(super) fn fill_disk(&mut self, id: u32, full: bool) {
        let director = self.director(id);
        director.disk_full = full;
        let why = full.then_some("no space left on the disk");
        director.disks.control.fail(why);
        director.disks.sessions.fail(why);
    }

    /// What a director writes of its session groups fails, or does not any more.
    pub(super) fn fail_writes(&mut self, id: u32, fail: bool) {
        let director = self.director(id);
        if !director.disk_full {
            director.disks.sessions.fail(fail.then_some("error of the disk"));
        }
    }

    /// A director's disk does nothing from now on, or goes on.
    pub(super) fn stall_disk(&mut self, id: u32, stall: bool) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        match stall {
            true => director.disk_stalls += 1,
            false => director.disk_stalls -= 1,
        }
        let stalls = director.disk_stalls > 0;
        director.disks.stalled.set(stalls);
        if stalls {
            return;
        }
        // What has waited is written now, and before what comes.
        director.disk_runs.go_on(now_us);
        let (owes, most_us) = (std::mem::take(&mut director.disk_owes), director.disk_us);
        for (life, which) in owes {
            let takes_us = self.net.between(50, most_us);
            let at_us = self.director(id).disk_runs.done_at(now_us, takes_us);
            self.queue.at(at_us, Event::Written(id, life, which));
        }
        self.turn_at(id, now_us);
    }

    /// A process looks whether its store goes on.
    pub(super) fn watch_store(&mut self, id: u32, life: u32) {
        let director = self.director(id);
        let Some(process) = director.process.as_deref().filter(|_| director.life == life) else {
            return;
        };
        let failed = process.share.failed().filter(|_| director.runs()).cloned();
        let Some((which, why)) = failed else {
            self.queue.after(STORE_WATCH_US, Event::StoreWatched(id, life));
            return;
        };
        let full = director.disk_full;
        self.note(None, Happening::GaveUp(id, why));
        let loses_sessions = which == Which::Sessions && !full;
        self.kill(id, if loses_sessions { Death::Sessions } else { Death::Process });
        self.marks.reach(Mark::DiskFull, u64::from(full));
        if loses_sessions {
            self.marks.reach(Mark::WriteFailed, 1);
            self.fail_writes(id, false);
            // It has noted that what it keeps of sessions lacks something, and begins anew.
            let new_number = self.plan.without != Some(Without::ReplicaIds);
            self.director(id).disks.lose_sessions(new_number);
        }
        self.queue.after(AGAIN_US, Event::StartAgain(id, life));
    }

    /// A daemon is to run again whose process or machine had ended. On a full disk it cannot, and one that stalls
    /// keeps it waiting: it is tried again.
    pub(super) fn come_back(&mut self, id: u32) {
        let director = self.director(id);
        director.dead = false;
        let (life, full) = (director.life, director.disk_full);
        match full || director.disk_stalls > 0 {
            true => {
                self.marks.reach(Mark::StartHindered, u64::from(full));
                self.queue.after(AGAIN_US, Event::StartAgain(id, life));
            }
            false => self.start(id),
        }
    }

    /// A daemon that ended by itself is started again. On a disk that takes nothing it cannot even note that.
    pub(super) fn start_again(&mut self, id: u32, life: u32) {
        let director = self.director(id);
        if director.life != life || director.process.is_some() || director.dead {
            return;
        }
        match director.disk_full || director.disk_stalls > 0 {
            true => self.queue.after(AGAIN_US, Event::StartAgain(id, life)),
            false => self.start(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DISK_US;
    use super::*;
    use crate::plan::Plan;

    /// Three directors in calm times, and one of them that leads a group of sessions.
    fn world() -> (World, u32) {
        let seed = (1..).find(|seed| Plan::fair(*seed).founding == 3).expect("one of them");
        let mut world = World::new(Plan::fair(seed));
        world.begin();
        while world.step(12_000_000) {}
        let leads = |d: &&crate::director::Director| {
            d.process.as_deref().is_some_and(|p| !p.share.shards_led().is_empty())
        };
        let leader = world.directors.iter().find(leads).expect("a leader").id;
        (world, leader)
    }

    fn outstanding(world: &World, id: u32) -> usize {
        let share = &world.directors[id as usize - 1].process.as_deref().expect("it runs").share;
        share.outstanding(Which::Control) + share.outstanding(Which::Sessions)
    }

    #[test]
    fn a_disk_that_stalls_owes_everything_and_then_writes_it_in_runs() {
        let (mut world, leader) = world();
        world.stall_disk(leader, true);
        while world.step(13_000_000) {}
        let owed = outstanding(&world, leader);
        while world.step(15_000_000) {}
        assert!(outstanding(&world, leader) > owed, "{owed}");
        let owed = outstanding(&world, leader);
        world.stall_disk(leader, false);
        // A run takes 50 us at least.
        while world.step(15_000_040) {}
        assert!(owed > 5 && outstanding(&world, leader) >= owed, "{owed}");
        let runs = 1 + owed as u64 / 64;
        while world.step(15_000_000 + (1 + runs) * DISK_US) {}
        let left = outstanding(&world, leader);
        assert!(left < owed / 2, "{left} of {owed}");
        while world.step(20_000_000) {}
        assert!(outstanding(&world, leader) < 10 && world.violations.is_empty());
    }

    #[test]
    fn a_leader_whose_disk_stalls_for_seconds_gives_its_groups_to_others() {
        let (mut world, leader) = world();
        let led = |world: &World| {
            let process = world.directors[leader as usize - 1].process.as_deref();
            process.map(|p| (p.share.shards_led().len(), p.share.handed_over()))
        };
        let before = led(&world).map(|(led, _)| led);
        world.stall_disk(leader, true);
        while world.step(16_000_000) {}
        assert_eq!(led(&world), before.map(|led| (led, 0)), "while it is short, nobody notices");
        while world.step(20_000_000) {}
        assert!(led(&world).is_some_and(|(led, given)| led == 0 && given > 0), "{:?}", led(&world));
        world.stall_disk(leader, false);
        while world.step(30_000_000) {}
        assert!(world.violations.is_empty());
    }

    #[test]
    fn a_daemon_that_ends_on_a_disk_that_stalls_starts_when_it_goes_on() {
        let (mut world, leader) = world();
        world.stall_disk(leader, true);
        world.kill(leader, Death::Process);
        world.come_back(leader);
        while world.step(18_000_000) {}
        assert!(world.director(leader).process.is_none());
        world.stall_disk(leader, false);
        while world.step(20_000_000) {}
        assert!(world.director(leader).process.is_some());
        assert_eq!(world.marks.count(Mark::StartHindered), 0, "that is for a full disk");
    }
}
