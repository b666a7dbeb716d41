//! The packet core as a worker drives it: with the current tables, with answers coming in and
//! questions going out.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Cache};
use crossbeam_queue::ArrayQueue;

use super::{PacketCore, SendPacket};
use crate::core::{
    BATCH, Core, CoreConfig, DropReason, Frame, MissAnswer, MissQuestion, SharedCounters, Verdict,
};
use crate::session::{Probe, SessionTable, Slot};
use crate::tables::ForwardingTables;
use crate::xdp::monotonic_ns;

/// Answers taken in one turn: packets of known sessions must not wait for more.
const ANSWERS_A_TURN: usize = 64;

/// Most answers that wait for a worker. More than there are questions on the way.
const ANSWERS: usize = 4096;

/// Most probes that wait for a worker. There are never as many at once.
const PROBES: usize = 1024;

/// How often the offset between the wall clock and the monotonic one is taken anew.
const CLOCK_INTERVAL_NS: u64 = 1_000_000_000;

/// Most questions and most young sessions that wait until somebody takes them from a worker.
const QUESTIONS: usize = 4_096;
const YOUNG: usize = 16_384;

/// A worker's end of the rings to the node: it neither allocates nor waits.
pub(crate) struct Outgoing {
    questions: rtrb::Producer<MissQuestion>,
    young: rtrb::Producer<Slot>,
    taker: Arc<Taker>,
}

/// The thread that takes what workers put down.
#[derive(Debug, Default)]
pub(crate) struct Taker(OnceLock<Thread>);

impl Taker {
    /// Waits until a question is put down, so long at the most; returns at once if one was since the last time. For
    /// one thread only, which is woken from the first time on.
    pub(crate) fn wait(&self, most: Duration) {
        self.0.get_or_init(std::thread::current);
        std::thread::park_timeout(most);
    }

    /// Wakes it, if it waits: a system call in that case only.
    fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// The node's end of them.
pub(crate) struct Incoming {
    pub(crate) questions: rtrb::Consumer<MissQuestion>,
    pub(crate) young: rtrb::Consumer<Slot>,
}

/// The rings of one worker.
pub(crate) fn rings(taker: Arc<Taker>) -> (Outgoing, Incoming) {
    let (ask, questions) = rtrb::RingBuffer::new(QUESTIONS);
    let (tell, young) = rtrb::RingBuffer::new(YOUNG);
    (Outgoing { questions: ask, young: tell, taker }, Incoming { questions, young })
}

/// What a worker's forwarder shares with other threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) answers: ArrayQueue<MissAnswer>,
    pub(crate) probes: ArrayQueue<Probe>,
    pub(crate) counters: Arc<SharedCounters>,
    udp_ask: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            answers: ArrayQueue::new(ANSWERS),
            probes: ArrayQueue::new(PROBES),
            counters: Arc::default(),
            udp_ask: AtomicBool::new(false),
        }
    }

    /// Whether UDP misses ask the others in any case.
    pub(crate) fn set_udp_ask(&self, ask: bool) {
        self.udp_ask.store(ask, Ordering::Relaxed);
    }
}

/// The packet core of one worker.
pub(crate) struct Forwarder {
    core: Core,
    tables: Cache<Arc<ArcSwap<ForwardingTables>>, Arc<ForwardingTables>>,
    shared: Arc<Shared>,
    questions: Vec<MissQuestion>,
    outgoing: Outgoing,
    clock_taken_ns: u64,
}

/// The Unix time (ms) at which the monotonic clock was 0.
fn unix_ms_at_zero(now_ns: u64) -> u64 {
    // A wall clock before 1970 only orders new sessions behind everything else.
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (unix.as_millis() as u64).saturating_sub(now_ns / 1_000_000)
}

impl Forwarder {
    pub(crate) fn new(
        sessions: &Arc<SessionTable>,
        tables: Arc<ArcSwap<ForwardingTables>>,
        mut config: CoreConfig,
        shared: Arc<Shared>,
        outgoing: Outgoing,
    ) -> Forwarder {
        let now_ns = monotonic_ns();
        config.unix_ms_at_zero = unix_ms_at_zero(now_ns);
        let questions = Vec::with_capacity(config.waiting_flows as usize);
        // The standard library's keys come from the operating system's random numbers.
        let seed = RandomState::new().build_hasher().finish();
        let handle = sessions.register_worker();
        let core = Core::new(sessions.clone(), handle, config, seed, shared.counters.clone());
        Forwarder {
            core,
            tables: Cache::new(tables),
            shared,
            questions,
            outgoing,
            clock_taken_ns: now_ns,
        }
    }

