//! Disks that take nothing more: a process whose store has ended does not go on without it. It ends, and
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

    /// A daemon is to run again whose process or machine had ended. On a full disk it cannot: it is tried
    /// again.
    pub(super) fn come_back(&mut self, id: u32) {
        let director = self.director(id);
        director.dead = false;
        let (life, full) = (director.life, director.disk_full);
        match full {
            true => {
                self.marks.reach(Mark::StartHindered, 1);
                self.queue.after(AGAIN_US, Event::StartAgain(id, life));
            }
            false => self.start(id),
        }
    }

    /// A daemon that ended by itself is started again. With a full disk it cannot even note that.
    pub(super) fn start_again(&mut self, id: u32, life: u32) {
        let director = self.director(id);
        if director.life != life || director.process.is_some() || director.dead {
            return;
        }
        match director.disk_full {
            true => self.queue.after(AGAIN_US, Event::StartAgain(id, life)),
            false => self.start(id),
        }
    }
}
