//! What goes wrong, and how it ends.

use std::collections::BTreeSet;

use holdfast_schema::cluster::{ControlCommand, DirectorId, Member, MemberState};
use holdfast_schema::session::SessionRecord;

use super::happening::Happening;
use super::homes;
use super::marks::Mark;
use super::orphans::Death;
use super::peers::{Arriving, Weather};
use super::{DISK_US, Event, World};
use crate::director::process::Process;
use crate::plan::{Fault, Planned, Without, cluster};

/// How long (us) until the guard has let go of the routes of a daemon that died, at the most.
const GUARD_US: u64 = 20_000;

/// How long (us) the guard waits for a beat.
const GUARD_TIMEOUT_US: u64 = 50_000;

/// How long (us) until BFD notices that a machine is gone.
const BFD_US: u64 = 300_000;

/// A director that nobody hears is declared down after this (us), an election included.
const DECLARED_US: u64 = 3_000_000;

impl World {
    /// A fault begins.
    pub(super) fn begin_fault(&mut self, n: usize) {
        let planned = self.plan.faults[n].clone();
        self.note(None, Happening::Begins(planned.fault.clone()));
        self.note_change(&planned.fault);
        match planned.fault {
            Fault::Kill(id) => self.kill(id, Death::Process),
            Fault::Crash(id) => self.kill(id, Death::Machine),
            Fault::Freeze(id) => self.freeze(id),
            Fault::Cut(a, b) => self.peers.cut(n as u64, [(a, b), (b, a)].into()),
            Fault::BadPeers { of, lost, late, late_us } => {
                self.peers.worsen(n as u64, Weather { of, lost, late, late_us });
            }
            Fault::StallStream(from, to, stream) => {
                self.peers.hold(n as u64, self.queue.now_us(), (from, to, stream));
            }
            Fault::StallDisk(id) => self.stall_disk(id, true),
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
                let director = self.director(id);
                match (director.process.is_none(), director.disk_stalls > 0) {
                    (true, false) => self.start(id),
                    (true, true) => self.come_back(id),
                    (false, _) => {}
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
            Fault::SlowDisk(id, most_us) => self.director(id).disk_us = most_us,
            Fault::FullDisk(id) => self.fill_disk(id, true),
            Fault::FailedWrite(id) => self.fail_writes(id, true),
        }
        self.note_links();
        self.queue.at(planned.until_us, Event::FaultEnds(n));
    }

    /// Whoever is to hear of something may not have for a while.
    fn note_change(&mut self, fault: &Fault) {
        use Fault::{Cut, Freeze, OneWay, Partition};
        if matches!(fault, Partition(_) | OneWay(..) | Cut(..) | Freeze(_)) {
            self.changed_us = self.queue.now_us();
        }
    }

    /// A fault ends.
    pub(super) fn end_fault(&mut self, n: usize) {
        let planned = self.plan.faults[n].clone();
        self.note_change(&planned.fault);
        match planned.fault {
            Fault::Kill(id) | Fault::Crash(id) => {
                if self.director(id).process.is_none() {
                    self.come_back(id);
                }
            }
            Fault::Freeze(id) => self.thaw(id),
            Fault::Partition(_) | Fault::OneWay(..) | Fault::Cut(..) => {
                self.note_cut_pair(&planned);
                let freed = self.peers.mend(n as u64, self.queue.now_us());
                self.let_arrive(freed);
            }
            Fault::BadPeers { .. } => self.peers.clear(n as u64),
            Fault::StallStream(..) => {
                let freed = self.peers.release(n as u64, self.queue.now_us());
                self.let_arrive(freed);
            }
            Fault::StallDisk(id) => self.stall_disk(id, false),
            Fault::Dark(_) => drop(self.dark.remove(&n)),
            Fault::Loss(_) => self.weather.lost = self.plan.weather.lost,
            Fault::Drain(id) => self.operate(id, MemberState::Active),
            Fault::SlowDisk(id, _) => self.director(id).disk_us = DISK_US,
            Fault::FullDisk(id) => self.fill_disk(id, false),
            Fault::FailedWrite(id) => self.fail_writes(id, false),
            _ => return,
        }
        self.note_links();
        self.note(None, Happening::Ends(planned.fault));
    }

    fn let_arrive(&mut self, messages: Vec<Arriving>) {
        for (at_us, from, to, message) in messages {
            self.queue.at(at_us, Event::Message(from, to, message));
        }
    }

    /// A pair is about to hear each other again: was it cut off for longer than it takes to declare a director
    /// down, and nobody did, because others heard both?
    fn note_cut_pair(&mut self, planned: &Planned) {
        let Fault::Cut(a, b) = planned.fault else { return };
        let long = planned.until_us > planned.at_us + DECLARED_US;
        let since = |id: u32| {
            let director = &self.directors[id as usize - 1];
            director.runs() && director.started_us < planned.at_us
        };
        let up = |process: &Process| {
            let members = &process.cluster().members;
            [a, b].iter().all(|id| members.get(&DirectorId(*id)).is_some_and(|m| !m.down))
        };
        let others = self.directors.iter().filter(|d| d.runs() && d.id != a && d.id != b);
        let mut others =
            others.filter_map(|d| d.process.as_deref()).filter(|p| p.share.has_quorum());
        let heard = long && since(a) && since(b) && others.any(up);
        self.marks.reach(Mark::HeardByOthers, u64::from(heard));
    }

    pub(super) fn kill(&mut self, id: u32, death: Death) {
        let machine = death == Death::Machine;
        let life = self.director(id).life;
        let Some(process) = self.director(id).process.take() else { return };
        self.marks.collect(&process);
        self.director(id).frozen_since = None;
        self.director(id).dead = machine;
        let mut known = Vec::new();
        let now_us = self.queue.now_us();
        let now_ms = self.director(id).clock.local_us(now_us) / 1_000;
        process.table.for_each(now_ms, |record, acked| known.push((record.clone(), acked)));
        if death == Death::Process {
            let stored = known.iter().filter(|(_, acknowledged)| *acknowledged);
            let stored = stored.map(|(record, _)| (record.key, record.incarnation)).collect();
            self.director(id).stored = stored;
        }
        let mut kept = process.young.records(now_ms);
        kept.retain(|(young, _)| {
            !known.iter().any(|(record, _)| homes::same_opening(record, young))
        });
        self.director(id).ended_us.insert(process.incarnation, now_us);
        known.retain(|(record, _)| !self.is_over(id, record));
        self.note_last_news(id, &known);
        let open = |record: &SessionRecord| record.flags.established() && !record.flags.closing();
        let reused = known.iter().filter(|(record, _)| open(record) && self.is_reused(record));
        let reused = reused.count() as u64;
        self.marks.reach(Mark::DeathAfterReuse, reused);
        self.judge_death(id, death, known, &process);
        self.judge_home(id, kept);
        self.working.remove(&id);
        let disks = self.director(id).disks.clone();
        match machine {
            true => {
                let left = self.net.below(1 + disks.control.unsynced() as u64);
                let new_number = self.plan.without != Some(Without::ReplicaIds);
                disks.lose_machine(left as usize, new_number);
            }
            false => disks.lose_process(),
        }
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
        if director.frozen_since.is_none() || director.process.is_none() {
            return;
        }
        self.strand(id);
        let director = self.director(id);
        director.frozen_since = None;
        let local_us = director.clock.local_us(now_us);
        let released = std::mem::take(&mut director.released);
        if released && let Some(process) = &mut director.process {
            process.fall(local_us);
        }
        self.turn_at(id, now_us);
        self.queue.after(0, Event::Work(id));
    }

    /// An operator says something, through any director that serves.
    fn say(&mut self, command: impl Fn(u64) -> ControlCommand) {
        let now_us = self.queue.now_us();
        let mut running = self.directors.iter_mut().filter(|d| d.runs());
        let Some(director) = running.find(|d| d.process.as_ref().is_some_and(|p| p.serves()))
        else {
            return;
        };
        let local_us = director.clock.local_us(now_us);
        if let Some(process) = &mut director.process {
            let revision = process.cluster().revision;
            process.operate(local_us, command(revision));
        }
    }

    /// An operator wants a director to be in a state.
    fn operate(&mut self, id: u32, state: MemberState) {
        let director = DirectorId(id);
        self.say(|_| ControlCommand::SetState { director, state, force: None });
    }

    /// An operator has all directors serve again that were drained.
    pub(super) fn undrain(&mut self) {
        let drains = |m: &Member| matches!(m.state, MemberState::Draining | MemberState::Drained);
        let served = self.directors.iter().filter_map(|d| d.process.as_deref());
        let mut serving = served.filter(|process| process.serves());
        let Some(cluster) = serving.next().map(|process| process.cluster().clone()) else { return };
        for member in cluster.members.values().filter(|m| drains(m)) {
            self.operate(member.id.0, MemberState::Active);
        }
    }

    fn drain_backend(&mut self, backend: u32) {
        if self.draining.len() + 1 >= self.plan.backends as usize
            || self.draining.contains(&backend)
        {
            return;
        }
        self.draining.push(backend);
        let spec = Box::new(cluster::spec(&self.plan, &self.draining));
        self.say(|expected| ControlCommand::Configure {
            expected,
            spec: spec.clone(),
            force: None,
        });
    }
}
