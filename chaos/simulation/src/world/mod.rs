//! The world: everything there is, and what happens next.

mod deaf;
pub mod excuses;
mod faults;
pub mod happening;
mod homes;
mod hosts;
mod known;
pub mod marks;
mod oracle;
mod orphans;
mod packets;
mod paths;
mod peers;
mod phases;
mod queue;
mod readiness;
mod refusing;
mod router;
pub mod rules;
pub mod trace;
mod unanswered;
mod unheard;
mod waiting;
mod watch;
mod wraps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use holdfast_schema::cluster::DirectorId;

use crate::director::Director;
use crate::director::clock::Clock;
use crate::director::message::Message;
use crate::director::process::{Birth, Effects, Miss, Process, TURN_US};
use crate::director::runs::Runs;
use crate::director::share::{Disks, Which};
use crate::plan::{PacketWeather, Plan, cluster};
use crate::rng::Rng;
use excuses::{Excused, Excuses};
use happening::Happening;
use hosts::Hosts;
use marks::{Mark, Marks};
use oracle::Oracle;
use paths::Paths;
use peers::Peers;
use queue::Queue;
use refusing::STORE_WATCH_US;
use router::Router;
use rules::{Rule, Violation};
use trace::{FlowId, Trace};

/// How long (us) a disk takes for a job, at the most.
const DISK_US: u64 = 3_000;

/// Something that is going to happen.
#[derive(Debug)]
enum Event {
    AtRouter(Vec<u8>),
    AtDirector(u32, Vec<u8>),
    AtClient(u32, Vec<u8>),
    AtBackend(u32, Vec<u8>),
    /// A director's workers look at their queues.
    Work(u32),
    /// A director looks at everything, if that is the time at which it wants to.
    Turn(u32, u64),
    WakeClient(u32, u64),
    WakeBackend(u32, u64),
    Message(u32, u32, Message),
    /// A disk has written the next job of a process.
    Written(u32, u32, Which),
    /// The router learns what a process announces.
    Routes(u32, u32, holdfast_node::announce::wish::Wish),
    /// The router notices that a process is gone.
    Withdrawn(u32, u32),
    /// BIRD shows what a process announces.
    Shown(u32, u32, holdfast_node::announce::wish::Wish),
    /// The guard of a process looks whether it beats.
    GuardLooks(u32, u32),
    /// A process looks whether its store goes on.
    StoreWatched(u32, u32),
    /// The service manager starts a daemon again that ended by itself.
    StartAgain(u32, u32),
    Fault(usize),
    FaultEnds(usize),
}

/// All of it.
pub struct World {
    /// What the seed stands for.
    pub plan: Plan,
    queue: Queue<Event>,
    trace: Trace<Happening>,
    /// The rare paths that were reached.
    pub marks: Marks,
    /// The rules that were broken.
    pub violations: Vec<Violation>,
    net: Rng,
    weather: PacketWeather,
    router: Router,
    peers: Peers,
    directors: Vec<Director>,
    hosts: Hosts,
    /// Directors whose workers are about to look.
    working: BTreeSet<u32>,
    /// Directors whose packets are lost.
    dark: BTreeMap<usize, u32>,
    /// Client sockets by the addresses of the leg to the backend.
    replies: BTreeMap<(u64, u64), FlowId>,
    /// The first owners of LIPs.
    owners: BTreeMap<Ipv4Addr, u32>,
    /// When each director began to flush for the planned change it waits for (us).
    flushing_us: BTreeMap<u32, u64>,
    /// Table hashes by revision and health version.
    hashes: BTreeMap<(u64, u64), u64>,
    /// Backends that were told to take nothing new.
    draining: Vec<u32>,
    healed: bool,
    /// Which losses are nobody's fault.
    excuses: Excuses,
    /// Where packets have to go.
    oracle: Oracle,
    /// What has begun on a rare path.
    paths: Paths,
    /// Client sockets that had a connection, and those that had several.
    sockets_used: BTreeSet<FlowId>,
    sockets_reused: BTreeSet<FlowId>,
    /// When a link between directors, or a process, was last stopped or let go on (us).
    changed_us: u64,
    /// What each director was last seen to know of the session that is watched.
    watched: BTreeMap<u32, String>,
    /// Since when there has been a quorum (us).
    quorum_since_us: Option<u64>,
}

