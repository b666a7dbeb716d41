//! A director's share of the store: the real drivers of the control group and of the session groups
//! on simulated disks, and what the store's shell does around them.

mod barrier;
mod commands;
mod confirming;
mod disks;
mod mail;
mod shown;
mod stalls;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, ReplicaId,
};
use holdfast_schema::session::{SessionChange, SessionSink};
use holdfast_state_store::codec::disk::ShardForm;
use holdfast_state_store::codec::wire::Address;
use holdfast_state_store::homes::Keeper;
use holdfast_state_store::metrics::Metrics;
use holdfast_state_store::simulation::{
    ControlMachine, Driver, DriverConfig, Feed, Group, GroupState, Input, Place, Published,
    ShardContext, ShardMachine, View, control_routes, found_empty, message, session_routes,
    snapshot, stored_place,
};
use holdfast_state_store::{Limits, StoreError};
use parking_lot::{Mutex, RwLock};

use super::message::Message;
use crate::plan::Without;
use barrier::Barriers;
use commands::Commands;
use confirming::Confirming;
pub use disks::{Disks, Identity};
pub use mail::Mail;
use mail::Out;
use stalls::Stalls;
use survey::Surveying;

/// Bytes of log after which a session group writes a checkpoint and forgets: few, so that followers
/// who were away need snapshots.
const LOG_BYTES: u64 = 24_000;

/// How long (us) a snapshot may be on its way.
const SNAPSHOT_US: u64 = 5_000_000;

/// Which of the two drivers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// The control group's.
    Control,
    /// The session groups'.
    Sessions,
}

/// The share of one process.
pub struct Share {
    me: DirectorId,
    disks: Disks,
    out: Arc<Out>,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    feed: Arc<Feed>,
    seed: u64,
    without: Option<Without>,
    sink: Arc<dyn SessionSink>,
    keeping: Arc<Mutex<Keeper>>,
    control: Driver<ControlMachine>,
    sessions: Option<Driver<ShardMachine>>,
    states: Vec<Arc<GroupState>>,
    view: Option<Arc<View>>,
    cluster: Arc<ClusterState>,
    commands: Commands,
    /// The request that records this start, until it is recorded.
    start: Option<ControlCommand>,
    announced: bool,
    barriers: Barriers,
    confirming: Vec<Confirming>,
    /// Snapshots whose fate is not known yet.
    sending: Vec<(u64, Address)>,
    /// Times that it got a new replica number, because what the one before had is lost.
    pub new_numbers: u64,
    surveying: Surveying,
    stalls: Stalls,
    /// Which part must not go on and why, if one must not.
    failed: Option<(Which, String)>,
}

fn limits() -> Limits {
    Limits { log_bytes: LOG_BYTES, ..Limits::default() }
}

fn moment(now_us: u64) -> Duration {
    Duration::from_micros(now_us)
}

impl Share {
    /// From what the disks hold.
    pub fn start(
        me: DirectorId,
        disks: Disks,
        (sink, keeping): (Arc<dyn SessionSink>, Arc<Mutex<Keeper>>),
        seed: u64,
        unclean: bool,
        without: Option<Without>,
        now_us: u64,
    ) -> Share {
        let published = Arc::new(Published::default());
        let metrics = Arc::new(Metrics::default());
        let identity = disks.identity.borrow().clone();
        let cluster = identity.cluster.clone().expect("a member has noted the cluster");
        let form = |generation: &u32| ShardForm { generation: *generation, first: ReplicaId(0) };
        published.publish(View {
            cluster: cluster.clone(),
            shards: identity.generations.iter().map(form).collect(),
            ca_key: String::new(),
        });
        let place = Place { group: Address::CONTROL, generation: 1, replica: u64::from(me.0) };
        let config = config("control", true, &metrics, seed);
        let load = {
            let published = published.clone();
            move |records| ControlMachine::load(records, published)
        };
        let group = Group::open(&disks.control.database(), place, &config, load);
        let group = group.expect("the control group's replica is on the disk");
        let out = Arc::new(Out::default());
        let control = Driver::new(
            config,
            vec![group],
            disks.control.begin(),
            out.clone(),
            control_routes(&published),
            None,
            moment(now_us),
        );
        let started = ControlCommand::Started {
            director: me,
            address: cluster.members[&me].address,
            unclean,
            amnesiac: identity.replica == 0,
            connected: Vec::new(),
        };
        let shards = identity.generations.len() as u16;
        let mut share = Share {
            me,
            out,
            metrics,
            seed,
            without,
            sink,
            keeping,
            control,
            sessions: None,
            states: Vec::new(),
            view: published.view(),
            feed: Arc::new(Feed::new(shards, &limits())),
            commands: Commands::new(me, seed),
            start: Some(started),
            announced: false,
            barriers: Barriers::default(),
            confirming: Vec::new(),
            sending: Vec::new(),
            new_numbers: 0,
            surveying: Surveying::default(),
            stalls: Stalls::default(),
            failed: None,
            published,
            cluster,
            disks,
        };
        share.states = share.control.states();
        if identity.replica != 0 {
            share.start_sessions(now_us);
        }
        share
    }

