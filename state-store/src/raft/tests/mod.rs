//! Disks that stall, break and come back, and what replicas make of it.

pub mod lab;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_schema::cluster::DirectorId;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::disk::Job;
use super::log::Log;
use super::machine::Records;
use super::{DriverConfig, ELECTION_TICKS, Group, Input, Place, Routes};
use super::{bootstrap, found_empty, inputs};
use crate::codec::disk::GroupMeta;
use crate::storage::gate::Gate;
use crate::storage::{self, Batch, Database, Tag};
use lab::{GROUP, Lab, Memory};

/// Rounds of faults.
const ROUNDS: u32 = 100;

/// Holds a disk for two seconds while entries are proposed: everybody else goes on, nobody is elected,
/// and at the end nothing is lost.
fn stall(of_leader: bool) {
    let mut lab = Lab::voters(3);
    let leader = lab.leader();
    let stalled = if of_leader { leader } else { leader % 3 + 1 };
    let terms = lab.terms();
    lab.propose(leader, 10);
    lab.node(stalled).db.gate.set(Gate::Stalled);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        lab.propose(leader, 1);
        let last = lab.proposed;
        lab.until("applied by the others", |lab| {
            lab.nodes.iter().filter(|n| n.replica != stalled).all(|n| Lab::has(n, last))
        });
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(lab.terms(), terms, "nobody was elected");
    }
    let last = lab.proposed;
    assert!(!Lab::has(lab.node(stalled), last), "not applied before it is written");
    lab.node(stalled).db.gate.set(Gate::Open);
    lab.until("applied by all", |lab| {
        lab.nodes.iter().all(|n| (1..=last).all(|number| Lab::has(n, number)))
    });
    assert_eq!((lab.terms(), lab.leader()), (terms, leader));
    let slow = lab.metrics(stalled).slow_writes.load(Ordering::Relaxed);
    assert!(slow > 0, "it is counted, unless nothing was stalled");
}

#[test]
fn a_stalled_disk_of_the_leader_does_not_look_like_death() {
    stall(true);
}

#[test]
fn a_stalled_disk_of_a_follower_does_not_look_like_death() {
    stall(false);
}

/// Everything that any replica has applied: acknowledged, to be kept for ever.
fn note(lab: &Lab, acknowledged: &mut BTreeMap<u64, Vec<u8>>) {
    for node in &lab.nodes {
        for (index, data) in node.applied.lock().iter() {
            let first = acknowledged.entry(*index).or_insert_with(|| data.clone());
            assert_eq!(first, data, "replica {} differs at {index}", node.replica);
        }
    }
}

#[test]
fn a_crash_with_writes_outstanding_loses_nothing_acknowledged_and_no_vote() {
    let mut lab = Lab::voters(3);
    let mut acknowledged = BTreeMap::new();
    for round in 0..6 {
        let leader = lab.leader();
        let victims = match round % 3 {
            0 => vec![leader],
            1 => vec![leader % 3 + 1],
            _ => vec![1, 2, 3],
        };
        lab.propose(leader, 50);
        let last = lab.proposed;
        lab.until("applied", |lab| lab.nodes.iter().any(|n| Lab::has(n, last)));
        victims.iter().for_each(|v| lab.node(*v).db.gate.set(Gate::Stalled));
        lab.propose(leader, 50);
        let last = lab.proposed;
        if victims.len() == 1 {
            lab.until("applied by the others", |lab| {
                lab.nodes.iter().filter(|n| n.replica != victims[0]).all(|n| Lab::has(n, last))
            });
        }
        note(&lab, &mut acknowledged);
        victims.iter().for_each(|v| lab.crash(*v));
        victims.into_iter().for_each(|v| lab.start(v));
        lab.goes_on();
        lab.until("all applied", |lab| {
            lab.nodes.iter().all(|n| {
                let applied = n.applied.lock();
                acknowledged.keys().all(|i| applied.contains_key(i))
            })
        });
        note(&lab, &mut acknowledged);
    }
    let checkpoints = |replica| lab.metrics(replica).checkpoints.load(Ordering::Relaxed);
    assert!((1..=3).any(|replica| checkpoints(replica) > 0), "checkpoints were under way as well");
}

