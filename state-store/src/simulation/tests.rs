//! Replicas on simulated disks over a simulated network, stepped by hand.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{HardState, Message, MessageType};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::{
    Driver, DriverConfig, Group, Input, Peers, Place, Records, Routes, SimulatedDisk, bootstrap,
    found_empty, message, snapshot, stored_place,
};
use crate::codec;
use crate::codec::wire::{Address, RaftBatch};
use crate::membership::MemberView;
use crate::metrics::Metrics;
use crate::peer::Lane;
use crate::raft::machine::Machine as _;
use crate::raft::tests::lab::{Applied, GROUP, Memory};
use crate::storage::{self, Tag};
use crate::store::types::Limits;

const DIRECTORS: u32 = 3;

enum Mail {
    Message(DirectorId, Lane, Bytes),
    Snapshot(DirectorId, Address, Bytes, Bytes),
}

/// What a director sends, until the world takes it.
#[derive(Default)]
struct Out(Mutex<Vec<Mail>>);

impl Peers for Out {
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        self.0.lock().push(Mail::Message(to, lane, message));
    }
    fn send_snapshot(&self, to: DirectorId, address: Address, header: Bytes, image: Bytes) {
        self.0.lock().push(Mail::Snapshot(to, address, header, image));
    }
}

/// What is going to happen to a director, if it still lives that life.
enum Event {
    Input(Input),
    /// A snapshot from there: header, image, and where its report goes.
    Snapshot(DirectorId, Address, Bytes, Bytes),
    Written,
    Start,
}

struct Director {
    id: DirectorId,
    replica: u64,
    life: u64,
    disk: SimulatedDisk,
    driver: Option<Driver<Memory>>,
    applied: Applied,
    out: Arc<Out>,
    stalled_until: Duration,
    /// Term and vote that its disk held last, of which replica.
    hard: Option<(Place, u64, u64)>,
}

struct World {
    now: Duration,
    random: SmallRng,
    events: BTreeMap<(Duration, u64), (usize, u64, Event)>,
    number: u64,
    directors: Vec<Director>,
    members: Arc<Mutex<Vec<MemberView>>>,
    form: Arc<Mutex<Option<(u32, u64)>>>,
    next_replica: u64,
    cut: BTreeSet<(DirectorId, DirectorId)>,
    /// Per mille of messages that are lost.
    loss: u32,
    sync_entries: bool,
    /// Everything that was ever applied.
    acknowledged: BTreeMap<u64, Vec<u8>>,
    proposed: u64,
    trace: DefaultHasher,
    messages: u64,
}

impl World {
    fn new(seed: u64, sync_entries: bool) -> World {
        let director = |id: u32| Director {
            id: DirectorId(id),
            replica: u64::from(id),
            life: 0,
            disk: SimulatedDisk::new(),
            driver: None,
            applied: Applied::default(),
            out: Arc::default(),
            stalled_until: Duration::ZERO,
            hard: None,
        };
        let mut world = World {
            now: Duration::ZERO,
            random: SmallRng::seed_from_u64(seed),
            events: BTreeMap::new(),
            number: 0,
            directors: (1..=DIRECTORS).map(director).collect(),
            members: Arc::default(),
            form: Arc::default(),
            next_replica: u64::from(DIRECTORS) + 1,
            cut: BTreeSet::new(),
            loss: 0,
            sync_entries,
            acknowledged: BTreeMap::new(),
            proposed: 0,
            trace: DefaultHasher::new(),
            messages: 0,
        };
        world.note_members();
        (0..world.directors.len()).for_each(|at| world.start(at));
        world
    }

    fn note_members(&self) {
        let member = |d: &Director| MemberView { replica: d.replica, live: true, serving: true };
        *self.members.lock() = self.directors.iter().map(member).collect();
    }

    fn routes(&self) -> Routes {
        self.directors.iter().map(|d| (d.replica, d.id)).collect()
    }

