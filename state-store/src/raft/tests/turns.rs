//! Groups with so many sessions that an image of one takes longer than three heartbeats, and with more
//! changes than the way to their leader takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::SessionChange;
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::lab::{self, Memory, SLOW_MS};
use crate::codec;
use crate::codec::wire::{Address, RaftBatch, SnapshotHeader};
use crate::membership::MemberView;
use crate::peer::Lane;
use crate::raft::machine::Records;
use crate::raft::{
    Driver, ELECTION_TICKS, Feed, Group, Input, Peers, Place, Routes, TICK, bootstrap, found_empty,
};
use crate::shard::tests::record;
use crate::simulation::SimulatedDisk;

const GROUPS: u16 = 16;

/// What a director sends, and when it was heard last, by group and replica.
#[derive(Default)]
struct Out {
    clock: Arc<AtomicU64>,
    mail: Mutex<Vec<Input>>,
    heard: Mutex<BTreeMap<(u16, u64), u64>>,
    /// The longest silence of a leader (ms).
    silence: AtomicU64,
    from: u32,
    crowded: AtomicBool,
    /// Batches of changes that went to a leader.
    forwarded: AtomicU64,
}

impl Peers for Out {
    fn send(&self, _: DirectorId, _: Lane, message: Bytes) {
        let Ok(batch) = codec::decode::<RaftBatch>(&message) else {
            self.forwarded.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let now = self.clock.load(Ordering::Relaxed);
        for envelope in &batch.messages {
            let mut m = Message::default();
            m.merge_from_bytes(&envelope.message).unwrap();
            if m.get_msg_type() == MessageType::MsgHeartbeat {
                let last = self.heard.lock().insert((envelope.address.group, m.to), now);
                self.silence.fetch_max(last.map_or(0, |last| now - last), Ordering::Relaxed);
            }
        }
        self.mail.lock().push(Input::Raft(DirectorId(self.from), batch.messages));
    }
    fn crowded(&self, _: DirectorId, lane: Lane) -> bool {
        lane == Lane::Log && self.crowded.load(Ordering::Relaxed)
    }
    fn send_snapshot(&self, _: DirectorId, address: Address, header: Bytes, image: Bytes) {
        let header: SnapshotHeader = codec::decode(&header).unwrap();
        let mut m = Box::<Message>::default();
        m.merge_from_bytes(&header.message).unwrap();
        self.mail.lock().push(Input::Snapshot(DirectorId(self.from), address, m, image));
    }
}

struct Director {
    driver: Driver<Memory>,
    disk: SimulatedDisk,
    out: Arc<Out>,
    feed: Arc<Feed>,
    attached: Vec<Arc<AtomicBool>>,
}

fn director(id: u32, clock: &Arc<AtomicU64>, members: &Arc<Mutex<Vec<MemberView>>>) -> Director {
    let disk = SimulatedDisk::new();
    let db = disk.database();
    let config = lab::config(Arc::default());
    let attached: Vec<Arc<AtomicBool>> = (0..GROUPS).map(|_| Arc::default()).collect();
    let open = |group: u16| {
        let place = Place { group, generation: 1, replica: id.into() };
        match id {
            1 => bootstrap(&db, place, &Records::new()).unwrap(),
            _ => found_empty(&db, place).unwrap(),
        }
        let machine = Memory {
            members: members.clone(),
            attached: attached[usize::from(group)].clone(),
            slow: (id == 1).then(|| clock.clone()),
            ..Memory::default()
        };
        Group::open(&db, place, &config, |_| Ok(machine)).unwrap()
    };
    let groups = (0..GROUPS).map(open).collect();
    let out = Arc::new(Out { from: id, clock: clock.clone(), ..Out::default() });
    let routes = Routes::from([(1, DirectorId(1)), (2, DirectorId(2))]);
    let feed = Arc::new(Feed::new(GROUPS, &config.limits));
    let (end, fed) = (disk.begin(), Some(feed.clone()));
    let driver = Driver::new(config.clone(), groups, end, out.clone(), routes, fed, Duration::ZERO);
    Director { driver, disk, out, feed, attached }
}

/// One that leads all groups, and one that knows nothing yet.
struct Pair {
    clock: Arc<AtomicU64>,
    members: Arc<Mutex<Vec<MemberView>>>,
    both: [Director; 2],
}

impl Pair {
    fn new() -> Pair {
        let (clock, members) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<_>>>::default());
        let both = [1, 2].map(|id| director(id, &clock, &members));
        let mut pair = Pair { clock, members, both };
        pair.member(1);
        pair.until("it leads", |pair| {
            pair.both[0].driver.states().iter().all(|s| s.progress().leads)
        });
        pair
    }

    fn member(&self, replica: u64) {
        self.members.lock().push(MemberView { replica, live: true, serving: true });
    }