    /// Starts the session groups with the replica number of the identity.
    fn start_sessions(&mut self, now_us: u64) {
        if let Err(why) = self.open_sessions(now_us) {
            self.failed.get_or_insert((Which::Sessions, why.to_string()));
        }
    }

    fn open_sessions(&mut self, now_us: u64) -> Result<(), StoreError> {
        let identity = self.disks.identity.borrow().clone();
        let db = self.disks.sessions.database();
        let config = config("sessions", false, &self.metrics, self.seed ^ 1);
        let context = ShardContext {
            published: self.published.clone(),
            sink: Arc::new(RwLock::new(Some(self.sink.clone()))),
            keeping: self.keeping.clone(),
            feed: self.feed.clone(),
            metrics: self.metrics.clone(),
        };
        let mut groups = Vec::new();
        for (shard, generation) in identity.generations.iter().enumerate() {
            let group = shard as u16;
            let stored = stored_place(&db, group)?.filter(|p| p.replica == identity.replica);
            let new = Place { group, generation: *generation, replica: identity.replica };
            if stored.is_none() {
                found_empty(&db, new)?;
            }
            let place = stored.unwrap_or(new);
            let context = context.clone();
            let mixed = self.without == Some(Without::Incarnations);
            let load = move |records| {
                let mut machine = ShardMachine::load(group, records, context)?;
                if mixed {
                    machine.set_without_incarnations();
                }
                Ok(machine)
            };
            groups.push(Group::open(&db, place, &config, load)?);
        }
        let driver = Driver::new(
            config,
            groups,
            self.disks.sessions.begin(),
            self.out.clone(),
            session_routes(&self.published),
            Some(self.feed.clone()),
            moment(now_us),
        );
        self.states.truncate(1);
        self.states.extend(driver.states());
        self.sessions = Some(driver);
        Ok(())
    }

    /// Says something to the control group, and again until it shows effect or time is up.
    pub fn control(&mut self, now_us: u64, command: ControlCommand) {
        self.commands.say(now_us, command, 0, &self.published);
    }

