//! Replicas on disks that stall and crash, over a network in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::oneshot;

use crate::codec;
use crate::codec::wire::{RaftBatch, SnapshotHeader};
use crate::liveness::Judgement;
use crate::membership::MemberView;
use crate::metrics::Metrics;
use crate::peer::{Lane, PeerInfo, PeerLiveness};
use crate::raft::machine::{Dirty, Machine, Records};
use crate::raft::{DriverConfig, Group, Handle, Input, Place, Routes, Running, Surroundings};
use crate::raft::{bootstrap, found_empty, inputs, start, stored_place};
use crate::storage::Database;
use crate::storage::gate::Gate;
use crate::store::types::Limits;
use crate::transport::Transport;

pub const GROUP: u16 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// What was applied, by index. Shared with the test.
pub type Applied = Arc<Mutex<BTreeMap<u64, Vec<u8>>>>;

/// Remembers every entry.
#[derive(Default)]
pub struct Memory {
    pub applied: Applied,
    pub members: Arc<Mutex<Vec<MemberView>>>,
    pub attached: Arc<AtomicBool>,
    /// Generation and first replica that are wanted.
    pub form: Arc<Mutex<Option<(u32, u64)>>>,
    pub dirty: Vec<u64>,
    pub replaced: bool,
    /// A clock (ms) that goes on while it makes an image or tells a sink everything.
    pub slow: Option<Arc<AtomicU64>>,
}

/// What either of them takes (ms) with a clock.
pub const SLOW_MS: u64 = 300;

impl Memory {
    fn take_long(&self) {
        if let Some(clock) = &self.slow {
            clock.fetch_add(SLOW_MS, Ordering::Relaxed);
        }
    }
}

impl Machine for Memory {
    fn apply(&mut self, index: u64, data: &[u8]) -> Result<(), String> {
        self.applied.lock().insert(index, data.to_vec());
        self.dirty.push(index);
        Ok(())
    }
    fn take_dirty(&mut self) -> Dirty {
        let applied = self.applied.lock();
        let records = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|i| (i.to_be_bytes().to_vec(), applied.get(&i).cloned()));
        Dirty { replaced: std::mem::take(&mut self.replaced), records: records.collect() }
    }
    fn image(&self) -> Records {
        self.take_long();
        self.applied.lock().iter().map(|(i, d)| (i.to_be_bytes().to_vec(), d.clone())).collect()
    }
    fn install(&mut self, records: Records) -> Result<(), String> {
        let key = |k: &[u8]| u64::from_be_bytes(k.try_into().unwrap());
        *self.applied.lock() = records.iter().map(|(k, d)| (key(k), d.clone())).collect();
        self.dirty = self.applied.lock().keys().copied().collect();
        self.replaced = true;
        Ok(())
    }
    fn attached(&mut self) -> bool {
        self.take_long();
        self.attached.store(true, Ordering::Relaxed);
        true
    }
    fn as_leader(&mut self, _: u64) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn wrap(&mut self, _: u64, batches: Vec<Vec<u8>>) -> Vec<u8> {
        let mut entry = b"no-op".to_vec();
        entry.extend(batches.concat());
        entry
    }
    fn acceptable(&self, _: &[u8]) -> bool {
        true
    }
    fn role_changed(&mut self) {}
    fn form(&self) -> Option<(u32, u64)> {
        *self.form.lock()
    }
    fn carry_over(&mut self) {
        self.applied.lock().clear();
    }
    fn members(&self) -> Vec<MemberView> {
        self.members.lock().clone()
    }
}

/// Who is there, and what was promised in each term.
#[derive(Default)]
pub struct Net {
    /// How many of a hundred messages get lost.
    pub loss: AtomicU32,
    nodes: Mutex<HashMap<DirectorId, Handle>>,
    /// Whom a replica voted for: by replica and term.
    votes: Mutex<HashMap<(u64, u64), u64>>,
    /// Who led, by term.
    pub leaders: Mutex<HashMap<u64, u64>>,
}

impl Net {
    fn loses(&self) -> bool {
        rand::random_range(0..100) < self.loss.load(Ordering::Relaxed)
    }