    /// The second director becomes a learner of all groups, and catches up.
    fn learn(&mut self) {
        self.member(2);
        self.until("all groups have caught up", |pair| {
            pair.both[1].driver.states().iter().all(|s| s.conf().learners == [2])
        });
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.clock.load(Ordering::Relaxed))
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Pair) -> bool) {
        let end = self.now() + Duration::from_secs(60);
        while !done(self) {
            assert!(self.now() < end, "never: {what}");
            for at in [0, 1] {
                let mail = std::mem::take(&mut *self.both[1 - at].out.mail.lock());
                for input in mail {
                    if let Input::Snapshot(_, address, ..) = &input {
                        let sent = Input::SnapshotSent(*address, true);
                        self.both[1 - at].driver.take(sent, self.now()).unwrap();
                    }
                    self.both[at].driver.take(input, self.now()).unwrap();
                }
                while self.both[at].disk.write_next() {}
                let (now, before) = (self.now(), self.clock.load(Ordering::Relaxed));
                self.both[at].driver.poll(now).unwrap();
                let took = self.clock.load(Ordering::Relaxed) - before;
                assert!(took <= 2 * SLOW_MS, "{took} ms in one go");
            }
            let next = self.both.iter().map(|d| d.driver.next()).min().unwrap();
            let next = (next.as_millis() as u64).max(self.clock.load(Ordering::Relaxed) + 1);
            self.clock.store(next, Ordering::Relaxed);
        }
    }

    /// Nobody has waited for the leader for so long that he would elect another one.
    fn assert_heard(&self) {
        let silence = Duration::from_millis(self.both[0].out.silence.load(Ordering::Relaxed));
        assert!(silence < TICK * ELECTION_TICKS as u32, "silent for {silence:?}");
    }
}

#[test]
fn a_leader_of_all_groups_is_heard_while_a_new_learner_gets_their_snapshots() {
    let mut pair = Pair::new();
    pair.learn();
    pair.assert_heard();
}

#[test]
fn a_leader_of_all_groups_is_heard_while_a_sink_is_told_everything() {
    let mut pair = Pair::new();
    pair.learn();
    let now = pair.now();
    pair.both[0].driver.take(Input::Attached, now).unwrap();
    let told = |pair: &Pair| pair.both[0].attached.iter().all(|a| a.load(Ordering::Relaxed));
    pair.until("every group was told", told);
    let until = pair.now() + Duration::from_secs(1);
    pair.until("a second passes", |pair| pair.now() >= until);
    pair.assert_heard();
}

#[test]
fn only_who_has_told_a_sink_everything_says_so_although_all_answer_meanwhile() {
    let mut pair = Pair::new();
    let told = |pair: &Pair| -> Vec<bool> {
        pair.both[0].driver.states().iter().map(|state| state.told()).collect()
    };
    pair.until("all groups have caught up", |pair| {
        pair.both[0].driver.states().iter().all(|s| s.caught_up())
    });
    assert_eq!(told(&pair), [false; GROUPS as usize]);
    let now = pair.now();
    pair.both[0].driver.take(Input::Attached, now).unwrap();
    let (reply, mut confirmed) = tokio::sync::oneshot::channel();
    pair.both[0].driver.take(Input::Confirm(GROUPS - 1, reply), now).unwrap();
    pair.until("the last group is confirmed", |pair| {
        let attached = pair.both[0].attached.iter().map(|a| a.load(Ordering::Relaxed));
        assert!(attached.eq(told(pair)));
        confirmed.try_recv().is_ok()
    });
    let knows_all = |pair: &Pair| -> Vec<bool> {
        pair.both[0].driver.states().iter().map(|state| state.sink_knows_all()).collect()
    };
    assert_eq!(knows_all(&pair).last(), Some(&false), "it answers, but has not told");
    pair.until("every group was told", |pair| !knows_all(pair).contains(&false));
}

#[test]
fn changes_wait_in_the_feed_while_the_way_to_their_leader_is_crowded() {
    let mut pair = Pair::new();
    pair.learn();
    let (feed, out) = (pair.both[1].feed.clone(), pair.both[1].out.clone());
    out.crowded.store(true, Ordering::Relaxed);
    feed.push(3, (0..3).map(|n| SessionChange::Create(record(n, 1, 0))).collect()).unwrap();
    let now = pair.now();
    pair.both[1].driver.take(Input::Fed, now).unwrap();
    pair.until("a second passes", |pair| pair.now() >= now + Duration::from_secs(1));
    assert_eq!((feed.waiting(), out.forwarded.load(Ordering::Relaxed)), (3, 0));
    out.crowded.store(false, Ordering::Relaxed);
    pair.until("they leave", |_| feed.waiting() == 0);
    assert_eq!(out.forwarded.load(Ordering::Relaxed), 1);
}
