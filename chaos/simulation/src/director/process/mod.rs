//! A running daemon: the cores, and what its shells would carry between them.

mod asking;
mod member;

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_director::core::Counters;
use holdfast_director::session::SessionTable;
use holdfast_director::tables::{ForwardingTables, NextHop, NextHops};
use holdfast_node::announce::wish::Wish;
use holdfast_node::caution::confines;
use holdfast_node::peers::Summary;
use holdfast_node::planned::Watch;
use holdfast_schema::cluster::{ClusterState, ControlCommand, DirectorId, PlannedChange};
use holdfast_schema::session::{SessionChange, SessionSink};
use holdfast_state_store::liveness::{Liveness, Timing};

use crate::director::announcer::Announcer;
use crate::director::asking::Questions;
use crate::director::flush::FlushJob;
use crate::director::frame::{ROUTER_MAC, mac};
use crate::director::message::Message;
use crate::director::packets::{MAX_SESSIONS, Packets, Sent};
use crate::director::sessions::{self, Sessions};
use crate::director::share::{Disks, Share, Which};
use crate::director::sink::{Seen, Watched};
use crate::director::young::YoungSessions;
use crate::plan::Without;

/// How often (us) everything is looked at.
pub const TURN_US: u64 = 10_000;

/// How often, while something waits for milliseconds.
pub const BUSY_US: u64 = 1_000;

/// A gap between two turns that others have used to carry on without this director (us).
const STALL_US: u64 = 300_000;

/// How long (ms) a UDP miss asks in any case after a change.
const UDP_ASK_MS: u64 = 10_000;

/// What a process wants done outside.
#[derive(Default)]
pub struct Effects {
    /// What became of packets.
    pub sent: Vec<Sent>,
    /// Messages to other directors.
    pub messages: Vec<(DirectorId, Message)>,
    /// It announces something else, as routes.
    pub wish: Option<Wish>,
    /// Its stage changed.
    pub stage: Option<&'static str>,
    /// It went over to new tables: revision, health version, hash.
    pub tables: Option<(u64, u64, u64)>,
    /// What misses came to.
    pub misses: Vec<Miss>,
    /// It found that it had been stalled.
    pub stalled: bool,
    /// A planned change has ended.
    pub planned_ended: bool,
    /// A bucket got other homes while one of the old ones kept young sessions.
    pub homes_changed: bool,
    /// Jobs that its disks have to write now.
    pub writes: Vec<Which>,
}

/// What a miss came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// Another director told.
    Found,
    /// Denied with authority.
    Denied,
    /// Nobody could be sure.
    Unknown,
    /// Nobody could be sure, only because a member is down.
    SomebodyDown,
}

/// What a process begins with.
pub struct Birth {
    /// Who.
    pub me: DirectorId,
    /// How often it has started.
    pub incarnation: u64,
    /// The last run did not end clean.
    pub unclean: bool,
    /// How many workers.
    pub workers: u16,
    /// For everything that is drawn.
    pub seed: u64,
    /// Unix time (ms) at which the monotonic clock was 0.
    pub unix_ms_at_zero: u64,
    /// What the disks hold.
    pub disks: Disks,
    /// What is switched off.
    pub without: Option<Without>,
}

/// When something periodic is due.
#[derive(Default)]
struct Due {
    sweep_us: u64,
    heartbeat_us: u64,
    summary_us: u64,
    planned_us: u64,
    announce_us: u64,
}

/// The process.
pub struct Process {
    me: DirectorId,
    /// Which life of its director this is.
    pub incarnation: u64,
    without: Option<Without>,
    /// All sessions it knows.
    pub table: Arc<SessionTable>,
    /// Rare things that its store told it.
    pub told: Arc<Seen>,
    /// What it forwards by.
    pub tables: Arc<ForwardingTables>,
    packets: Packets,
    sessions: Sessions,
    /// Its share of the store.
    pub share: Share,
    questions: Questions,
    /// Its part in young sessions.
    pub young: YoungSessions,
    /// Jobs of the disks that are on their way.
    writing: [usize; 2],
    liveness: Liveness,
    sequence: u64,
    /// What it announces.
    pub announcer: Announcer,
    flush: FlushJob,
    planned: Watch,
    summaries: BTreeMap<DirectorId, (u64, Arc<Summary>)>,
    cluster: Arc<ClusterState>,
    seen: Option<(u64, Vec<u64>)>,
    changed_ms: u64,
    born_ms: u64,
    last_turn_us: u64,
    due: Due,
    stage: &'static str,
}