    fn watch(&self, m: &Message) {
        let (promise, to) = match m.get_msg_type() {
            MessageType::MsgRequestVote => (true, m.from),
            MessageType::MsgRequestVoteResponse if !m.reject => (true, m.to),
            MessageType::MsgAppend | MessageType::MsgHeartbeat => (false, m.from),
            _ => return,
        };
        if promise {
            let first = *self.votes.lock().entry((m.from, m.term)).or_insert(to);
            assert_eq!(first, to, "replica {} voted twice in term {}", m.from, m.term);
        } else {
            let first = *self.leaders.lock().entry(m.term).or_insert(to);
            assert_eq!(first, to, "two leaders in term {}", m.term);
        }
    }
}

struct End {
    me: DirectorId,
    net: Weak<Net>,
}

impl Transport for End {
    fn send(&self, to: DirectorId, _: Lane, message: Bytes) {
        let Some(net) = self.net.upgrade() else { return };
        let mut batch: RaftBatch = codec::decode(&message).unwrap();
        for envelope in &batch.messages {
            let mut m = Message::default();
            m.merge_from_bytes(&envelope.message).unwrap();
            net.watch(&m);
        }
        batch.messages.retain(|_| !net.loses());
        if let Some(handle) = net.nodes.lock().get(&to) {
            handle.say(Input::Raft(self.me, batch.messages));
        }
    }
    fn request(
        &self,
        _: DirectorId,
        _: Lane,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        unreachable!("drivers ask nobody")
    }
    fn crowded(&self, _: DirectorId, _: Lane) -> bool {
        false
    }