#[test]
fn a_lone_voter_is_heard_of_only_when_its_vote_is_on_the_disk() {
    let mut lab = Lab::idle(3);
    lab.start(1);
    // Its campaign comes with a tick: the disk stalls before.
    lab.node(1).db.gate.set(Gate::Stalled);
    lab.until("it campaigned", |lab| lab.leads(1));
    let begun = Instant::now();
    lab.propose(1, 1);
    while begun.elapsed() < Duration::from_millis(300) {
        assert!(lab.net.leaders.lock().is_empty(), "nobody has heard of it");
        assert!(!Lab::has(lab.node(1), 1), "nothing counts before the vote is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.node(1).db.gate.set(Gate::Open);
    lab.until("it goes on", |lab| Lab::has(lab.node(1), 1));
    let syncs = lab.metrics(1).synced_writes.load(Ordering::Relaxed);
    assert!(syncs > 0, "the vote is, though entries are not synced here");
    (2..=3).for_each(|replica| lab.start(replica));
    lab.until("all have it", |lab| lab.nodes.iter().all(|n| Lab::has(n, 1)));
}

#[test]
fn a_disk_that_is_lost_does_not_keep_its_group() {
    let mut lab = Lab::voters(3);
    let leader = lab.leader();
    lab.node(leader).db.gate.set(Gate::Stalled);
    lab.propose(leader, 10);
    lab.until("others lead", |lab| (1..=3).any(|r| r != leader && lab.leads(r)));
    let heir = (1..=3).find(|r| *r != leader && lab.leads(*r)).unwrap();
    lab.propose(heir, 1);
    let last = lab.proposed;
    let others = |lab: &Lab, number| {
        lab.nodes.iter().filter(|n| n.replica != leader).all(|n| Lab::has(n, number))
    };
    lab.until("the others go on", |lab| others(lab, last));
    assert!((1..=last).all(|number| others(&lab, number)), "what the old leader took is there");
    lab.node(leader).db.gate.set(Gate::Open);
    lab.until("all have all", |lab| {
        lab.nodes.iter().all(|n| (1..=last).all(|number| Lab::has(n, number)))
    });
}

#[test]
fn an_entry_on_the_disk_says_what_was_committed_before_it() {
    let mut lab = Lab::voters(3);
    let leader = lab.leader();
    let follower = leader % 3 + 1;
    for _ in 0..5 {
        lab.propose(leader, 1);
        let last = lab.proposed;
        lab.until("applied by all", |lab| lab.nodes.iter().all(|n| Lab::has(n, last)));
    }
    let node = lab.node(follower);
    let indexes: Vec<u64> = node.applied.lock().keys().copied().collect();
    let hard = stored_hard(&node.db);
    assert!(hard.commit >= indexes[indexes.len() - 2], "{hard:?} with entries {indexes:?}");
}

fn stored_hard(db: &Database) -> HardState {
    let stored = db.get(&storage::key(GROUP, Tag::HardState, &[])).unwrap().unwrap();
    let mut hard = HardState::default();
    hard.merge_from_bytes(&stored).unwrap();
    hard
}

/// What a checkpoint lets go of is written with the vote of its time, and no other thread can bring
/// that in behind a newer one.
#[test]
fn a_checkpoint_never_brings_an_older_vote_back() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let meta = GroupMeta { applied: 1, applied_term: 1, ..GroupMeta::default() };
    let mut log = Log::open(&db, GROUP, &meta).unwrap();
    let (driver, _inputs) = std::sync::mpsc::sync_channel(16);
    let mut disk = super::writer::start("test", db.clone(), Default::default(), driver).unwrap();
    let entries: Vec<Entry> =
        (2..9).map(|index| Entry { index, term: 1, ..Entry::default() }).collect();
    let mut batch = Batch::default();
    log.append(&mut batch, &entries, 1).unwrap();
    disk.write_through(batch).unwrap();
    db.gate.set(Gate::Stalled);
    for round in 1..=3 {
        let mut batch = Batch::default();
        log.truncate(&mut batch, 2 * round).unwrap();
        disk.submit(Job { batch, ..Job::default() }).unwrap();
        log.set_hard(&HardState { term: round + 1, vote: round, ..HardState::default() });
        let mut batch = Batch::default();
        log.put_hard(&mut batch);
        disk.submit(Job { batch, sync: true, ..Job::default() }).unwrap();
    }
    db.gate.set(Gate::Open);
    disk.wait_idle().unwrap();
    let hard = stored_hard(&db);
    assert_eq!((hard.term, hard.vote), (4, 3));
}

#[test]
fn news_get_through_a_full_queue() {
    let mut lab = Lab::idle(2);
    let attached = Arc::new(AtomicBool::new(false));
    let (handle, queue) = inputs(lab.metrics(1));
    while handle.say(Input::Fed) {}
    handle.attached();
    handle.members(|| Routes::from([(2, DirectorId(2))]));
    // Without them it would know nobody to send to.
    lab.start_with(1, Routes::new(), (handle, queue), attached.clone());
    lab.until("a message to the other one", |lab| !lab.net.leaders.lock().is_empty());
    lab.until("told of the sink", |_| attached.load(Ordering::Relaxed));
}

#[test]
fn elections_are_drawn_from_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let place = Place { group: GROUP, generation: 1, replica: 2 };
    found_empty(&db, place).unwrap();
    let timeouts = |seed: u64| -> Vec<usize> {
        let config = DriverConfig { seed, ..lab::config(Default::default()) };
        let mut group = Group::open(&db, place, &config, |_| Ok(Memory::default())).unwrap();
        let mut timeout = |term| {
            // raft-rs draws one of its own.
            group.raw.raft.become_follower(term, 0);
            group.tick();
            group.raw.raft.randomized_election_timeout()
        };
        (1..=50).map(&mut timeout).collect()
    };
    let drawn = timeouts(7);
    assert_eq!(drawn, timeouts(7));
    assert_ne!(drawn, timeouts(8));
    let all: BTreeSet<usize> = drawn.into_iter().collect();
    assert_eq!(all, (ELECTION_TICKS..2 * ELECTION_TICKS).collect(), "the whole range is used");
}

