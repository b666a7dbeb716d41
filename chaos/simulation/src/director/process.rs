//! A running daemon: the cores, and what its shells would carry between them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use holdfast_director::core::{Counters, MissAnswer, MissKind};
use holdfast_director::session::SessionTable;
use holdfast_director::tables::{ForwardingTables, NextHop, NextHops};
use holdfast_node::announce::machine::Stage;
use holdfast_node::announce::wish::Wish;
use holdfast_node::caution::confinement_ms;
use holdfast_node::node::NO_DENIAL_MS;
use holdfast_node::peers::{SUMMARY_LIFETIME_MS, Summary};
use holdfast_node::planned::Watch;
use holdfast_schema::cluster::{ClusterState, ControlCommand, DirectorId};
use holdfast_schema::session::{Known, SessionSink};
use holdfast_state_store::liveness::{Committed, Liveness, Timing, Verdict};

use super::announcer::{self, Announcer};
use super::asking::{Asking, Settled};
use super::flush::{self, FlushJob};
use super::frame::{ROUTER_MAC, mac};
use super::message::{Answer, Message};
use super::packets::{MAX_SESSIONS, Packets, Sent};
use super::sessions::{self, Sessions};
use super::share::{Log, Share};
use crate::plan::Without;

/// How often (us) everything is looked at.
pub const TURN_US: u64 = 10_000;

/// How often, while something waits for milliseconds.
pub const BUSY_US: u64 = 1_000;

/// A gap between two turns that others have used to carry on without this director (us).
const STALL_US: u64 = 300_000;

const HEARTBEAT_US: u64 = 100_000;
const SUMMARY_US: u64 = 500_000;
const PLANNED_US: u64 = 1_000_000;
const ANNOUNCE_US: u64 = 20_000;

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
    /// Where the store is kept.
    pub log: Rc<RefCell<Log>>,
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
    started_us: u64,
}