    fn send_released(
        send: &mut SendPacket<'_>,
        unsent: &mut [u32; DropReason::COUNT],
        frame: &Frame<'_>,
        verdict: Verdict,
    ) {
        if verdict == Verdict::Transmit
            && let Err(reason) = send(frame.packet())
        {
            unsent[reason.index()] += 1;
        }
    }

    fn count_unsent(&mut self, unsent: &[u32; DropReason::COUNT]) {
        for (reason, count) in DropReason::ALL.iter().zip(unsent) {
            for _ in 0..*count {
                self.core.count_unsent(*reason);
            }
        }
    }
}

impl PacketCore for Forwarder {
    fn process(&mut self, now_ns: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        self.core.process(self.tables.load(), now_ns, frames, verdicts);
    }

    fn turn(&mut self, now_ns: u64, received: usize, send: &mut SendPacket<'_>) {
        let mut unsent = [0; DropReason::COUNT];
        let parked = self.core.parked();
        // Answers must not keep packets waiting; without any there is time for all of them.
        let most = if received == 0 { ANSWERS } else { ANSWERS_A_TURN };
        for _ in 0..self.shared.answers.len().min(most) {
            let Some(answer) = self.shared.answers.pop() else { break };
            let release = &mut |frame: &mut Frame<'_>, verdict| {
                Self::send_released(send, &mut unsent, frame, verdict);
            };
            self.core.answer(self.tables.load(), now_ns, &answer, release);
        }
        // Processing a batch is a quiescent point; without one, this is.
        if self.core.parked() > 0 || received == 0 {
            let release = &mut |frame: &mut Frame<'_>, verdict| {
                Self::send_released(send, &mut unsent, frame, verdict);
            };
            self.core.poll(self.tables.load(), now_ns, release);
        }
        let probes = self.shared.probes.len().min(BATCH);
        for _ in 0..probes {
            let Some(probe) = self.shared.probes.pop() else { break };
            self.core.probe(self.tables.load(), now_ns, &probe, &mut |frame, verdict| {
                Self::send_released(send, &mut unsent, frame, verdict);
            });
        }
        // Nothing else is released that did not wait before.
        if parked > 0 || probes > 0 {
            self.count_unsent(&unsent);
        }
        self.core.reset_half_open(self.tables.load(), now_ns, &mut |frame, _| {
            // One that cannot be sent is left to the backend's own timer.
            let _ = send(frame.packet());
        });
        if self.core.parked() > 0 {
            self.core.take_questions(now_ns, &mut self.questions);
            // Packets wait for the answers. Nothing else that is put down has to be taken at once.
            if !self.questions.is_empty() {
                for question in self.questions.drain(..) {
                    if self.outgoing.questions.push(question).is_err() {
                        self.core.count_refused_question();
                    }
                }
                self.outgoing.taker.wake();
            }
        }
        let young = &mut self.outgoing.young;
        self.core.take_young(|slot| young.push(slot).is_ok());
        self.core.set_udp_ask(self.shared.udp_ask.load(Ordering::Relaxed));
        if now_ns.saturating_sub(self.clock_taken_ns) >= CLOCK_INTERVAL_NS {
            self.clock_taken_ns = now_ns;
            self.core.set_unix_ms_at_zero(unix_ms_at_zero(now_ns));
        }
    }

    fn waiting(&self) -> bool {
        self.core.parked() > 0
    }

    fn unsent(&mut self, reason: DropReason) {
        self.core.count_unsent(reason);
    }

    fn discarded(&mut self, frames: u64, bytes: u64) {
        self.core.count_discarded(DropReason::Stale, frames, bytes);
        // Also what waited in here, and what others said before they took over.
        self.core.discard_waiting(DropReason::Stale);
        for _ in 0..self.shared.answers.len() {
            if self.shared.answers.pop().is_none() {
                break;
            }
        }
    }
}