impl World {
    /// The world before anything happens.
    pub fn new(plan: Plan) -> World {
        let seed = plan.seed;
        let mut rng = Rng::new(seed, "world");
        let record = cluster::record(&plan);
        let drift = u64::from(plan.drift_ppm);
        let directors = (1..=plan.directors).map(|id| Director {
            id,
            clock: Clock::new(
                rng.between(1_000_000, 1_000_000_000),
                rng.between(0, 2 * drift) as i64 - drift as i64,
            ),
            disks: Disks::new(DirectorId(id), &record),
            disk_us: DISK_US,
            disk_full: false,
            disk_stalls: 0,
            disk_owes: Vec::new(),
            disk_runs: Runs::default(),
            process: None,
            frozen_since: None,
            cut_since: None,
            hears_since: 0,
            heard: Vec::new(),
            dead: false,
            released: false,
            life: 0,
            ended_us: BTreeMap::new(),
            stored: Vec::new(),
            started_us: 0,
            recorded_us: None,
            turn_us: u64::MAX,
        });
        let directors = directors.collect();
        let mut world = World {
            queue: Queue::default(),
            trace: Trace::default(),
            marks: Marks::default(),
            violations: Vec::new(),
            net: Rng::new(seed, "packets"),
            weather: plan.weather,
            router: Router::new(plan.resilient, rng.draw()),
            peers: Peers::new(seed, plan.peer_us),
            hosts: Hosts::new(&plan),
            directors,
            working: BTreeSet::new(),
            dark: BTreeMap::new(),
            replies: BTreeMap::new(),
            owners: cluster::lip_owners(&record),
            flushing_us: BTreeMap::new(),
            hashes: BTreeMap::new(),
            draining: Vec::new(),
            healed: false,
            excuses: Excuses::default(),
            oracle: Oracle::default(),
            paths: Paths::default(),
            sockets_used: BTreeSet::new(),
            sockets_reused: BTreeSet::new(),
            changed_us: 0,
            watched: BTreeMap::new(),
            quorum_since_us: None,
            plan,
        };
        world.trace.watch(world.plan.watch);
        world
    }

    /// Everything begins.
    fn begin(&mut self) {
        for id in 1..=self.plan.founding {
            self.start(id);
        }
        self.wake_hosts();
        for (n, planned) in self.plan.faults.iter().enumerate() {
            self.queue.at(planned.at_us, Event::Fault(n));
        }
    }

    fn note(&mut self, flow: Option<FlowId>, happening: Happening) {
        self.trace.note(self.queue.now_us(), flow, happening);
    }

    /// The time (us).
    pub fn now_us(&self) -> u64 {
        self.queue.now_us()
    }

    /// The hash over everything that happened, and how much that was.
    pub fn hash(&self) -> (u64, u64) {
        self.trace.hash()
    }

    /// Losses that were excused.
    pub fn excused_losses(&self) -> &Excused {
        &self.excuses.counts
    }

    /// The last events of a flow, in words.
    pub fn words(&self, flow: Option<FlowId>) -> String {
        self.trace.words(flow)
    }

    fn director(&mut self, id: u32) -> &mut Director {
        &mut self.directors[id as usize - 1]
    }

    fn is_dark(&self, id: u32) -> bool {
        self.dark.values().any(|dark| *dark == id)
    }

    /// Starts a director's process.
    fn start(&mut self, id: u32) {
        let (now_us, workers, without) =
            (self.queue.now_us(), self.plan.workers, self.plan.without);
        let seed = Rng::new(self.plan.seed, &format!("director {id}")).draw();
        let director = self.director(id);
        director.life += 1;
        director.dead = false;
        director.frozen_since = None;
        director.released = false;
        director.heard.clear();
        director.stored.clear();
        let (incarnation, unclean) = {
            let mut identity = director.disks.identity.borrow_mut();
            identity.incarnation += 1;
            (identity.incarnation, !std::mem::replace(&mut identity.clean, false))
        };
        let birth = Birth {
            me: DirectorId(id),
            incarnation,
            unclean,
            workers,
            seed: seed.wrapping_add(u64::from(director.life)),
            unix_ms_at_zero: director.clock.unix_ms_at_zero(),
            disks: director.disks.clone(),
            without,
        };
        let process = Process::start(birth, director.clock.local_us(now_us));
        director.process = Some(Box::new(process));
        director.turn_us = u64::MAX;
        director.started_us = now_us;
        director.recorded_us = None;
        let life = director.life;
        let planned = |p: &Process| p.cluster().planned.iter().any(|p| p.director.0 == id);
        let mut serving =
            self.directors.iter().filter_map(|d| d.process.as_deref()).filter(|p| p.serves());
        let amid = serving.any(planned);
        self.marks.reach(Mark::StartInPlannedChange, u64::from(amid));
        self.queue.after(STORE_WATCH_US, Event::StoreWatched(id, life));
        self.note(None, Happening::Started(id, incarnation));
        self.note_links();
        self.oracle.waiting.forget(id);
        self.turn_at(id, now_us);
    }