fn next_hops(me: DirectorId) -> Arc<NextHops> {
    let hop = NextHop { src_mac: mac(me.0), dst_mac: ROUTER_MAC, mtu: 9_000 };
    Arc::new(NextHops::new(vec![("0.0.0.0/0".parse().expect("a prefix"), Some(hop))]))
}

impl Process {
    /// A process that starts now (us on its own clock).
    pub fn start(birth: Birth, now_us: u64) -> Process {
        let Birth { me, incarnation, .. } = birth;
        let now_ms = now_us / 1_000;
        let table = Arc::new(SessionTable::seeded(
            MAX_SESSIONS,
            MAX_SESSIONS / 4,
            me,
            incarnation,
            birth.seed,
        ));
        table.tick(now_ms);
        match birth.without {
            Some(Without::Veto) => table.set_without_veto(),
            Some(Without::Incarnations) => table.set_without_incarnations(),
            Some(Without::Twins) => table.set_without_twins(),
            _ => {}
        }
        let noted = birth.disks.identity.borrow().cluster.clone();
        let cluster = noted.expect("a member has noted the cluster");
        let tables = ForwardingTables::build(&cluster, me, &|_| true, next_hops(me), None);
        tables.ports().set_incarnation(incarnation);
        let (key, shards) = tables.cluster_keys();
        table.set_cluster(key, shards);
        table.configure(tables.configured());
        let young = YoungSessions::new(me, incarnation, &table, &cluster, birth.without);
        let watched = Watched::new(&table, tables.cluster_keys());
        let seen = watched.seen.clone();
        let sink = (Arc::new(watched) as Arc<dyn SessionSink>, young.keeper());
        let Birth { disks, seed, unclean, without, .. } = birth;
        let share = Share::start(me, disks, sink, seed, unclean, without, now_us);
        let packets = Packets::new(&table, birth.workers, birth.seed, birth.unix_ms_at_zero);
        let mut process = Process {
            me,
            incarnation,
            without: birth.without,
            sessions: Sessions::new(&table),
            packets,
            share,
            questions: Questions::default(),
            young,
            writing: [0; 2],
            liveness: Liveness::new(me, Timing::default(), now_ms),
            sequence: 0,
            announcer: Announcer::new(now_ms),
            flush: FlushJob::default(),
            planned: Watch::default(),
            summaries: BTreeMap::new(),
            seen: None,
            changed_ms: now_ms,
            born_ms: now_ms,
            last_turn_us: now_us,
            due: Due::default(),
            stage: "down",
            tables: Arc::new(tables),
            cluster,
            table,
            told: seen,
        };
        process.join_members(now_ms);
        process
    }

    /// A frame arrives at a receive queue. False: it is full.
    pub fn arrive(&mut self, frame: Vec<u8>) -> bool {
        self.packets.arrive(frame)
    }

    /// The workers take what has arrived.
    pub fn work(&mut self, now_us: u64, out: &mut Effects) {
        self.packets.process(&self.tables, now_us * 1_000, |sent| out.sent.push(sent));
        if self.packets.parked() > 0 {
            self.poll(now_us, out);
        }
        self.take_opened(now_us);
    }

    fn take_opened(&mut self, now_us: u64) {
        let Process { packets, young, .. } = self;
        packets.opened(|slot| young.opened(now_us / 1_000, slot));
    }

    fn poll(&mut self, now_us: u64, out: &mut Effects) {
        let mut asked = Vec::new();
        self.packets.turn(
            &self.tables,
            now_us * 1_000,
            |sent| out.sent.push(sent),
            |worker, question| asked.push((worker, question)),
        );
        for (worker, question) in asked {
            let whom = self.whom(now_us / 1_000, &question);
            self.questions.ask(now_us, self.me, worker, question, whom);
        }
        self.go_on_asking(now_us, out);
    }

