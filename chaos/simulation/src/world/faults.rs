//! What goes wrong, and how it ends.

use std::collections::BTreeSet;

use holdfast_schema::cluster::{ControlCommand, DirectorId, MemberState};

use super::happening::Happening;
use super::{Event, World};
use crate::plan::{Fault, cluster};

/// How long (us) until the guard has let go of the routes of a daemon that died, at the most.
const GUARD_US: u64 = 20_000;

/// How long (us) the guard waits for a beat.
const GUARD_TIMEOUT_US: u64 = 50_000;

/// How long (us) until BFD notices that a machine is gone.
const BFD_US: u64 = 300_000;

impl World {
    /// A fault begins.
    pub(super) fn begin_fault(&mut self, n: usize) {
        let planned = self.plan.faults[n].clone();
        self.note(None, Happening::Begins(planned.fault.clone()));
        match planned.fault {
            Fault::Kill(id) => self.kill(id, false),
            Fault::Crash(id) => self.kill(id, true),
            Fault::Freeze(id) => self.freeze(id),
            Fault::Partition(group) => {
                let all = 1..=self.plan.directors;
                let apart = |a: &u32, b: &u32| group.contains(a) != group.contains(b);
                let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
                let pairs: BTreeSet<_> = pairs.filter(|(a, b)| apart(a, b)).collect();
                self.peers.cut(n as u64, pairs);
            }
            Fault::OneWay(from, to) => self.peers.cut(n as u64, [(from, to)].into()),
            Fault::Dark(id) => drop(self.dark.insert(n, id)),
            Fault::Reshuffle => self.router.reshuffle(),
            Fault::Loss(lost) => self.weather.lost = lost,
            Fault::Drain(id) => self.operate(id, MemberState::Draining),
            Fault::Join(id) => {
                if self.director(id).process.is_none() {
                    self.start(id);
                }
            }
            Fault::WallClock(id, by_ms) => {
                let director = self.director(id);
                director.clock.jump(by_ms);
                let zero = director.clock.unix_ms_at_zero();
                if let Some(process) = &mut director.process {
                    process.set_unix_ms_at_zero(zero);
                }
            }
            Fault::DrainBackend(backend) => self.drain_backend(backend),
            Fault::SlowDisk(..) => {}
        }
        self.survey();
        self.queue.at(planned.until_us, Event::FaultEnds(n));
    }

    /// A fault ends.
    pub(super) fn end_fault(&mut self, n: usize) {
        let planned = self.plan.faults[n].clone();
        match planned.fault {
            Fault::Kill(id) | Fault::Crash(id) => {
                if self.director(id).process.is_none() {
                    self.start(id);
                }
            }
            Fault::Freeze(id) => self.thaw(id),
            Fault::Partition(_) | Fault::OneWay(..) => {
                let now_us = self.queue.now_us();
                for (at_us, from, to, message) in self.peers.mend(n as u64, now_us) {
                    self.queue.at(at_us, Event::Message(from, to, message));
                }
            }
            Fault::Dark(_) => drop(self.dark.remove(&n)),
            Fault::Loss(_) => self.weather.lost = self.plan.weather.lost,
            Fault::Drain(id) => self.operate(id, MemberState::Active),
            _ => return,
        }
        self.note(None, Happening::Ends(planned.fault));
        self.survey();
    }

    fn kill(&mut self, id: u32, machine: bool) {
        let life = self.director(id).life;
        let Some(process) = self.director(id).process.take() else { return };
        self.director(id).frozen_since = None;
        self.director(id).dead = machine;
        let mut known = Vec::new();
        let now_us = self.queue.now_us();
        let now_ms = self.director(id).clock.local_us(now_us) / 1_000;
        process.table.for_each(now_ms, |record, acked| known.push((record.clone(), acked)));
        self.judge_death(id, known);
        self.working.remove(&id);
        self.peers.gone(id);
        let notice_us = match machine {
            true => BFD_US,
            false => self.net.between(1_000, GUARD_US),
        };
        self.queue.after(notice_us, Event::Withdrawn(id, life));
    }

    fn freeze(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        if !director.runs() {
            return;
        }
        director.frozen_since = Some(now_us);
        let life = director.life;
        self.queue.after(GUARD_TIMEOUT_US, Event::GuardLooks(id, life));
    }

    /// The guard misses the beats of a frozen process and lets go of its routes.
    pub(super) fn guard_looks(&mut self, id: u32, life: u32) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        let frozen = director.frozen_since.is_some_and(|at| now_us >= at + GUARD_TIMEOUT_US);
        if director.life != life || !frozen {
            return;
        }
        director.released = true;
        self.queue.after(3_000, Event::Withdrawn(id, life));
    }

    fn thaw(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        if director.frozen_since.take().is_none() || director.process.is_none() {
            return;
        }
        let local_us = director.clock.local_us(now_us);
        let released = std::mem::take(&mut director.released);
        if released && let Some(process) = &mut director.process {
            process.fall(local_us);
        }
        self.turn_at(id, now_us);
        self.queue.after(0, Event::Work(id));
    }

    /// An operator says something about a director.
    fn operate(&mut self, id: u32, state: MemberState) {
        let now_us = self.queue.now_us();
        let command = ControlCommand::SetState { director: DirectorId(id), state, force: None };
        self.log.borrow_mut().say(now_us, command, 0);
    }

    fn drain_backend(&mut self, backend: u32) {
        if self.draining.len() + 1 >= self.plan.backends as usize
            || self.draining.contains(&backend)
        {
            return;
        }
        self.draining.push(backend);
        let now_us = self.queue.now_us();
        let spec = Box::new(cluster::spec(&self.plan, &self.draining));
        let expected = 1 + self.draining.len() as u64;
        let command = ControlCommand::Configure { expected, spec, force: None };
        self.log.borrow_mut().say(now_us, command, 0);
    }
}