    /// One event. False: there is none before `until_us`.
    fn step(&mut self, until_us: u64) -> bool {
        let Some(event) = self.queue.next(until_us) else { return false };
        match event {
            Event::AtRouter(packet) => self.at_router(packet),
            Event::AtDirector(id, packet) => self.at_director(id, packet),
            Event::AtClient(n, packet) => self.at_client(n, &packet),
            Event::AtBackend(n, packet) => self.at_backend(n, &packet),
            Event::Work(id) => self.work(id),
            Event::Turn(id, at_us) => self.turn(id, at_us),
            Event::WakeClient(n, wake) => self.wake_client(n, wake),
            Event::WakeBackend(n, wake) => self.wake_backend(n, wake),
            Event::Message(from, to, message) => self.deliver(from, to, message),
            Event::Written(id, life, which) => self.written(id, life, which),
            Event::Routes(id, life, wish) => self.routes(id, life, wish),
            Event::Withdrawn(id, life) => self.withdrawn(id, life),
            Event::Shown(id, life, wish) => {
                let director = self.director(id);
                if director.life == life
                    && let Some(process) = &mut director.process
                {
                    process.announcer.show(wish);
                }
            }
            Event::GuardLooks(id, life) => self.guard_looks(id, life),
            Event::StoreWatched(id, life) => self.watch_store(id, life),
            Event::StartAgain(id, life) => self.start_again(id, life),
            Event::Fault(n) => self.begin_fault(n),
            Event::FaultEnds(n) => self.end_fault(n),
        }
        true
    }

    /// A director looks at everything at this time, or earlier if it wanted to already.
    fn turn_at(&mut self, id: u32, at_us: u64) {
        let director = self.director(id);
        if at_us < director.turn_us {
            director.turn_us = at_us;
            self.queue.at(at_us, Event::Turn(id, at_us));
        }
    }

    /// A director looks at everything.
    fn turn(&mut self, id: u32, at_us: u64) {
        let now_us = self.queue.now_us();
        let quiet = self.healed && self.hosts.all_gone();
        let cut = !self.healed && self.director(id).cut_since.is_some();
        let director = self.director(id);
        if director.turn_us != at_us {
            return;
        }
        director.turn_us = u64::MAX;
        if !director.runs() {
            return;
        }
        let local_us = director.clock.local_us(now_us);
        let Some(process) = &mut director.process else { return };
        let mut effects = Effects::default();
        process.turn(local_us, &mut effects);
        let most_us = if quiet { 5 * TURN_US } else { TURN_US };
        let next_us = process.next_in_us(local_us, most_us);
        self.carry_out(id, effects);
        self.note_quorum();
        if cut {
            self.strand(id);
        }
        self.look_at_watched(id);
        self.turn_at(id, now_us + next_us);
    }

    /// Something has happened that a director may want to look at soon.
    fn hurry(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        let local_us = director.clock.local_us(now_us);
        if let Some(process) = &director.process {
            let next_us = process.next_in_us(local_us, TURN_US);
            self.turn_at(id, now_us + next_us);
        }
    }

    /// A message arrives at a director.
    fn deliver(&mut self, from: u32, to: u32, message: Message) {
        let now_us = self.queue.now_us();
        if let Some(word) = message.word() {
            self.note(None, Happening::Message(from, to, word));
        }
        let director = self.director(to);
        if director.dead {
            return;
        }
        if director.frozen_since.is_some() {
            // It waits in the socket until somebody reads.
            self.queue.after(50_000, Event::Message(from, to, message));
            return;
        }
        let local_us = director.clock.local_us(now_us);
        let Some(process) = &mut director.process else { return };
        let mut effects = Effects::default();
        process.hear(local_us, DirectorId(from), message, &mut effects);
        self.carry_out(to, effects);
        self.hurry(to);
    }