/// The process.
pub struct Process {
    me: DirectorId,
    incarnation: u64,
    unclean: bool,
    without: Option<Without>,
    /// All sessions it knows.
    pub table: Arc<SessionTable>,
    /// What it forwards by.
    pub tables: Arc<ForwardingTables>,
    packets: Packets,
    sessions: Sessions,
    /// Its share of the store.
    pub share: Share,
    asking: Asking,
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
        let table = Arc::new(SessionTable::new(MAX_SESSIONS, MAX_SESSIONS / 4, me, incarnation));
        table.tick(now_us / 1_000);
        let share = Share::new(me, birth.log);
        let cluster = share.cluster().clone();
        let tables = ForwardingTables::build(&cluster, me, &|_| true, next_hops(me), None);
        tables.ports().set_incarnation(incarnation);
        let (key, shards) = tables.cluster_keys();
        table.set_cluster(key, shards);
        table.configure(tables.configured());
        let packets = Packets::new(&table, birth.workers, birth.seed, birth.unix_ms_at_zero);
        let now_ms = now_us / 1_000;
        Process {
            me,
            incarnation,
            unclean: birth.unclean,
            without: birth.without,
            sessions: Sessions::new(&table),
            packets,
            share,
            asking: Asking::default(),
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
        }
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
    }

    fn poll(&mut self, now_us: u64, out: &mut Effects) {
        let Process { packets, asking, tables, .. } = self;
        let others = others(self.me, &self.cluster);
        packets.turn(
            tables,
            now_us * 1_000,
            |sent| out.sent.push(sent),
            |worker, question| asking.ask(now_us, worker, question, &others, &mut out.messages),
        );
    }

    /// In what time (us) it wants to look at everything, `most_us` at the latest.
    pub fn next_in_us(&self, now_us: u64, most_us: u64) -> u64 {
        let asking = self.asking.due_us().map(|at| at.saturating_sub(now_us).max(BUSY_US));
        let parked = (self.packets.parked() > 0).then_some(BUSY_US);
        asking.into_iter().chain(parked).fold(most_us, u64::min)
    }

    /// A message arrives.
    pub fn hear(&mut self, now_us: u64, from: DirectorId, message: Message, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        match message {
            Message::Heartbeat { incarnation, sequence, views } => {
                self.liveness.heard(now_ms, from, incarnation, sequence, &views);
            }
            Message::Ask { id, key } => {
                self.table.tick(now_ms);
                let answer = match self.table.find(&key) {
                    Known::Session(record) => Answer::Found(record),
                    Known::Nobody => Answer::No,
                    Known::Unsure => Answer::DontKnow,
                };
                out.messages.push((from, Message::Answer { id, answer }));
            }
            Message::Answer { id, answer } => {
                self.asking.take(now_us, from, id, answer);
                self.settle(now_us, out);
            }
            Message::Flush(planned) => {
                let done = self.sessions.flushes.done(planned);
                out.messages.push((from, Message::Flushed(planned, done)));
            }
            Message::Flushed(planned, yes) => self.flush.flushed(from, planned, yes),
            Message::Applied => {
                out.messages.push((from, Message::AppliedTo(self.share.applied())));
            }
            Message::AppliedTo(applied) => self.flush.applied(from, &applied),
            Message::Summary(summary) => drop(self.summaries.insert(from, (now_ms, summary))),
        }
    }

    /// Milliseconds since something moved flows or owners.
    fn calm_for_ms(&self, now_ms: u64) -> u64 {
        match self.cluster.change_planned() {
            true => 0,
            false => now_ms.saturating_sub(self.changed_ms),
        }
    }

    fn settle(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        let everybody_up = self.cluster.members.values().all(|m| !m.down);
        let calm = self.calm_for_ms(now_ms) >= NO_DENIAL_MS;
        let sure = everybody_up && calm && self.share.has_quorum();
        let Process { asking, packets, tables, .. } = self;
        asking.turn(now_us, |settled: Settled| {
            let id = settled.answer.id();
            let denied = settled.nobody && (sure || settled.kind == MissKind::Udp);
            let answer = match settled.answer {
                _ if denied => MissAnswer::NoWithAuthority { id },
                answer => answer,
            };
            out.misses.push(match answer {
                MissAnswer::Found { .. } => Miss::Found,
                MissAnswer::NoWithAuthority { .. } => Miss::Denied,
                MissAnswer::DontKnow { .. } => Miss::Unknown,
            });
            let sent = |sent| out.sent.push(sent);
            packets.answer(settled.worker, tables, now_us * 1_000, &answer, sent);
        });
    }

    /// Looks at everything; called every [`TURN_US`], or [`BUSY_US`] while it is busy.
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
        self.settle(now_us, out);
        self.share.turn(now_us, now_ms, &self.table);
        if now_us < self.due.sweep_us {
            return;
        }
        self.due.sweep_us = now_us + TURN_US;
        self.follow(now_us, out);
        self.beat(now_us, out);
        self.sweep(now_us, out);
        self.judge(now_us);
        self.announce(now_us, out);
    }

    /// Goes over to what the cluster has become.
    fn follow(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        let cluster = self.share.cluster().clone();
        let starts =
            cluster.members.get(&self.me).is_some_and(|m| m.incarnation < self.incarnation);
        if starts && self.share.has_quorum() && now_us >= self.due.started_us {
            self.due.started_us = now_us + 1_000_000;
            let command = ControlCommand::Started {
                director: self.me,
                address: cluster.members[&self.me].address,
                unclean: self.unclean,
                amnesiac: false,
                connected: Vec::new(),
            };
            self.share.control(now_us, command, self.incarnation);
        }
        let seen = (cluster.membership_epoch, cluster.planned.iter().map(|p| p.id).collect());
        if self.seen.as_ref() != Some(&seen) {
            self.changed_ms = now_ms;
            self.seen = Some(seen);
        }
        self.packets.set_udp_ask(self.calm_for_ms(now_ms) < UDP_ASK_MS);
        let unclean = cluster.members.get(&self.me).is_some_and(|m| m.unclean);
        let confined = unclean && now_ms < self.born_ms + confinement_ms(&cluster);
        self.tables.ports().set_confined(confined);
        if Arc::ptr_eq(&cluster, &self.cluster) && out.tables.is_none() && self.seen.is_some() {
            return;
        }
        let members = cluster.members.values().map(|m| Committed {
            director: m.id,
            incarnation: m.incarnation,
            down: m.down,
        });
        self.liveness.set_members(now_ms, members);
        let tables = ForwardingTables::build(
            &cluster,
            self.me,
            &|_| true,
            next_hops(self.me),
            Some(&self.tables),
        );
        out.tables = Some((tables.revision, tables.health_version, tables.hash));
        self.tables = Arc::new(tables);
        self.table.configure(self.tables.configured());
        self.cluster = cluster;
    }

    fn beat(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        let others = || self.cluster.members.keys().copied().filter(|id| *id != self.me);
        let recorded = self.cluster.members.get(&self.me).map(|m| m.incarnation);
        if now_us >= self.due.heartbeat_us && recorded == Some(self.incarnation) {
            self.due.heartbeat_us = now_us + HEARTBEAT_US;
            self.liveness.advance(now_ms);
            self.sequence += 1;
            let (incarnation, sequence) = (self.incarnation, self.sequence);
            let views = self.liveness.views(now_ms);
            let beat = Message::Heartbeat { incarnation, sequence, views };
            out.messages.extend(others().map(|to| (to, beat.clone())));
        }
        if now_us >= self.due.summary_us {
            self.due.summary_us = now_us + SUMMARY_US;
            let (revision, hash) = (self.tables.revision, self.tables.hash);
            let summary = Arc::new(self.announcer.summary(self.incarnation, revision, hash));
            out.messages.extend(others().map(|to| (to, Message::Summary(summary.clone()))));
        }
    }

    fn sweep(&mut self, now_us: u64, out: &mut Effects) {
        let Process { share, without, .. } = self;
        let leads = share.shards_led();
        let around = sessions::Around {
            now_ms: now_us / 1_000,
            interval_ms: TURN_US / 1_000,
            cluster: &self.cluster,
            tables: &self.tables,
            quorum: share.has_quorum(),
            leads: &leads,
        };
        let probes = self.sessions.step(&self.table, &around, |shard, changes| {
            let silent = *without == Some(Without::Replication);
            silent || share.propose(now_us, shard, changes.to_vec())
        });
        for probe in probes {
            let sent = |sent| out.sent.push(sent);
            self.packets.probe(&self.tables, now_us * 1_000, &probe, sent);
        }
    }

    /// What the control leader does.
    fn judge(&mut self, now_us: u64) {
        let now_ms = now_us / 1_000;
        if now_us >= self.due.planned_us {
            self.due.planned_us = now_us + PLANNED_US;
            let overdue = self.planned.overdue(&self.cluster, now_ms);
            if self.share.leads_control() {
                for id in overdue {
                    self.share.control(now_us, ControlCommand::EndPlanned { id }, 0);
                }
            }
        }
        if !self.share.leads_control() {
            return;
        }
        for judged in self.liveness.judge(now_ms) {
            let command = ControlCommand::SetDown {
                director: judged.director,
                incarnation: judged.incarnation,
                down: judged.verdict == Verdict::Down,
            };
            self.share.control(now_us, command, 0);
        }
    }

    fn announce(&mut self, now_us: u64, out: &mut Effects) {
        let now_ms = now_us / 1_000;
        if now_us < self.due.announce_us {
            return;
        }
        self.due.announce_us = now_us + ANNOUNCE_US;
        let behind = self.tables.revision != self.cluster.revision;
        let counters = self.packets.counters();
        let summaries = |id: DirectorId| {
            let (at_ms, summary) = self.summaries.get(&id)?;
            (now_ms < at_ms + SUMMARY_LIFETIME_MS).then(|| summary.clone())
        };
        let before = self.announcer.wish();
        let outputs = self.announcer.turn(announcer::Around {
            now_ms,
            me: self.me,
            cluster: &self.cluster,
            quorum: self.share.has_quorum(),
            caught_up: self.share.caught_up(now_us),
            local: if behind { vec!["configuration".to_owned()] } else { Vec::new() },
            flushed: self.flush.done(),
            votes: 0,
            counters: &counters,
            unreplicated: self.table.unreplicated(),
            summaries: &summaries,
        });
        self.flush.want(outputs.flush);
        let around = flush::Around {
            now_us,
            others: &others(self.me, &self.cluster),
            flushed_here: outputs.flush.is_some_and(|id| self.sessions.flushes.done(id)),
            applied: &self.share.applied(),
            barrier: self.share.barrier(),
        };
        self.flush.turn(&around, &mut out.messages);
        for ask in outputs.asks {
            self.share.control(now_us, announcer::command(self.me, ask), 0);
        }
        if outputs.wish != before {
            self.changed_ms = now_ms;
            out.wish = Some(outputs.wish);
        }
        let stage = self.announcer.stage().word();
        if stage != self.stage {
            self.stage = stage;
            out.stage = Some(stage);
        }
    }

    /// The guard has let go of the routes: it comes back like a joiner.
    pub fn fall(&mut self, now_us: u64) {
        self.announcer.fell(now_us / 1_000, "the guard let go of the routes");
    }

    /// What the packet path has counted.
    pub fn counters(&self) -> Counters {
        self.packets.counters()
    }

    /// Packets that wait.
    pub fn parked(&self) -> u32 {
        self.packets.parked()
    }

    /// Whether it is in service.
    pub fn serves(&self) -> bool {
        *self.announcer.stage() == Stage::Serving
    }

    /// The wall clock was set.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms: u64) {
        self.packets.set_unix_ms_at_zero(unix_ms);
    }

    /// The cluster as this process goes by it.
    pub fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }
}

/// The other members that are not down.
fn others(me: DirectorId, cluster: &ClusterState) -> Vec<DirectorId> {
    cluster.members.values().filter(|m| !m.down && m.id != me).map(|m| m.id).collect()
}