    fn at(&mut self, delay_us: u64, at: usize, event: Event) {
        self.number += 1;
        let when = self.now + Duration::from_micros(delay_us);
        let life = self.directors[at].life;
        self.events.insert((when, self.number), (at, life, event));
    }

    fn start(&mut self, at: usize) {
        let (seed, now, routes) = (self.random.random(), self.now, self.routes());
        let (members, form) = (self.members.clone(), self.form.clone());
        let director = &mut self.directors[at];
        let db = director.disk.database();
        let place = Place { group: GROUP, generation: 1, replica: director.replica };
        if stored_place(&db, GROUP).unwrap() != Some(place) {
            match director.replica {
                1 => bootstrap(&db, place, &Records::new()).unwrap(),
                _ => found_empty(&db, place).unwrap(),
            }
        }
        let config = DriverConfig {
            name: "simulated",
            sync_entries: self.sync_entries,
            metrics: Arc::new(Metrics::default()),
            limits: Limits { log_bytes: 5_000, ..Limits::default() },
            seed,
        };
        director.applied = Applied::default();
        let applied = director.applied.clone();
        let load = |records| {
            let mut machine = Memory { applied, members, form, ..Memory::default() };
            machine.install(records).map(|()| machine)
        };
        let group = Group::open(&db, place, &config, load).unwrap();
        director.out = Arc::default();
        let (disk, out) = (director.disk.begin(), director.out.clone());
        director.driver = Some(Driver::new(config, vec![group], disk, out, routes, None, now));
    }

    /// The process ends, and begins again in a second; its machine may go down with it.
    fn crash(&mut self, at: usize, machine: bool, new_replica: bool) {
        let left = self.directors[at].disk.unsynced();
        let left = self.random.random_range(0..=left);
        let director = &mut self.directors[at];
        director.life += 1;
        director.driver = None;
        match machine {
            true => director.disk.lose_machine(left),
            false => director.disk.lose_process(),
        }
        if new_replica {
            director.replica = self.next_replica;
            self.next_replica += 1;
        }
        self.at(1_000_000, at, Event::Start);
    }