    /// A disk has written the next job of a process.
    fn written(&mut self, id: u32, life: u32, which: Which) {
        let now_us = self.queue.now_us();
        let director = self.director(id);
        if director.life != life || director.dead {
            return;
        }
        if director.frozen_since.is_some() {
            self.queue.after(50_000, Event::Written(id, life, which));
            return;
        }
        if director.disk_stalls > 0 {
            director.disk_owes.push((life, which));
            return;
        }
        let local_us = director.clock.local_us(now_us);
        let Some(process) = &mut director.process else { return };
        let mut effects = Effects::default();
        process.written(local_us, which, &mut effects);
        self.carry_out(id, effects);
        self.hurry(id);
    }

    /// Does what a process wants.
    fn carry_out(&mut self, id: u32, effects: Effects) {
        let now_us = self.queue.now_us();
        for sent in effects.sent {
            self.sent(id, sent);
        }
        for (to, message) in effects.messages {
            let on_its_way = self.peers.send(now_us, id, to.0, message);
            if let Some((at_us, from, to, message)) = on_its_way {
                self.queue.at(at_us, Event::Message(from, to, message));
            }
        }
        for which in effects.writes {
            let director = self.director(id);
            let (life, most_us) = (director.life, director.disk_us);
            let takes_us = self.net.between(50, most_us);
            let at_us = self.director(id).disk_runs.done_at(now_us, takes_us);
            self.queue.at(at_us, Event::Written(id, life, which));
        }
        self.marks.reach(Mark::PlannedChange, u64::from(effects.planned_ended));
        if effects.homes_changed {
            self.marks.reach(Mark::HomeChange, 1);
        }
        if effects.stalled {
            self.marks.reach(Mark::Stalled, 1);
            self.oracle.waiting.forget(id);
            self.note(None, Happening::Stalled(id));
        }
        if let Some(wish) = effects.wish {
            let life = self.director(id).life;
            let router_us = self.net.between(2_000, 30_000);
            let shown_us = self.net.between(1_000, 20_000);
            self.queue.after(router_us, Event::Routes(id, life, wish));
            self.queue.after(shown_us, Event::Shown(id, life, wish));
        }
        if let Some(stage) = effects.stage {
            self.note(None, Happening::Stage(id, stage));
            self.marks.reach(Mark::Drained, u64::from(stage == "drained"));
            self.judge_readiness(id, stage);
        }
        if let Some((revision, health, hash)) = effects.tables {
            let first = *self.hashes.entry((revision, health)).or_insert(hash);
            if first != hash {
                let what = format!("director {id} has other tables of revision {revision}");
                self.violate(Rule::SameTables, what, None);
            }
        }
        for miss in effects.misses {
            let mark = match miss {
                Miss::Found => Mark::MissFound,
                Miss::Denied => Mark::MissDenied,
                Miss::Unknown => Mark::AuthorityWithheld,
                Miss::SomebodyDown => Mark::DownNotDenied,
            };
            self.marks.reach(mark, 1);
        }
    }

    /// The router learns what a process announces.
    fn routes(&mut self, id: u32, life: u32, wish: holdfast_node::announce::wish::Wish) {
        let director = self.director(id);
        if director.life != life || director.dead {
            return;
        }
        let Some(process) = &director.process else { return };
        // Later news have overtaken these.
        if process.announcer.wish() != wish {
            return;
        }
        let routes = wish.routes(process.cluster(), DirectorId(id), &BTreeSet::new());
        let metric = routes.get(&cluster::TCP.ip()).copied();
        let stage = process.announcer.stage().clone();
        self.router.learn(id, routes);
        self.judge_attraction(id, metric, &stage);
        self.note(None, Happening::Announces(id, metric));
    }

    /// The router notices that a process is gone, or that its guard let go.
    fn withdrawn(&mut self, id: u32, life: u32) {
        let director = self.director(id);
        if director.life != life {
            return;
        }
        self.router.forget(id);
        self.note(None, Happening::Announces(id, None));
    }
}
