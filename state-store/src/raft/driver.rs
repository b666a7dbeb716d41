//! What drives a set of groups: inputs and the time in, messages and writes out.
//!
//! It has no thread, no clock, no queue and no randomness of its own. In a daemon a thread feeds it
//! ([`super::shell`]); a simulation steps it by hand.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use protobuf::Message as _;
use raft::SnapshotStatus;
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use super::TICK;
use super::disk::Disk;
use super::feed::Feed;
use super::group::Group;
use super::machine::Machine;
use super::outbox::Outbox;
use super::status::GroupState;
use crate::codec::wire::{Address, RaftEnvelope};
use crate::metrics::{Metrics, count};
use crate::peer::Lane;
use crate::store::types::Limits;

/// How long changes are gathered before they travel.
const GATHER: Duration = Duration::from_millis(2);

/// Where a driver's messages go.
pub trait Peers: Send + Sync {
    /// Sends a message, best effort, in order per lane.
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes);
    /// Whether so much waits for a peer that what can wait here should.
    fn crowded(&self, _to: DirectorId, _lane: Lane) -> bool {
        false
    }
    /// Sends a snapshot from the replica of this address: header and image. What became of it comes
    /// back as [`Input::SnapshotSent`], always: raft-rs would leave the follower paused for ever.
    fn send_snapshot(&self, to: DirectorId, address: Address, header: Bytes, image: Bytes);
}

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
    /// There is something to look for: reports of the disk, or news.
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

/// Where replicas live.
pub type Routes = HashMap<u64, DirectorId>;

/// How a driver is set up.
#[derive(Clone)]
pub struct DriverConfig {
    /// Name of its thread.
    pub name: &'static str,
    /// Whether entries are written through before they count.
    pub sync_entries: bool,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub limits: Limits,
    /// Where its randomness begins. Another one at each start.
    pub seed: u64,
}

/// Drives a set of groups. Times are counted from any moment, the same for all calls.
pub struct Driver<M: Machine> {
    pub(super) config: DriverConfig,
    pub(super) groups: Vec<Group<M>>,
    pub(super) outbox: Outbox,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) routes: Arc<Routes>,
    /// Replicas that the members list does not name yet, by who sent for them.
    pub(super) learned: Routes,
    pub(super) feed: Option<Arc<Feed>>,
    /// When the feed is looked at next.
    pub(super) feed_at: Option<Duration>,
    next_tick: Duration,
    pub(super) ticks: u64,
    /// Where the search for the next image begins.
    pub(super) image_at: usize,
    /// Groups from here on have not been told of the sink that was attached last.
    pub(super) untold: usize,
    pub(super) disk: Disk,
    /// The answer that the disk owed when it was last looked at, and how often it was the same.
    pub(super) disk_looks: (Option<u64>, u32),
}

impl<M: Machine> Driver<M> {
    /// A driver that begins now.
    pub fn new(
        config: DriverConfig,
        groups: Vec<Group<M>>,
        disk: Disk,
        peers: Arc<dyn Peers>,
        routes: Routes,
        feed: Option<Arc<Feed>>,
        now: Duration,
    ) -> Driver<M> {
        Driver {
            config,
            image_at: 0,
            untold: groups.len(),
            groups,
            outbox: Outbox::new(peers.clone()),
            peers,
            routes: Arc::new(routes),
            learned: Routes::new(),
            feed,
            feed_at: None,
            next_tick: now + TICK,
            ticks: 0,
            disk,
            disk_looks: (None, 0),
        }
    }

    /// What it shows, in the order of its groups.
    pub fn states(&self) -> Vec<Arc<GroupState>> {
        self.groups.iter().map(|g| g.state().clone()).collect()
    }

    /// When it wants to be polled next, at the latest.
    pub fn next(&self) -> Duration {
        if self.waits() {
            return Duration::ZERO;
        }
        self.feed_at.map_or(self.next_tick, |at| at.min(self.next_tick))
    }

    /// Does what inputs and the time ask for. To be called after inputs, and at [`Driver::next`] (which
    /// may have passed: there is something to do at once, but not in one go). An
    /// error ends the driver: its replicas are to be halted with it.
    pub fn poll(&mut self, now: Duration) -> Result<(), String> {
        if now >= self.next_tick {
            let late = now >= self.next_tick + TICK;
            // After a stall one tick is enough: several at once would look like a dead leader.
            self.next_tick = (self.next_tick + TICK).max(now + TICK / 2);
            self.tick(now)?;
            if late {
                // But whoever leads has to be heard now, not some ticks later.
                self.groups.iter_mut().filter(|g| !g.halted()).for_each(|g| g.raw.ping());
            }
        }
        if self.feed_at.is_some_and(|at| at <= now) {
            self.feed_at = None;
            self.take_feed();
        }
        self.propose_pending(now);
        self.begin_reads(now);
        self.work(now)?;
        self.take_turns(now)
    }

    /// Takes one input; false: it is time to [`Driver::finish`].
    pub fn take(&mut self, input: Input, now: Duration) -> Result<bool, String> {
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
                    Some(g) if !g.leads() => Err(g.leader()),
                    Some(g) => match g.propose(data, now) {
                        true => Ok(()),
                        false => Err(g.place.replica),
                    },
                };
                // Whoever asked may have given up.
                let _ = reply.send(answer);
            }
            Input::Forwarded(shard, batch) => self.take_forwarded(shard, batch),
            Input::Fed => {
                let at = now + GATHER;
                self.feed_at = Some(self.feed_at.map_or(at, |old| old.min(at)));
            }
            Input::Confirm(group, reply) => {
                if let Some(g) = self.group(group).filter(|g| g.leads()) {
                    g.reads.ask(reply);
                }
            }
            Input::Barrier(group, reply) => self.barrier(group, reply, now),
            // Every poll looks for them.
            Input::Written => {}
            Input::Members(routes) => {
                self.routes = routes;
                self.follow_forms()?;
            }
            Input::Attached => self.untold = 0,
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

    fn tick(&mut self, now: Duration) -> Result<(), String> {
        self.ticks += 1;
        for group in self.groups.iter_mut().filter(|g| !g.halted()) {
            group.tick();
            group.machine.go_on();
            group.reads.expire(now);
        }
        if self.ticks.is_multiple_of(2) {
            self.lead(now)?;
        }
        self.catch_up(now);
        if let Some(feed) = &self.feed {
            // Changes that found no leader, or a crowded way to it, are tried again.
            if feed.waiting() > 0 && self.feed_at.is_none() {
                self.feed_at = Some(now);
            }
        }
        if !self.ticks.is_multiple_of(20) {
            return Ok(());
        }
        self.watch_disk();
        self.follow_forms()
    }
}