#[test]
fn a_voter_that_decides_alone_does_not_campaign_before_everything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let place = Place { group: GROUP, generation: 1, replica: 1 };
    bootstrap(&db, place, &Records::new()).unwrap();
    let load = |_| Ok(Memory::default());
    let mut group = Group::open(&db, place, &lab::config(Default::default()), load).unwrap();
    group.inflight.add(1, true, false, Vec::new());
    for (outgoing, alone) in [(vec![], true), (vec![1], true), (vec![1, 2], false)] {
        let conf = ConfState { voters_outgoing: outgoing, ..ConfState::from((vec![1], vec![2])) };
        group.raw.mut_store().set_conf(conf);
        assert_eq!((group.alone(), group.may_campaign()), (alone, !alone));
    }
    group.inflight.written(1);
    group.inflight.take_done();
    group.raw.mut_store().set_conf(ConfState::from((vec![1], vec![2])));
    assert!(group.may_campaign());
}

/// Everything goes wrong by turns: nobody votes twice, no term has two leaders (the network watches),
/// nobody's entries differ, and nothing that anybody applied is lost.
#[test]
fn whatever_disks_network_and_members_do_replicas_agree() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut lab = Lab::voters(5);
    let mut acknowledged = BTreeMap::new();
    lab.net.loss.store(5, Ordering::Relaxed);
    for round in 1..=ROUNDS {
        let replica = random.random_range(1..=5);
        let at = replica as usize - 1;
        match random.random_range(0..10) {
            _ if round % 8 == 0 => {
                lab.crash(replica);
                lab.start(replica);
            }
            0 | 1 => lab.node(replica).db.gate.set(Gate::Stalled),
            2 => assert!(lab.node(replica).running.handle.say(Input::Resign)),
            3 => lab.members.lock()[at].live ^= true,
            4 => lab.members.lock()[at].serving ^= true,
            5 => lab.all_serve(),
            _ => lab.node(replica).db.gate.set(Gate::Open),
        }
        let entries = random.random_range(0..20);
        let leaders: Vec<u64> = (1..=5).filter(|replica| lab.leads(*replica)).collect();
        leaders.into_iter().for_each(|leader| lab.propose(leader, entries));
        note(&lab, &mut acknowledged);
        std::thread::sleep(Duration::from_millis(random.random_range(0..100)));
    }
    lab.net.loss.store(0, Ordering::Relaxed);
    lab.nodes.iter().for_each(|n| n.db.gate.set(Gate::Open));
    lab.all_serve();
    lab.goes_on();
    lab.all_vote();
    note(&lab, &mut acknowledged);
    for node in &lab.nodes {
        let applied = node.applied.lock();
        let lost: Vec<&u64> = acknowledged.keys().filter(|i| !applied.contains_key(i)).collect();
        assert!(lost.is_empty(), "replica {} lost {lost:?}", node.replica);
    }
    let changes: u64 = (1..=5).map(|r| lab.metrics(r).conf_changes.load(Ordering::Relaxed)).sum();
    println!("{} entries of {}, {changes} changes", acknowledged.len(), lab.proposed);
    assert!(changes > 3 && acknowledged.len() > 20, "it was not put to the test");
}
