//! The thread that drives a set of groups: inputs and ticks in, messages and writes out.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::SessionChange;
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::SnapshotStatus;
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use super::TICK;
use super::disk::Disk;
use super::group::Group;
use super::machine::Machine;
use super::outbox::Outbox;
use super::status::GroupState;
use crate::codec::wire::{Address, RaftEnvelope};
use crate::metrics::{Metrics, count};
use crate::storage::Database;
use crate::store::error::Busy;
use crate::store::types::Limits;
use crate::transport::Transport;

/// Inputs that may wait for a driver.
const INPUTS: usize = 16_384;
/// Bytes of peers' messages that may wait for a driver.
const INPUT_BYTES: usize = 256 << 20;
/// Inputs taken before the groups get to work.
const INPUTS_PER_ROUND: usize = 256;
/// How long changes are gathered before they travel.
const GATHER: Duration = Duration::from_millis(2);

/// What is said to a driver.
pub enum Input {
    /// Messages of a peer.
    Raft(DirectorId, Vec<RaftEnvelope>),
    /// A snapshot from a peer: address, message, image.
    Snapshot(DirectorId, Address, Box<Message>, Bytes),
    /// What became of a snapshot that was sent.
    SnapshotSent(Address, bool),
    /// Propose an entry. The answer: taken, or who leads instead (0: nobody known).
    Propose(u16, Vec<u8>, oneshot::Sender<Result<(), u64>>),
    /// A batch of changes of another director.
    Forwarded(u16, Vec<u8>),
    /// Changes wait in the feed.
    Fed,
    /// Confirm by a quorum that this replica leads; dropping the sender is a no.
    Confirm(u16, oneshot::Sender<()>),
    /// Commit a no-op; the answer is its index. Dropping the sender is a no.
    Barrier(u16, oneshot::Sender<u64>),
    /// The storage thread has reports.
    Written,
    /// The members have changed.
    Members(Arc<Routes>),
    /// A sink has been attached.
    Attached,
    /// Give leadership away where somebody can take it.
    Resign,
    /// Write checkpoints and end.
    Stop,
}

impl Input {
    /// Bytes of what a peer sent.
    fn weight(&self) -> usize {
        match self {
            Input::Raft(_, messages) => messages.iter().map(|m| m.message.len()).sum(),
            Input::Snapshot(_, _, _, image) => image.len(),
            Input::Forwarded(_, batch) => batch.len(),
            _ => 0,
        }
    }
}

/// Where replicas live.
pub type Routes = HashMap<u64, DirectorId>;

/// How a driver is set up.
#[derive(Clone)]
pub struct DriverConfig {
    /// Name of its thread.
    pub name: &'static str,
    /// Its database.
    pub db: Database,
    /// Whether entries are written through before they count.
    pub sync_entries: bool,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub limits: Limits,
    /// The runtime that sends snapshots.
    pub runtime: tokio::runtime::Handle,
}

/// Changes that wait to be proposed, per shard. Shared by everybody who proposes and the driver.
pub struct Feed {
    shards: Vec<Mutex<VecDeque<SessionChange>>>,
    limit: usize,
    told: AtomicBool,
}

impl Feed {
    /// Empty queues.
    pub fn new(shards: u16, limits: &Limits) -> Feed {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Feed { shards, limit: limits.proposals_per_shard, told: AtomicBool::new(false) }
    }

    /// Queues changes, all or none; `Ok(true)`: the driver has to be told.
    pub fn push(&self, shard: u16, changes: Vec<SessionChange>) -> Result<bool, Busy> {
        let queue = self.shards.get(usize::from(shard)).ok_or(Busy)?;
        let mut queue = queue.lock();
        if queue.len() + changes.len() > self.limit {
            return Err(Busy);
        }
        queue.extend(changes);
        Ok(!self.told.swap(true, Ordering::AcqRel))
    }

    /// Changes that wait.
    pub fn waiting(&self) -> usize {
        self.shards.iter().map(|q| q.lock().len()).sum()
    }

    pub(super) fn heard(&self) {
        self.told.store(false, Ordering::Release);
    }

    pub(super) fn take(&self, shard: u16, most: usize) -> Vec<SessionChange> {
        let Some(queue) = self.shards.get(usize::from(shard)) else { return Vec::new() };
        let mut queue = queue.lock();
        let n = queue.len().min(most);
        queue.drain(..n).collect()
    }
}

/// The inputs of a driver.
#[derive(Clone)]
pub struct Handle {
    inputs: SyncSender<Input>,
    metrics: Arc<Metrics>,
    gone: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
}

