//! The director as the daemon uses it: start it with tables, give it new ones, answer its questions.
//!
//! ```text
//! Director::start(config, tables)   sessions allocated, XDP attached, one thread a receive queue
//!   wait_for_questions(..), take_questions(..) ──▶ ask the others ──▶ answer(worker, answer)
//!   take_young(..)     ──▶ tell the homes of new sessions
//!   install(tables)                   between two batches every worker goes over to them
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::config::XdpMode;
use parking_lot::Mutex;

use crate::core::{AskLimits, CoreConfig, Count, Counters, MissAnswer, MissQuestion};
use crate::session::{Probe, SessionTable, Slot};
use crate::tables::ForwardingTables;
use crate::worker::{
    Beat, DEFAULT_CHUNKS, Forwarder, Incoming, Pool, PoolConfig, QueueCounters, Shared, Taker,
    Waker, rings,
};
use crate::xdp::{AttachedMode, Interface, SteerCounters};

/// Why a director could not start, or could not take new tables.
pub use crate::xdp::XdpError as DirectorError;

/// Which worker: the number of its receive queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WorkerId(pub u16);

/// What a director is made of.
pub struct DirectorConfig {
    /// The interface that carries VIP and LIP traffic.
    pub interface: String,
    /// How many workers, on the receive queues from 0 on.
    pub workers: u16,
    /// How the XDP program is attached.
    pub mode: XdpMode,
    /// Most sessions it can hold.
    pub max_sessions: u32,
    /// Most of them that may be half-open; by default a quarter.
    pub max_half_open: u32,
    /// This director.
    pub me: DirectorId,
    /// How often this director has started.
    pub incarnation: u64,
    /// Frames of packet memory a worker (a power of two).
    pub frames: u32,
    /// Nice value of the workers' threads, if it is to be changed.
    pub worker_nice: Option<i32>,
    /// Where workers leave their beats (the guard's memory), by worker. Those beyond its end beat
    /// into memory of their own.
    pub beats: Vec<&'static AtomicU64>,
    /// How often others are asked about unknown sessions (unless `core` says so).
    pub asks: AskLimits,
    /// Limits of a worker's packet core; by default those of [`CoreConfig::for_workers`].
    pub core: Option<CoreConfig>,
    /// The session table, if it has to be there before the director; by default a new one.
    pub sessions: Option<Arc<SessionTable>>,
}

impl DirectorConfig {
    /// One worker on `interface` and a million sessions; everything else by default.
    pub fn new(interface: impl Into<String>, me: DirectorId, incarnation: u64) -> DirectorConfig {
        DirectorConfig {
            interface: interface.into(),
            workers: 1,
            mode: XdpMode::Auto,
            max_sessions: 1 << 20,
            max_half_open: 1 << 18,
            me,
            incarnation,
            frames: DEFAULT_CHUNKS,
            worker_nice: None,
            beats: Vec::new(),
            asks: AskLimits::default(),
            core: None,
            sessions: None,
        }
    }

    /// Sets the most sessions, and the most half-open ones to a quarter of them.
    #[must_use]
    pub fn with_max_sessions(mut self, max_sessions: u32) -> DirectorConfig {
        self.max_sessions = max_sessions;
        self.max_half_open = (max_sessions / 4).max(1);
        self
    }
}

/// Everything a director has counted.
#[derive(Clone, Debug, Default)]
pub struct CounterSnapshot {
    /// What the packet cores counted, all workers together.
    pub packets: Counters,
    /// What the packet cores counted, by worker.
    pub by_worker: Vec<Counters>,
    /// What the workers and the kernel counted about rings and sockets, by worker.
    pub queues: Vec<QueueCounters>,
    /// What the XDP program counted.
    pub steer: SteerCounters,
    /// Answers that came when a worker's queue of answers was full.
    pub answers_refused: u64,
    /// Probes that came when a worker's queue of probes was full.
    pub probes_refused: u64,
}

/// A running director. Dropping it stops it.
pub struct Director {
    pool: Pool,
    tables: Arc<ArcSwap<ForwardingTables>>,
    sessions: Arc<SessionTable>,
    workers: Vec<(Arc<Shared>, Waker)>,
    /// What the workers have put down for others, by worker.
    incoming: Mutex<Vec<Incoming>>,
    taker: Arc<Taker>,
    answers_refused: AtomicU64,
    probes_refused: AtomicU64,
}