    /// In what time (us) it wants to look at everything, `most_us` at the latest.
    pub fn next_in_us(&self, now_us: u64, most_us: u64) -> u64 {
        let store = self.share.next_us().saturating_sub(now_us).max(BUSY_US / 4);
        let asking = self.questions.wake_us().map(|at| at.saturating_sub(now_us).max(100));
        let parked = (self.packets.parked() > 0).then_some(BUSY_US);
        let young = self.young.waits().then_some(2 * BUSY_US);
        [asking, parked, young].into_iter().flatten().fold(most_us.min(store), u64::min)
    }

    /// A message arrives.
    pub fn hear(&mut self, now_us: u64, from: DirectorId, message: Message, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        match message {
            Message::Heartbeat { incarnation, sequence, views } => {
                self.liveness.heard(now_ms, from, incarnation, sequence, &views);
            }
            Message::Ask { id, key } => self.asked(now_us, from, id, key, out),
            Message::Answer { id, answer } => {
                self.questions.answer(now_us, from, id, answer);
                self.go_on_asking(now_us, out);
            }
            Message::Register(batch) => {
                self.young.register(now_ms, from, batch, &mut out.messages);
            }
            Message::Registration(answer) => self.young.answered(now_ms, from, &answer),
            Message::Store(mail) => self.share.hear(now_us, from, mail),
            Message::Flush(planned) => {
                let done = self.has_flushed(planned);
                out.messages.push((from, Message::Flushed(planned, done)));
            }
            Message::Flushed(planned, yes) => self.flush.flushed(from, planned, yes),
            Message::Applied => {
                out.messages.push((from, Message::AppliedTo(self.share.applied())));
            }
            Message::AppliedTo(applied) => self.flush.applied(from, &applied),
            Message::Summary(summary) => drop(self.summaries.insert(from, (now_ms, summary))),
        }
        self.hand_out(now_us, out);
    }

    /// A disk has written its next job.
    pub fn written(&mut self, now_us: u64, which: Which, out: &mut Effects) {
        let writing = &mut self.writing[which as usize];
        *writing = writing.saturating_sub(1);
        self.share.written(which, now_us);
        self.hand_out(now_us, out);
    }

    /// Hands out what the store has to send and to write.
    fn hand_out(&mut self, now_us: u64, out: &mut Effects) {
        self.tell_confirmed(now_us, out);
        self.share.post(now_us, &mut out.messages);
        for which in [Which::Control, Which::Sessions] {
            let outstanding = self.share.outstanding(which);
            let writing = &mut self.writing[which as usize];
            for _ in *writing..outstanding {
                out.writes.push(which);
            }
            *writing = outstanding.max(*writing);
        }
    }

    /// Milliseconds since something moved flows or owners.
    fn calm_for_ms(&self, now_ms: u64) -> u64 {
        match self.cluster.change_planned() {
            true => 0,
            false => now_ms.saturating_sub(self.changed_ms),
        }
    }

    /// Looks at everything, at least every [`TURN_US`].
    pub fn turn(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        if now_us.saturating_sub(self.last_turn_us) > STALL_US {
            out.stalled = true;
            self.packets.discard();
            self.announcer.fell(now_ms, "stalled");
            out.wish = Some(Wish::default());
        }
        self.last_turn_us = now_us;
        self.poll(now_us, out);
        self.share.turn(now_us, &mut out.messages);
        self.young.turn(now_ms, &mut out.messages);
        if now_us >= self.due.sweep_us {
            self.due.sweep_us = now_us + TURN_US;
            self.follow(now_us, out);
            self.beat(now_us, out);
            self.sweep(now_us, out);
            self.judge(now_us);
            self.announce(now_us, out);
        }
        self.hand_out(now_us, out);
    }