    /// Everybody hears who the members are.
    fn tell_members(&mut self) {
        self.note_members();
        let routes = Arc::new(self.routes());
        for at in 0..self.directors.len() {
            self.at(0, at, Event::Input(Input::Members(routes.clone())));
        }
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let polls = self.directors.iter().enumerate();
            let poll = polls
                .filter_map(|(at, d)| d.driver.as_ref().map(|driver| (driver.next(), at)))
                .min();
            let event = self.events.first_key_value().map(|(key, _)| key.0);
            let when = poll.map(|(when, _)| when).into_iter().chain(event).min();
            let Some(when) = when.filter(|when| *when <= end) else { break };
            self.now = self.now.max(when);
            if event == Some(when) {
                let (_, (at, life, event)) = self.events.pop_first().unwrap();
                if self.directors[at].life == life {
                    self.happen(at, event);
                }
            } else if let Some((_, at)) = poll {
                self.poll(at);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, at: usize, event: Event) {
        let input = match event {
            Event::Start => return self.start(at),
            Event::Input(input) => input,
            Event::Snapshot(from, address, header, image) => {
                let taken = snapshot(from, &header, image).unwrap().1;
                let sender = from.0 as usize - 1;
                self.at(500, sender, Event::Input(Input::SnapshotSent(address, true)));
                taken
            }
            Event::Written => {
                let director = &mut self.directors[at];
                if director.stalled_until > self.now {
                    let left = (director.stalled_until - self.now).as_micros() as u64;
                    return self.at(left, at, Event::Written);
                }
                director.disk.write_next();
                director.check_vote();
                Input::Written
            }
        };
        let now = self.now;
        if let Some(driver) = &mut self.directors[at].driver {
            assert!(driver.take(input, now).unwrap());
            self.poll(at);
        }
    }

    fn poll(&mut self, at: usize) {
        let director = &mut self.directors[at];
        let before = director.disk.outstanding();
        let Some(driver) = &mut director.driver else { return };
        driver.poll(self.now).unwrap();
        let outstanding = director.disk.outstanding();
        director.check_vote();
        let (from, mail) = (director.id, std::mem::take(&mut *director.out.0.lock()));
        for _ in before.min(outstanding)..outstanding {
            let delay = self.random.random_range(50..3_000);
            self.at(delay, at, Event::Written);
        }
        for mail in mail {
            self.post(from, mail);
        }
        self.note_applied(at);
    }

    fn post(&mut self, from: DirectorId, mail: Mail) {
        let delay = self.random.random_range(200..5_000);
        let lost = self.random.random_range(0..1_000) < self.loss;
        let passes = |to: DirectorId| !lost && !self.cut.contains(&(from, to));
        self.messages += 1;
        match mail {
            Mail::Message(to, lane, bytes) => {
                (self.now, from, to, lane, &bytes[..]).hash(&mut self.trace);
                check_appends(&bytes);
                if passes(to) {
                    let arrived = message(from, &bytes).unwrap().unwrap();
                    let input = arrived.sessions.unwrap();
                    self.at(delay, to.0 as usize - 1, Event::Input(input));
                }
            }
            Mail::Snapshot(to, address, header, image) => {
                (self.now, from, to, &header[..], &image[..]).hash(&mut self.trace);
                if passes(to) {
                    let event = Event::Snapshot(from, address, header, image);
                    self.at(delay, to.0 as usize - 1, event);
                } else {
                    let lost = Input::SnapshotSent(address, false);
                    self.at(delay, from.0 as usize - 1, Event::Input(lost));
                }
            }
        }
    }

    fn note_applied(&mut self, at: usize) {
        if self.form.lock().is_some() {
            // Another generation counts its entries anew.
            return;
        }
        let director = &self.directors[at];
        let applied = director.applied.lock();
        let news = match self.acknowledged.last_key_value() {
            Some((last, _)) => applied.range(last.saturating_sub(64)..),
            None => applied.range(..),
        };
        for (index, data) in news {
            let first = self.acknowledged.entry(*index).or_insert_with(|| data.clone());
            assert_eq!(first, data, "replica {} differs at {index}", director.replica);
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |d: &Director| {
            d.driver.as_ref().is_some_and(|driver| driver.states()[0].progress().leads)
        };
        self.directors.iter().position(leads)
    }

    fn propose(&mut self, entries: u64) {
        let Some(at) = self.leader() else { return };
        for _ in 0..entries {
            self.proposed += 1;
            let mut data = self.proposed.to_be_bytes().to_vec();
            data.resize(100, 7);
            let (reply, _) = oneshot::channel();
            self.at(0, at, Event::Input(Input::Propose(GROUP, data, reply)));
        }
    }

    /// Heals everything; then everybody has everything that anybody ever applied.
    fn converges(&mut self) {
        self.loss = 0;
        self.cut.clear();
        self.directors.iter_mut().for_each(|d| d.stalled_until = Duration::ZERO);
        let end = self.now + Duration::from_secs(30);
        loop {
            self.propose(1);
            self.run_for(Duration::from_millis(500));
            let complete = |d: &Director| {
                let applied = d.applied.lock();
                d.driver.is_some() && self.acknowledged.keys().all(|i| applied.contains_key(i))
            };
            let members: BTreeSet<u64> = self.directors.iter().map(|d| d.replica).collect();
            let votes = |d: &Director| {
                let conf = d.driver.as_ref().unwrap().states()[0].conf();
                conf.voters_outgoing.is_empty()
                    && conf.voters.into_iter().collect::<BTreeSet<_>>() == members
            };
            if self.directors.iter().all(complete) && self.directors.iter().all(votes) {
                break;
            }
            assert!(self.now < end, "it never converges");
        }
        (0..self.directors.len()).for_each(|at| {
            self.directors[at].check_all(&self.acknowledged);
        });
    }

    /// Some seconds in which everything goes wrong.
    fn faults(&mut self, rounds: u32) {
        self.loss = 30;
        for _ in 0..rounds {
            let at = self.random.random_range(0..self.directors.len());
            let other = self.random.random_range(1..=DIRECTORS);
            let running = self.directors.iter().filter(|d| d.driver.is_some()).count();
            match self.random.random_range(0..8) {
                0 => self.directors[at].stalled_until = self.now + Duration::from_secs(2),
                1 => {
                    self.cut.insert((self.directors[at].id, DirectorId(other)));
                }
                2 => self.cut.clear(),
                3 if running == self.directors.len() => {
                    self.crash(at, self.sync_entries, false);
                }
                4 => self.at(0, at, Event::Input(Input::Resign)),
                _ => {}
            }
            let entries = self.random.random_range(0..10);
            self.propose(entries);
            self.run_for(Duration::from_millis(200));
        }
    }

    fn end(&self) -> (u64, u64, u64) {
        (self.trace.finish(), self.messages, self.acknowledged.len() as u64)
    }
}

impl Director {
    /// What a disk says of the vote never goes back.
    fn check_vote(&mut self) {
        let db = self.disk.database();
        let Some(place) = stored_place(&db, GROUP).unwrap() else { return };
        let Some(stored) = db.get(&storage::key(GROUP, Tag::HardState, &[])).unwrap() else {
            return;
        };
        let mut hard = HardState::default();
        hard.merge_from_bytes(&stored).unwrap();
        if let Some((_, term, vote)) = self.hard.filter(|(same, ..)| *same == place) {
            assert!(hard.term >= term, "{place:?}: {term} to {}", hard.term);
            let same = hard.term > term || vote == 0 || hard.vote == vote;
            assert!(same, "{place:?} voted for {vote}, then {}", hard.vote);
        }
        self.hard = Some((place, hard.term, hard.vote));
    }

    fn check_all(&self, acknowledged: &BTreeMap<u64, Vec<u8>>) {
        assert_eq!(self.driver.as_ref().unwrap().states()[0].halted(), None);
        assert_eq!(*self.applied.lock(), *acknowledged, "replica {}", self.replica);
    }
}

/// No message has a gap between the entry it names and those it brings.
fn check_appends(bytes: &[u8]) {
    let batch: RaftBatch = codec::decode(bytes).unwrap();
    for envelope in batch.messages {
        let mut m = Message::default();
        m.merge_from_bytes(&envelope.message).unwrap();
        let follows = m.entries.iter().zip(m.index + 1..).all(|(entry, at)| entry.index == at);
        assert!(m.get_msg_type() != MessageType::MsgAppend || follows, "{m:?}");
    }
}

fn history(seed: u64, sync_entries: bool) -> (u64, u64, u64) {
    let mut world = World::new(seed, sync_entries);
    world.converges();
    world.faults(50);
    world.converges();
    world.end()
}

#[test]
fn replicas_on_simulated_disks_agree_whatever_happens() {
    for seed in 0..20 {
        let (_, messages, entries) = history(seed, seed % 2 == 0);
        assert!(
            messages > 500 && entries > 50,
            "seed {seed}: {messages} messages, {entries} entries"
        );
    }
}

#[test]
fn a_seed_gives_the_same_messages_again() {
    assert_eq!(history(7, true), history(7, true));
    assert_ne!(history(7, true).0, history(8, true).0);
}

/// A minority forgets everything, without a trace of it on its disk.
fn amnesia(seed: u64, new_replica: bool) {
    let mut world = World::new(seed, false);
    world.converges();
    for _ in 0..12 {
        let at = world.random.random_range(0..world.directors.len());
        let entries = world.random.random_range(1..10);
        world.propose(entries);
        let cut = world.directors[(at + 1) % 3].id;
        for other in (1..=DIRECTORS).map(DirectorId).filter(|d| *d != cut) {
            // It lags behind: what is acknowledged is on the two others.
            world.cut.extend([(cut, other), (other, cut)]);
        }
        world.run_for(Duration::from_millis(600));
        world.crash(at, true, new_replica);
        world.directors[at].disk.replace();
        world.directors[at].hard = None;
        world.run_for(Duration::from_millis(1_100));
        world.cut.clear();
        if new_replica {
            world.tell_members();
        }
        world.converges();
    }
}

#[test]
fn who_forgot_everything_comes_back_as_somebody_else() {
    (0..5).for_each(|seed| amnesia(seed, true));
}

#[test]
fn who_forgot_everything_and_comes_back_as_himself_is_noticed() {
    let noticed = |seed: &u64| std::panic::catch_unwind(|| amnesia(*seed, false)).is_err();
    assert!(
        (0..5).any(|seed| noticed(&seed)),
        "replica ids may be reused without anybody noticing"
    );
}

#[test]
fn a_learner_that_hears_no_leader_says_so() {
    let mut world = World::new(5, true);
    let member = |replica| MemberView { replica, live: true, serving: true };
    *world.members.lock() = vec![member(1), member(2)];
    let learner = |world: &World| world.directors[1].driver.as_ref().unwrap().states().remove(0);
    world.run_for(Duration::from_secs(3));
    assert_eq!(learner(&world).conf().learners, [2], "two directors are a voter and a learner");
    assert_eq!(learner(&world).progress().leader, 1);
    let (voter, other) = (DirectorId(1), DirectorId(2));
    world.cut.extend([(voter, other), (other, voter)]);
    world.run_for(Duration::from_secs(2));
    assert_eq!(
        learner(&world).progress().leader,
        0,
        "it takes no part in elections, but it is deaf"
    );
    world.cut.clear();
    world.run_for(Duration::from_secs(1));
    assert_eq!(learner(&world).progress().leader, 1);
    world.propose(1);
    world.run_for(Duration::from_secs(1));
    assert_eq!(learner(&world).progress().leader, 1);
}

#[test]
fn a_group_that_lost_its_majority_begins_anew_from_what_is_left() {
    let mut world = World::new(3, true);
    world.converges();
    world.propose(5);
    world.run_for(Duration::from_secs(1));
    for at in [0, 1] {
        world.crash(at, true, true);
        world.directors[at].disk.replace();
    }
    world.run_for(Duration::from_millis(1_100));
    assert_eq!(world.leader(), None, "a third of it decides nothing");
    *world.form.lock() = Some((2, world.directors[2].replica));
    world.tell_members();
    let alike = |world: &World| {
        let new = |d: &Director| {
            let state = d.driver.as_ref().unwrap().states().remove(0);
            state.generation() == 2 && state.conf().voters.len() == 3
        };
        let all: Vec<_> = world.directors.iter().map(|d| d.applied.lock().clone()).collect();
        world.directors.iter().all(new) && all.iter().all(|one| *one == all[0])
    };
    let has = |world: &World, number: u64| {
        world.directors[0].applied.lock().values().any(|d| d.starts_with(&number.to_be_bytes()))
    };
    let old = (1..=world.proposed).rev().find(|n| {
        let left = world.directors[2].applied.lock();
        left.values().any(|d| d.starts_with(&n.to_be_bytes()))
    });
    let end = world.now + Duration::from_secs(30);
    while !(alike(&world) && has(&world, old.unwrap())) {
        world.run_for(Duration::from_millis(100));
        assert!(world.now < end, "never formed anew");
    }
    world.propose(5);
    let last = world.proposed;
    while !(alike(&world) && has(&world, last)) {
        world.run_for(Duration::from_millis(100));
        assert!(world.now < end, "it does not go on");
    }
}