impl std::fmt::Debug for Director {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Director")
            .field("pool", &self.pool)
            .field("revision", &self.tables().revision)
            .finish_non_exhaustive()
    }
}

impl Director {
    /// Allocates the session table, loads and attaches the XDP program, and starts the workers, in
    /// the network namespace of the calling thread. On an error nothing is left behind.
    pub fn start(
        config: DirectorConfig,
        tables: Arc<ForwardingTables>,
    ) -> Result<Director, DirectorError> {
        let sessions = config.sessions.unwrap_or_else(|| {
            Arc::new(SessionTable::new(
                config.max_sessions,
                config.max_half_open,
                config.me,
                config.incarnation,
            ))
        });
        let ended = sessions.configure(tables.configured());
        tell_ended(ended, tables.revision);
        let core = match config.core {
            Some(core) => core,
            None => CoreConfig {
                // Whatever can be received can wait.
                waiting_bytes: Interface::usable(&config.interface)?.chunk_bytes()?,
                ..CoreConfig::for_workers(config.max_sessions, config.workers)
                    .with_asks(&config.asks, config.workers)
            },
        };
        let pool_config = PoolConfig {
            interface: config.interface,
            workers: config.workers,
            mode: config.mode,
            chunks: config.frames,
            nice: config.worker_nice,
            beats: config.beats,
        };
        let (vips, lips) = (tables.vips(), tables.lips());
        let tables = Arc::new(ArcSwap::new(tables));
        let (mut workers, mut incoming) = (Vec::new(), Vec::new());
        let taker = Arc::new(Taker::default());
        let pool = Pool::start(&pool_config, vips, lips, |_queue, waker| {
            let shared = Arc::new(Shared::new());
            workers.push((shared.clone(), waker));
            let (outgoing, taken) = rings(taker.clone());
            incoming.push(taken);
            Forwarder::new(&sessions, tables.clone(), core.clone(), shared, outgoing)
        })?;
        Ok(Director {
            pool,
            tables,
            sessions,
            workers,
            incoming: Mutex::new(incoming),
            taker,
            answers_refused: AtomicU64::new(0),
            probes_refused: AtomicU64::new(0),
        })
    }

    /// Goes over to new tables: the workers between two batches, then the session table, where sessions
    /// of removed listeners and backends end, then the XDP program (so no packet is steered to a worker
    /// that does not know its address yet). On an error the workers have the new tables, and the XDP
    /// program may lack new addresses.
    pub fn install(&self, tables: Arc<ForwardingTables>) -> Result<(), DirectorError> {
        let (vips, lips) = (tables.vips(), tables.lips());
        self.tables.store(tables.clone());
        tell_ended(self.sessions.configure(tables.configured()), tables.revision);
        self.pool.set_addresses(vips, lips)
    }

    /// The tables it forwards by.
    pub fn tables(&self) -> Arc<ForwardingTables> {
        self.tables.load_full()
    }

    /// Its sessions.
    pub fn sessions(&self) -> &Arc<SessionTable> {
        &self.sessions
    }

    /// Waits until a worker puts down a question, so long at the most; returns at once if one did since the last
    /// time. Always to be called by the same thread. Young sessions wake nobody: they have to be taken often, and
    /// what finds no room meanwhile is counted.
    pub fn wait_for_questions(&self, most: Duration) {
        self.taker.wait(most);
    }

    /// Takes at most so many of the workers' questions. Returns whether there may be more. What finds no room
    /// meanwhile comes again.
    pub fn take_questions(&self, most: usize, take: impl FnMut(WorkerId, MissQuestion)) -> bool {
        self.take(most, |from| &mut from.questions, take)
    }

    /// Takes at most so many of the sessions whose homes are to be told of them. Returns whether there may be
    /// more.
    pub fn take_young(&self, most: usize, mut take: impl FnMut(Slot)) -> bool {
        self.take(most, |from| &mut from.young, |_, slot| take(slot))
    }

    /// Takes from one of the rings of each worker, from all of them alike.
    fn take<T>(
        &self,
        most: usize,
        ring: fn(&mut Incoming) -> &mut rtrb::Consumer<T>,
        mut take: impl FnMut(WorkerId, T),
    ) -> bool {
        let mut incoming = self.incoming.lock();
        let share = most.div_ceil(incoming.len().max(1));
        let mut more = false;
        for (worker, from) in (0..).zip(incoming.iter_mut()) {
            let mut left = share;
            while left > 0
                && let Ok(taken) = ring(from).pop()
            {
                take(WorkerId(worker), taken);
                left -= 1;
            }
            more |= left == 0;
        }
        more
    }