    /// Proposes changes. False: no room.
    pub fn propose(&mut self, now_us: u64, shard: ShardId, changes: Vec<SessionChange>) -> bool {
        match self.feed.push(shard.0, changes) {
            Ok(tell) => {
                if tell {
                    self.take(Which::Sessions, Input::Fed, now_us);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Jobs that the disks have not written yet.
    pub fn outstanding(&self, which: Which) -> usize {
        self.disks.of(which).outstanding()
    }

    /// A disk has written its next job.
    pub fn written(&mut self, which: Which, now_us: u64) {
        if self.disks.of(which).write_next() {
            self.take(which, Input::Written, now_us);
            self.poll(which, now_us);
        }
    }

    fn take(&mut self, which: Which, input: Input, now_us: u64) {
        let Some(input) = self.stalls.go_on_with(which, input) else { return };
        let taken = match (which, &mut self.sessions) {
            (Which::Control, _) => self.control.take(input, moment(now_us)),
            (Which::Sessions, Some(driver)) => driver.take(input, moment(now_us)),
            (Which::Sessions, None) => Ok(true),
        };
        if let Err(why) = taken {
            self.failed.get_or_insert((which, why));
        }
        self.stalls.look(which, &self.disks);
    }

    fn poll(&mut self, which: Which, now_us: u64) {
        if self.stalls.holds(which) {
            return;
        }
        let polled = match (which, &mut self.sessions) {
            (Which::Control, _) => self.control.poll(moment(now_us)),
            (Which::Sessions, Some(driver)) => driver.poll(moment(now_us)),
            (Which::Sessions, None) => Ok(()),
        };
        if let Err(why) = polled {
            self.failed.get_or_insert((which, why));
        }
        self.stalls.look(which, &self.disks);
    }

    /// When something is to be done, at the latest (us).
    pub fn next_us(&self) -> u64 {
        let sessions = self.sessions.as_ref().map(Driver::next);
        let control = Some(self.control.next()).filter(|_| !self.stalls.holds(Which::Control));
        let sessions = sessions.filter(|_| !self.stalls.holds(Which::Sessions));
        let next = [control, sessions].into_iter().flatten().min();
        let waits = !self.confirming.is_empty() || self.barriers.waits();
        // A disk that stalls is worth no hurry.
        let waits = waits && !self.disks.stalled.get();
        if waits { 0 } else { next.map_or(u64::MAX, |next| next.as_micros() as u64) }
    }

    /// A message of another director arrives.
    pub fn hear(&mut self, now_us: u64, from: DirectorId, mail: Mail) {
        match mail {
            Mail::Message(_, bytes) => {
                let Ok(Some(arrived)) = message(from, &bytes) else { return };
                for (which, input) in
                    [(Which::Control, arrived.control), (Which::Sessions, arrived.sessions)]
                {
                    if let Some(input) = input {
                        self.take(which, input, now_us);
                        self.poll(which, now_us);
                    }
                }
            }
            Mail::Snapshot(address, header, image) => {
                let Ok((group, input)) = snapshot(from, &header, image) else { return };
                let which = match group {
                    Address::CONTROL => Which::Control,
                    _ => Which::Sessions,
                };
                self.take(which, input, now_us);
                self.poll(which, now_us);
                self.out.push(from, Mail::Arrived(address));
            }
            Mail::Arrived(address) => self.snapshot_sent(now_us, address, true),
            Mail::Command(proposal) => {
                if self.leads_control() {
                    self.take(Which::Control, commands::entry(*proposal), now_us);
                    self.poll(Which::Control, now_us);
                }
            }
            Mail::Barrier(round, shards) => {
                for shard in shards {
                    if let Some(input) = self.barriers.owe(from, round, shard) {
                        self.take(Which::Sessions, input, now_us);
                    }
                }
                self.poll(Which::Sessions, now_us);
            }
            Mail::BarrierAt(round, shard, index) => self.barriers.told(round, shard, index),
            Mail::AskForms => self.out.push(from, Mail::Forms(self.forms())),
            Mail::Forms(forms) => self.told_forms(from, forms),
        }
    }

    fn snapshot_sent(&mut self, now_us: u64, address: Address, ok: bool) {
        let before = self.sending.len();
        self.sending.retain(|(_, of)| *of != address);
        if before == self.sending.len() {
            return;
        }
        let which = match address.group {
            Address::CONTROL => Which::Control,
            _ => Which::Sessions,
        };
        self.take(which, Input::SnapshotSent(address, ok), now_us);
    }

    /// Begins to commit a no-op through every shard.
    pub fn begin_barrier(&mut self) {
        self.barriers.begin(self.states.len() - 1);
    }

    /// The indexes of the no-ops, once all are committed.
    pub fn barrier(&self) -> Option<Vec<u64>> {
        self.barriers.done()
    }

    /// Does what is due, and hands out what is to be sent.
    pub fn turn(&mut self, now_us: u64, out: &mut Vec<(DirectorId, Message)>) {
        self.go_on_after_stall(now_us);
        for which in [Which::Control, Which::Sessions] {
            let next = match (which, &self.sessions) {
                (Which::Control, _) => self.control.next(),
                (Which::Sessions, Some(driver)) => driver.next(),
                (Which::Sessions, None) => continue,
            };
            if next <= moment(now_us) {
                self.poll(which, now_us);
            }
        }
        self.follow(now_us);
        self.record_start(now_us);
        let leader = self.control_leader();
        if let Some(input) = self.commands.turn(now_us, self.me, leader, &self.cluster, &self.out) {
            for input in input {
                self.take(Which::Control, input, now_us);
            }
            self.poll(Which::Control, now_us);
        }
        self.go_on_with_barriers(now_us);
        self.survey(now_us);
        let late = |(at, _): &&(u64, Address)| *at + SNAPSHOT_US <= now_us;
        let late: Vec<Address> = self.sending.iter().filter(late).map(|(_, a)| *a).collect();
        for address in late {
            self.snapshot_sent(now_us, address, false);
        }
        self.note_handed_over();
        self.post(now_us, out);
    }

    /// Hands out what is to be sent.
    pub fn post(&mut self, now_us: u64, out: &mut Vec<(DirectorId, Message)>) {
        for (to, mail) in self.out.take() {
            if let Mail::Snapshot(address, ..) = &mail {
                self.sending.push((now_us, *address));
            }
            out.push((to, Message::Store(mail)));
        }
    }

    /// Goes over to what the cluster has become.
    fn follow(&mut self, now_us: u64) {
        let Some(view) = self.published.view() else { return };
        if self.view.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &view)) {
            return;
        }
        self.cluster = view.cluster.clone();
        {
            let mut identity = self.disks.identity.borrow_mut();
            identity.cluster = Some(view.cluster.clone());
            identity.generations = view.shards.iter().map(|form| form.generation).collect();
        }
        self.view = Some(view);
        let control = Input::Members(Arc::new(control_routes(&self.published)));
        self.take(Which::Control, control, now_us);
        let sessions = Input::Members(Arc::new(session_routes(&self.published)));
        self.take(Which::Sessions, sessions, now_us);
    }

    /// Records this start in the control group, and takes the replica number that it gives.
    fn record_start(&mut self, now_us: u64) {
        if let Some(command) = self.start.take() {
            let incarnation = self.disks.identity.borrow().incarnation;
            self.commands.say_for_ever(now_us, command, incarnation, &self.published);
        }
        let Some(outcome) = self.commands.start_outcome() else { return };
        match outcome {
            ControlOutcome::Done { number, .. } => {
                self.announced = true;
                let number = number.unwrap_or_default();
                let before =
                    std::mem::replace(&mut self.disks.identity.borrow_mut().replica, number);
                self.new_numbers += u64::from(before == 0 && number != 0);
                if self.sessions.is_none() {
                    self.start_sessions(now_us);
                }
            }
            ControlOutcome::Refused(refusal) => {
                self.failed.get_or_insert((Which::Control, refusal.message));
            }
        }
    }

    fn go_on_with_barriers(&mut self, now_us: u64) {
        self.barriers.settle(&self.out);
        for shard in self.barriers.missing(now_us) {
            let Some(leader) = self.leader_of(ShardId(shard)) else { continue };
            if leader == self.me {
                let input = self.barriers.commit(shard);
                self.take(Which::Sessions, input, now_us);
                self.poll(Which::Sessions, now_us);
            } else {
                self.out.push(leader, Mail::Barrier(self.barriers.round(), vec![shard]));
            }
        }
    }
}

fn config(
    name: &'static str,
    sync_entries: bool,
    metrics: &Arc<Metrics>,
    seed: u64,
) -> DriverConfig {
    DriverConfig { name, sync_entries, metrics: metrics.clone(), limits: limits(), seed }
}