impl Handle {
    /// Says something; false (and counted) when the driver is behind or gone.
    pub fn say(&self, input: Input) -> bool {
        let weight = input.weight();
        if weight > 0 && self.bytes.fetch_add(weight, Ordering::Relaxed) > INPUT_BYTES {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            count(&self.metrics.messages_dropped);
            return false;
        }
        let said = self.try_say(input);
        if !said {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
        said
    }

    fn try_say(&self, input: Input) -> bool {
        match self.inputs.try_send(input) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                count(&self.metrics.messages_dropped);
                false
            }
            Err(TrySendError::Disconnected(_)) => {
                self.gone.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Whether the driver has ended.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// Drives a set of groups.
pub struct Driver<M: Machine> {
    pub(super) config: DriverConfig,
    pub(super) groups: Vec<Group<M>>,
    pub(super) outbox: Outbox,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) routes: Arc<Routes>,
    /// Replicas that the members list does not name yet, by who sent for them.
    pub(super) learned: Routes,
    pub(super) feed: Option<Arc<Feed>>,
    pub(super) handle: Handle,
    /// When the feed is looked at next.
    pub(super) feed_at: Option<Instant>,
    pub(super) started: Instant,
    pub(super) ticks: u64,
    inputs: Receiver<Input>,
    pub(super) disk: Disk,
    /// The answer that the disk owed when it was last looked at, and how often it was the same.
    pub(super) disk_looks: (Option<u64>, u32),
}

/// A running driver.
pub struct Running {
    /// Its inputs.
    pub handle: Handle,
    /// What it shows, in the order of its groups.
    pub states: Vec<Arc<GroupState>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends the driver and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A full queue is no reason to be forgotten: wait for room.
            let _ = self.handle.inputs.send(Input::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<M: Machine> Driver<M> {
    /// The inputs of a driver to come, so that its machines can hold them.
    pub fn inputs(metrics: &Arc<Metrics>) -> (Handle, Receiver<Input>) {
        let (inputs, queue) = sync_channel(INPUTS);
        (
            Handle {
                inputs,
                metrics: metrics.clone(),
                gone: Arc::default(),
                bytes: Arc::default(),
            },
            queue,
        )
    }

    /// Starts a driver.
    pub fn start(
        config: DriverConfig,
        groups: Vec<Group<M>>,
        transport: Arc<dyn Transport>,
        routes: Routes,
        feed: Option<Arc<Feed>>,
        (handle, inputs): (Handle, Receiver<Input>),
    ) -> std::io::Result<Running> {
        let states: Vec<_> = groups.iter().map(|g| g.state().clone()).collect();
        let name = config.name;
        let (db, metrics) = (config.db.clone(), config.metrics.clone());
        let disk = Disk::start(name, db, metrics, handle.inputs.clone())?;
        let mut driver = Driver {
            config,
            groups,
            outbox: Outbox::new(transport.clone()),
            transport,
            routes: Arc::new(routes),
            learned: Routes::new(),
            feed,
            handle: handle.clone(),
            feed_at: None,
            started: Instant::now(),
            ticks: 0,
            inputs,
            disk,
            disk_looks: (None, 0),
        };
        let shown = states.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // raft-rs panics on what must never happen; then these replicas stop, visibly.
            let end = catch_unwind(AssertUnwindSafe(|| driver.run()));
            let why = match end {
                Ok(Ok(())) => return,
                Ok(Err(why)) => why,
                Err(panic) => panic_text(panic.as_ref()),
            };
            tracing::error!(driver = name, why, "driver of Raft groups ends");
            shown.iter().for_each(|s| s.halt(&why));
        })?;
        Ok(Running { handle, states, thread: Some(thread) })
    }

    fn run(&mut self) -> Result<(), String> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            let until = self.feed_at.map_or(next_tick, |at| at.min(next_tick));
            match self.inputs.recv_timeout(until.saturating_duration_since(now)) {
                Ok(input) => {
                    if !self.take(input)? {
                        return self.finish();
                    }
                    for _ in 0..INPUTS_PER_ROUND {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        if !self.take(input)? {
                            return self.finish();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
            let now = Instant::now();
            if now >= next_tick {
                // After a stall one tick is enough: several at once would look like a dead leader.
                next_tick = (next_tick + TICK).max(now + TICK / 2);
                self.tick(now)?;
            }
            if self.feed_at.is_some_and(|at| at <= now) {
                self.feed_at = None;
                self.take_feed();
            }
            self.propose_pending(now);
            self.begin_reads(now);
            self.work()?;
        }
    }

    /// Takes one input; false: it is time to end.
    fn take(&mut self, input: Input) -> Result<bool, String> {
        self.handle.bytes.fetch_sub(input.weight(), Ordering::Relaxed);
        match input {
            Input::Raft(from, messages) => {
                messages.into_iter().for_each(|m| self.take_message(from, m));
            }
            Input::Snapshot(from, address, message, image) => {
                self.take_snapshot(from, address, *message, image);
            }
            Input::SnapshotSent(address, ok) => self.snapshot_sent(address, ok),
            Input::Propose(group, data, reply) => {
                let answer = match self.group(group) {
                    None => Err(0),
                    Some(g) if !g.leads() => Err(g.raw.raft.leader_id),
                    Some(g) => match g.propose(data, Instant::now()) {
                        true => Ok(()),
                        false => Err(g.place.replica),
                    },
                };
                // Whoever asked may have given up.
                let _ = reply.send(answer);
            }
            Input::Forwarded(shard, batch) => self.take_forwarded(shard, batch),
            Input::Fed => {
                let at = Instant::now() + GATHER;
                self.feed_at = Some(self.feed_at.map_or(at, |old| old.min(at)));
            }
            Input::Confirm(group, reply) => {
                if let Some(g) = self.group(group).filter(|g| g.leads()) {
                    g.reads.ask(reply);
                }
            }
            Input::Barrier(group, reply) => self.barrier(group, reply),
            // Every round looks for them.
            Input::Written => {}
            Input::Members(routes) => {
                self.routes = routes;
                self.follow_forms()?;
            }
            Input::Attached => self.groups.iter_mut().for_each(|g| g.machine.attached()),
            Input::Resign => self.resign(),
            Input::Stop => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn group(&mut self, group: u16) -> Option<&mut Group<M>> {
        self.groups.iter_mut().find(|g| g.place.group == group && !g.halted())
    }

    /// The group this address means, if generation and replica match.
    pub(super) fn addressed(&mut self, address: Address) -> Option<&mut Group<M>> {
        self.groups.iter_mut().find(|g| {
            let p = g.place;
            (p.group, p.generation, p.replica) == (address.group, address.generation, address.to)
                && !g.halted()
        })
    }

    /// The director whose replica this is.
    pub(super) fn director_of(&self, _group: usize, replica: u64) -> Option<DirectorId> {
        self.routes.get(&replica).or_else(|| self.learned.get(&replica)).copied()
    }

    fn learn(&mut self, from: DirectorId, replica: u64) {
        if !self.routes.contains_key(&replica) && self.learned.len() < 1024 {
            self.learned.insert(replica, from);
        }
    }

    fn take_message(&mut self, from: DirectorId, envelope: RaftEnvelope) {
        self.learn(from, envelope.address.from);
        let mut message = Message::default();
        if message.merge_from_bytes(&envelope.message).is_err() {
            count(&self.config.metrics.messages_malformed);
            return;
        }
        let address = envelope.address;
        let honest = message.from == address.from && message.to == address.to;
        match self.addressed(address).filter(|_| honest) {
            Some(group) => group.step(message),
            None => count(&self.config.metrics.messages_mismatched),
        }
    }

    fn take_snapshot(&mut self, from: DirectorId, address: Address, mut m: Message, image: Bytes) {
        self.learn(from, address.from);
        match self.addressed(address) {
            Some(group) => {
                m.mut_snapshot().data = image;
                group.step(m);
            }
            None => count(&self.config.metrics.messages_mismatched),
        }
    }

    pub(super) fn snapshot_sent(&mut self, address: Address, ok: bool) {
        let metrics = self.config.metrics.clone();
        count(if ok { &metrics.snapshots_sent } else { &metrics.snapshots_failed });
        let to = address.to;
        let group = self.groups.iter_mut().find(|g| g.address(to) == address);
        if let Some(group) = group {
            group.sending.remove(&to);
            let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            group.raw.report_snapshot(to, status);
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), String> {
        self.ticks += 1;
        for group in self.groups.iter_mut().filter(|g| !g.halted()) {
            group.tick();
            group.reads.expire(now);
        }
        if self.ticks.is_multiple_of(2) {
            self.lead(now)?;
        }
        self.catch_up(now);
        if let Some(feed) = &self.feed {
            // Changes that found no leader are tried again.
            if feed.waiting() > 0 && self.feed_at.is_none() {
                self.feed_at = Some(now);
            }
        }
        if !self.ticks.is_multiple_of(20) {
            return Ok(());
        }
        self.watch_disk();
        // News of the members may have found the queue full.
        self.follow_forms()
    }

    /// Milliseconds since this driver started.
    pub(super) fn now_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_millis() as u64
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error: {}", text.unwrap_or("panic"))
}