    /// Answers a worker's question. False: the worker has too many answers waiting (or there is no
    /// such worker), and this one was thrown away and counted. Never blocks.
    pub fn answer(&self, worker: WorkerId, answer: MissAnswer) -> bool {
        let taken = match self.workers.get(usize::from(worker.0)) {
            Some((shared, waker)) => {
                let pushed = shared.answers.push(answer).is_ok();
                waker.wake();
                pushed
            }
            None => false,
        };
        if !taken {
            self.answers_refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Has the ends of an expired session probed by one of the workers. False: it has too many probes
    /// waiting, and this one was thrown away and counted; the sweep wants it again. Never blocks.
    pub fn probe(&self, probe: Probe) -> bool {
        let worker = probe.slot().index() as usize % self.workers.len().max(1);
        let taken = self.workers.get(worker).is_some_and(|(w, _)| w.probes.push(probe).is_ok());
        if !taken {
            self.probes_refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The workers' beats.
    pub fn beats(&self) -> &[Arc<Beat>] {
        self.pool.beats()
    }

    /// Throws away what waits in the receive rings. After a stall of the process the workers do so by
    /// themselves; this is for whoever notices one that they did not.
    pub fn discard_rings(&self) {
        self.pool.discard_rings();
    }

    /// Whether UDP misses ask the others in any case, for a while after a membership or
    /// announcement change.
    pub fn set_udp_ask(&self, ask: bool) {
        self.workers.iter().for_each(|(shared, _)| shared.set_udp_ask(ask));
    }

    /// Whether new sessions are confined to this incarnation's half of the local ports. Kept by
    /// tables that are built from the present ones.
    pub fn set_confined_ports(&self, confined: bool) {
        self.tables.load().ports().set_confined(confined);
    }

    /// What the packet cores have counted, all workers together. Cheap: no system call.
    pub fn packets(&self) -> Counters {
        let mut packets = Counters::default();
        self.workers.iter().for_each(|(shared, _)| packets += &shared.counters.read());
        packets
    }

    /// One of the packet cores' counts, all workers together. For those who look all the time.
    pub fn count(&self, count: Count) -> u64 {
        self.workers.iter().map(|(shared, _)| shared.counters.count(count)).sum()
    }

    /// Everything it has counted.
    pub fn counters(&self) -> Result<CounterSnapshot, DirectorError> {
        let pool = self.pool.counters()?;
        let by_worker: Vec<Counters> =
            self.workers.iter().map(|(shared, _)| shared.counters.read()).collect();
        let mut packets = Counters::default();
        by_worker.iter().for_each(|worker| packets += worker);
        Ok(CounterSnapshot {
            packets,
            by_worker,
            queues: pool.queues,
            steer: pool.steer,
            answers_refused: self.answers_refused.load(Ordering::Relaxed),
            probes_refused: self.probes_refused.load(Ordering::Relaxed),
        })
    }

    /// How the XDP program is attached.
    pub fn mode(&self) -> &AttachedMode {
        self.pool.mode()
    }

    /// Receive queues without a worker: with any, this director is not ready.
    pub fn unserved_queues(&self) -> u32 {
        self.pool.unserved_queues()
    }

    /// Why a worker has ended by itself, if one has. Its beats have ended too.
    pub fn failure(&self) -> Option<String> {
        self.pool.failure()
    }

    /// Ends the workers and detaches the XDP program.
    pub fn stop(self) {
        drop(self);
    }
}

/// Broken connections should be found in the log.
fn tell_ended(sessions: usize, revision: u64) {
    if sessions > 0 {
        tracing::warn!(sessions, revision, "sessions ended with their listener or backend");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_director_is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Director>();
        shared::<DirectorConfig>();
    }

    #[test]
    fn a_quarter_of_the_sessions_may_be_half_open() {
        let config = DirectorConfig::new("eth0", DirectorId(1), 1);
        assert_eq!(config.max_half_open * 4, config.max_sessions);
        let small = config.with_max_sessions(2);
        assert_eq!((small.max_sessions, small.max_half_open), (2, 1));
    }
}