    /// Goes over to what the cluster has become.
    fn follow(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        let cluster = self.share.cluster().clone();
        let seen = (cluster.membership_epoch, cluster.planned.iter().map(|p| p.id).collect());
        if self.seen.as_ref() != Some(&seen) {
            self.changed_ms = now_ms;
            self.seen = Some(seen);
        }
        self.packets.set_udp_ask(self.calm_for_ms(now_ms) < UDP_ASK_MS);
        let up_ms = now_ms - self.born_ms;
        let confined = confines(&cluster, self.me, self.incarnation, up_ms);
        self.tables.ports().set_confined(confined);
        if Arc::ptr_eq(&cluster, &self.cluster) {
            return;
        }
        let over = |p: &PlannedChange| !cluster.planned.iter().any(|now| now.id == p.id);
        out.planned_ended = self.cluster.planned.iter().any(over);
        self.cluster = cluster;
        out.homes_changed = self.join_members(now_ms);
        let tables = ForwardingTables::build(
            &self.cluster,
            self.me,
            &|_| true,
            next_hops(self.me),
            Some(&self.tables),
        );
        out.tables = Some((tables.revision, tables.health_version, tables.hash));
        self.tables = Arc::new(tables);
        self.table.configure(self.tables.configured());
    }

    fn has_flushed(&self, planned: u64) -> bool {
        self.without == Some(Without::Flush) || self.sessions.flushes.done(planned)
    }

    fn sweep(&mut self, now_us: u64, out: &mut Effects) {
        let Process { share, without, young, cluster, .. } = self;
        let silent = *without == Some(Without::Replication);
        for orphan in young.orphans(now_us / 1_000) {
            let shard = cluster.shards.shard(orphan.bucket(&cluster.bucket_key));
            // Without room they come again.
            let _ = silent || share.propose(now_us, shard, vec![SessionChange::Create(orphan)]);
        }
        let leads = share.shards_led();
        let around = sessions::Around {
            now_ms: now_us / 1_000,
            interval_ms: TURN_US / 1_000,
            cluster: &self.cluster,
            tables: &self.tables,
            quorum: share.shards_with_quorum(),
            leads: &leads,
            flushes: *without != Some(Without::Flush),
        };
        let probes = self.sessions.step(&self.table, &around, |shard, changes| {
            silent || share.propose(now_us, shard, changes.to_vec())
        });
        for probe in probes {
            let sent = |sent| out.sent.push(sent);
            self.packets.probe(&self.tables, now_us * 1_000, &probe, sent);
        }
    }

    /// What the packet path has counted.
    pub fn counters(&self) -> Counters {
        self.packets.counters()
    }

    /// Packets that wait.
    pub fn parked(&self) -> u32 {
        self.packets.parked()
    }

    /// What is left here of sessions, each with its name.
    pub fn remains(&self, now_ms: u64) -> Vec<(u64, &'static str)> {
        let stats = self.table.stats();
        let (changes, confirming) = self.share.waiting();
        let mut remains = vec![
            (u64::from(stats.sessions), "sessions"),
            (u64::from(stats.half_open), "half-open sessions"),
            (stats.unreplicated, "unreplicated sessions"),
            (u64::from(self.parked()), "waiting packets"),
            (self.questions.pending() as u64, "questions under way"),
            (confirming, "questions that wait for a quorum"),
            (self.share.sessions(), "sessions in the store"),
            (changes, "changes that wait for the store"),
            (u64::from(self.sessions.behind), "steps of the sweep that the store has no room for"),
            (self.young.kept(now_ms), "home entries"),
            (self.young.queued(), "sessions that wait to be told to homes"),
        ];
        remains.retain(|(count, _)| *count > 0);
        if remains.is_empty() {
            // It takes longer to look at these, and while there are sessions there are some.
            remains.extend(self.table.leftovers().named());
            remains.retain(|(count, _)| *count > 0);
        }
        remains
    }

    /// The wall clock was set.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms: u64) {
        self.packets.set_unix_ms_at_zero(unix_ms);
    }

    /// An operator says something to the cluster through this director.
    pub fn operate(&mut self, now_us: u64, command: ControlCommand) {
        self.share.control(now_us, command);
    }

    /// The cluster as this process goes by it.
    pub fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }
}
