//! The packet forwarder as the daemon uses it: a director and the sessions it shares with the store.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use holdfast_director::core::{AskLimits, Count, MissAnswer, MissQuestion};
use holdfast_director::director::{
    CounterSnapshot, Director, DirectorConfig, DirectorError, WorkerId,
};
use holdfast_director::session::{Probe, SessionTable, Slot};
use holdfast_director::tables::ForwardingTables;
use holdfast_director::xdp::AttachedMode;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::config::NodeSpec;

/// Workers run before ordinary processes.
const WORKER_NICE: i32 = -10;

/// A running packet forwarder.
pub struct Forwarder {
    director: Director,
}

/// The table of a director that is about to start. The store applies to it from now on.
pub fn session_table(spec: &NodeSpec, me: DirectorId, incarnation: u64) -> Arc<SessionTable> {
    let half_open = (spec.max_sessions / 4).max(1);
    Arc::new(SessionTable::new(spec.max_sessions, half_open, me, incarnation))
}

/// How often it asks others about unknown sessions.
pub fn asks(spec: &NodeSpec) -> AskLimits {
    AskLimits {
        per_second: spec.asks_per_second,
        prefix_per_second: spec.asks_per_second_and_prefix,
    }
}

impl Forwarder {
    /// Attaches the XDP program and starts the workers. Blocks for a moment.
    pub fn start(
        spec: &NodeSpec,
        (me, incarnation): (DirectorId, u64),
        sessions: Arc<SessionTable>,
        tables: Arc<ForwardingTables>,
        beats: Vec<&'static AtomicU64>,
    ) -> Result<Forwarder, DirectorError> {
        let mut config = DirectorConfig::new(&spec.interface, me, incarnation)
            .with_max_sessions(spec.max_sessions);
        config.workers = spec.workers;
        config.mode = spec.xdp_mode;
        config.worker_nice = Some(WORKER_NICE);
        config.beats = beats;
        config.sessions = Some(sessions);
        config.asks = asks(spec);
        Ok(Forwarder { director: Director::start(config, tables)? })
    }

    /// Goes over to new tables.
    pub fn install(&self, tables: Arc<ForwardingTables>) -> Result<(), DirectorError> {
        self.director.install(tables)
    }

    /// The tables it forwards by.
    pub fn tables(&self) -> Arc<ForwardingTables> {
        self.director.tables()
    }

    /// Its sessions.
    pub fn sessions(&self) -> &Arc<SessionTable> {
        self.director.sessions()
    }

    /// Waits until a worker puts down a question, so long at the most. Always the same thread.
    pub fn wait_for_questions(&self, most: Duration) {
        self.director.wait_for_questions(most);
    }

    /// Takes the workers' questions, at most so many. Returns whether there may be more.
    pub fn take_questions(&self, most: usize, take: impl FnMut(WorkerId, MissQuestion)) -> bool {
        self.director.take_questions(most, take)
    }

    /// Takes the sessions whose homes are to be told of them, at most so many. Returns whether there may be
    /// more.
    pub fn take_young(&self, most: usize, take: impl FnMut(Slot)) -> bool {
        self.director.take_young(most, take)
    }

    /// One of the packet cores' counts.
    pub fn count(&self, count: Count) -> u64 {
        self.director.count(count)
    }

    /// Answers a worker's question.
    pub fn answer(&self, worker: WorkerId, answer: MissAnswer) {
        self.director.answer(worker, answer);
    }

    /// Has the ends of an expired session probed.
    pub fn probe(&self, probe: Probe) {
        self.director.probe(probe);
    }

    /// Throws away what waits in the rings.
    pub fn discard_rings(&self) {
        self.director.discard_rings();
    }

    /// Whether unknown UDP flows are asked for before they are scheduled.
    pub fn set_udp_ask(&self, ask: bool) {
        self.director.set_udp_ask(ask);
    }

    /// Whether new sessions are confined to this incarnation's half of the local ports.
    pub fn set_confined_ports(&self, confined: bool) {
        self.director.set_confined_ports(confined);
    }

    /// Everything it has counted.
    pub fn counters(&self) -> Result<CounterSnapshot, DirectorError> {
        self.director.counters()
    }

    /// Packets of clients, packets of both directions, and sessions opened, since start.
    pub fn activity(&self) -> (u64, u64, u64) {
        let packets = self.director.packets();
        (
            packets.count(Count::ToBackendPackets),
            packets.forwarded_packets(),
            packets.count(Count::SessionsOpenedTcp) + packets.count(Count::SessionsOpenedUdp),
        )
    }

    /// `native` or `skb`, and why not native.
    pub fn mode(&self) -> (&'static str, Option<String>) {
        match self.director.mode() {
            AttachedMode::Native => ("native", None),
            AttachedMode::Skb { reason } => ("skb", Some(reason.clone())),
        }
    }

    /// Why a worker has ended by itself, if one has.
    pub fn failure(&self) -> Option<String> {
        self.director.failure()
    }

    /// What keeps it from forwarding everything; empty: nothing.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::from_iter(self.director.failure());
        match self.director.unserved_queues() {
            0 => {}
            n => problems.push(format!(
                "{n} receive queues have no worker: raise `workers` in the node file, or lower the \
                 queues with `ethtool -L`"
            )),
        }
        problems
    }
}