    fn send_snapshot(
        &self,
        to: DirectorId,
        header: Bytes,
        image: Bytes,
    ) -> BoxFuture<'static, Result<(), String>> {
        let header: SnapshotHeader = codec::decode(&header).unwrap();
        let mut m = Box::<Message>::default();
        m.merge_from_bytes(&header.message).unwrap();
        let net = self.net.upgrade().filter(|net| !net.loses());
        let handle = net.and_then(|net| net.nodes.lock().get(&to).cloned());
        let said =
            handle.is_some_and(|h| h.say(Input::Snapshot(self.me, header.address, m, image)));
        Box::pin(std::future::ready(said.then_some(()).ok_or_else(|| "gone".to_owned())))
    }
    fn set_members(&self, _: &[PeerInfo]) {}
    fn set_numbers_given(&self, _: DirectorId) {}
    fn set_incarnation(&self, _: u64) {}
    fn liveness(&self) -> Vec<PeerLiveness> {
        Vec::new()
    }
    fn judge(&self) -> Vec<Judgement> {
        Vec::new()
    }
    fn close(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

pub fn config(metrics: Arc<Metrics>) -> DriverConfig {
    DriverConfig {
        name: "test",
        sync_entries: false,
        metrics,
        limits: Limits { log_bytes: 20_000, ..Limits::default() },
        seed: rand::random(),
    }
}

pub struct Node {
    pub replica: u64,
    pub db: Database,
    pub applied: Applied,
    pub running: Running,
}

pub struct Lab {
    pub net: Arc<Net>,
    pub nodes: Vec<Node>,
    /// How many entries have been proposed.
    pub proposed: u64,
    /// What the leaders go by.
    pub members: Arc<Mutex<Vec<MemberView>>>,
    /// Of the replicas, whatever their number of lives.
    metrics: Vec<Arc<Metrics>>,
    dirs: Vec<tempfile::TempDir>,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    /// So many members, of whom none runs yet.
    pub fn idle(replicas: u64) -> Lab {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let lab = Lab {
            net: Arc::default(),
            nodes: Vec::new(),
            proposed: 0,
            members: Arc::default(),
            metrics: (0..replicas).map(|_| Arc::default()).collect(),
            dirs: (0..replicas).map(|_| tempfile::tempdir().unwrap()).collect(),
            runtime,
        };
        lab.all_serve();
        lab
    }

    /// So many voters.
    pub fn voters(replicas: u64) -> Lab {
        let mut lab = Lab::idle(replicas);
        (1..=replicas).for_each(|replica| lab.start(replica));
        lab.all_vote();
        lab
    }

    /// All members live and serve.
    pub fn all_serve(&self) {
        let member = |replica| MemberView { replica, live: true, serving: true };
        *self.members.lock() = (1..=self.dirs.len() as u64).map(member).collect();
    }

    /// Waits until everybody votes.
    pub fn all_vote(&self) {
        self.until("all are voters", |lab| {
            lab.nodes.iter().all(|n| {
                let conf = n.running.states[0].conf();
                conf.voters.len() == lab.dirs.len() && conf.voters_outgoing.is_empty()
            })
        });
    }

    pub fn start(&mut self, replica: u64) {
        let routes = (1..=self.dirs.len() as u64).map(|r| (r, DirectorId(r as u32))).collect();
        let inputs = inputs(self.metrics(replica));
        self.start_with(replica, routes, inputs, Arc::default());
    }

    pub fn start_with(
        &mut self,
        replica: u64,
        routes: Routes,
        inputs: (Handle, Receiver<Input>),
        attached: Arc<AtomicBool>,
    ) {
        let db = Database::open(self.dirs[replica as usize - 1].path()).unwrap();
        let place = Place { group: GROUP, generation: 1, replica };
        if stored_place(&db, GROUP).unwrap().is_none() {
            match replica {
                1 => bootstrap(&db, place, &Records::new()).unwrap(),
                _ => found_empty(&db, place).unwrap(),
            }
        }
        let applied = Applied::default();
        let metrics = self.metrics(replica).clone();
        let load = |records| {
            let mut machine = Memory {
                applied: applied.clone(),
                attached,
                members: self.members.clone(),
                ..Memory::default()
            };
            machine.install(records).map(|()| machine)
        };
        let config = config(metrics.clone());
        let group = Group::open(&db, place, &config, load).unwrap();
        let me = DirectorId(replica as u32);
        let transport = Arc::new(End { me, net: Arc::downgrade(&self.net) });
        let runtime = self.runtime.handle().clone();
        let around = Surroundings { db: db.clone(), transport, runtime };
        let running = start(config, vec![group], around, routes, None, inputs).unwrap();
        self.net.nodes.lock().insert(me, running.handle.clone());
        self.nodes.push(Node { replica, db, applied, running });
    }

    /// The process ends at once: what its disk has not taken is lost.
    pub fn crash(&mut self, replica: u64) {
        let at = self.nodes.iter().position(|n| n.replica == replica).unwrap();
        let node = self.nodes.remove(at);
        assert_eq!(node.running.states[0].halted(), None, "replica {replica}");
        self.net.nodes.lock().remove(&DirectorId(replica as u32));
        node.db.gate.set(Gate::Broken);
    }

    pub fn until(&self, what: &str, done: impl Fn(&Lab) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "never {what}");
            for node in &self.nodes {
                assert_eq!(node.running.states[0].halted(), None, "replica {}", node.replica);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn node(&self, replica: u64) -> &Node {
        self.nodes.iter().find(|n| n.replica == replica).unwrap()
    }

    pub fn metrics(&self, replica: u64) -> &Arc<Metrics> {
        &self.metrics[replica as usize - 1]
    }

    pub fn leads(&self, replica: u64) -> bool {
        self.node(replica).running.states[0].progress().leads
    }

    /// The one leader that all know.
    pub fn leader(&self) -> u64 {
        let known = |lab: &Lab| {
            let leader = lab.nodes[0].running.states[0].progress().leader;
            let same = |n: &Node| n.running.states[0].progress().leader == leader;
            (lab.nodes.iter().all(same) && lab.nodes.iter().any(|n| n.replica == leader))
                .then_some(leader)
        };
        self.until("a leader", |lab| known(lab).is_some_and(|l| lab.leads(l)));
        known(self).unwrap_or_else(|| self.leader())
    }

    /// Proposes so many entries there.
    pub fn propose(&mut self, replica: u64, entries: u64) {
        for _ in 0..entries {
            self.proposed += 1;
            let mut data = self.proposed.to_be_bytes().to_vec();
            data.resize(200, 7);
            let (reply, _) = oneshot::channel();
            self.node(replica).running.handle.say(Input::Propose(GROUP, data, reply));
        }
    }

    /// Proposes until an entry is applied by all: leadership may be on its way to somebody else.
    pub fn goes_on(&mut self) {
        let begun = Instant::now();
        loop {
            let leader = self.leader();
            self.propose(leader, 1);
            let (last, tried) = (self.proposed, Instant::now());
            while tried.elapsed() < Duration::from_secs(2) {
                if self.nodes.iter().all(|n| Lab::has(n, last)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(begun.elapsed() < PATIENCE, "it does not go on");
        }
    }

    pub fn has(node: &Node, number: u64) -> bool {
        node.applied.lock().values().any(|d| d.starts_with(&number.to_be_bytes()))
    }

    pub fn terms(&self) -> Vec<u64> {
        self.nodes.iter().map(|n| n.running.states[0].progress().term).collect()
    }
}
