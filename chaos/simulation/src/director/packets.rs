//! The packet path of a director: receive queues, and the real packet core behind each.

use std::collections::VecDeque;
use std::sync::Arc;

use holdfast_director::core::{
    Core, CoreConfig, Counters, DropReason, Frame, MissAnswer, MissQuestion, SharedCounters,
    Verdict,
};
use holdfast_director::session::{Probe, SessionTable, Slot};
use holdfast_director::tables::ForwardingTables;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{Known, SessionRecord, SessionSink};

use super::frame::{self, HEADER};
use crate::rng::mix;

/// Frames that wait in a receive queue; more are lost.
const QUEUE: usize = 256;

/// Room behind a frame for an answer in its place.
const TAIL: usize = 128;

/// Most sessions of a director.
pub const MAX_SESSIONS: u32 = 1_024;

/// What came of a packet.
pub struct Sent {
    /// The IP packet that came in; if it had waited, what is left of it when it is dropped.
    pub before: Option<Vec<u8>>,
    /// It had waited.
    pub waited: bool,
    /// What the director knew of its session when it dropped it or let it wait.
    pub known: Option<Box<SessionRecord>>,
    /// What goes out.
    pub packet: Option<Vec<u8>>,
    /// Why nothing does; none: it waits.
    pub dropped: Option<DropReason>,
}

struct Worker {
    core: Core,
    queue: VecDeque<Vec<u8>>,
}

/// All workers of a director.
pub struct Packets {
    table: Arc<SessionTable>,
    workers: Vec<Worker>,
    seed: u64,
    questions: Vec<MissQuestion>,
    chunks: Vec<Vec<u8>>,
}

/// The limits of a small director.
fn config(workers: u16, unix_ms_at_zero: u64) -> CoreConfig {
    CoreConfig {
        flow_cache_sessions: MAX_SESSIONS,
        waiting_packets: 64,
        waiting_flows: 32,
        waiting_packets_a_flow: 8,
        waiting_bytes: 2_304,
        unix_ms_at_zero,
        ..CoreConfig::for_workers(MAX_SESSIONS, workers)
    }
}

impl Packets {
    /// Workers on this table.
    pub fn new(
        table: &Arc<SessionTable>,
        workers: u16,
        seed: u64,
        unix_ms_at_zero: u64,
    ) -> Packets {
        let worker = |n: u16| {
            let config = config(workers, unix_ms_at_zero);
            let shared = Arc::new(SharedCounters::default());
            let handle = table.register_worker();
            let seed = mix(seed ^ u64::from(n));
            Worker {
                core: Core::new(table.clone(), handle, config, seed, shared),
                queue: VecDeque::new(),
            }
        };
        Packets {
            table: table.clone(),
            workers: (0..workers).map(worker).collect(),
            seed,
            questions: Vec::with_capacity(64),
            chunks: Vec::new(),
        }
    }

    /// A frame arrives. False: its queue is full.
    pub fn arrive(&mut self, frame: Vec<u8>) -> bool {
        let hash = frame::flow_hash(frame.get(HEADER..).unwrap_or(&[]), self.seed);
        let workers = self.workers.len() as u64;
        let queue = &mut self.workers[(hash % workers) as usize].queue;
        let room = queue.len() < QUEUE;
        if room {
            queue.push_back(frame);
        }
        room
    }

    /// Every worker takes what has arrived.
    pub fn process(&mut self, tables: &ForwardingTables, now_ns: u64, mut sent: impl FnMut(Sent)) {
        let table = &self.table;
        for worker in &mut self.workers {
            if worker.queue.is_empty() {
                continue;
            }
            let chunks = &mut self.chunks;
            chunks.clear();
            chunks.extend(worker.queue.drain(..));
            let originals: Vec<Vec<u8>> = chunks.iter().map(|f| f[HEADER..].to_vec()).collect();
            let mut frames: Vec<Frame<'_>> = chunks
                .iter_mut()
                .map(|chunk| {
                    let len = chunk.len();
                    chunk.resize(len + TAIL, 0);
                    Frame::new(chunk, 0, len)
                })
                .collect();
            let mut verdicts = vec![Verdict::Parked; frames.len()];
            worker.core.process(tables, now_ns, &mut frames, &mut verdicts);
            for ((before, frame), verdict) in originals.into_iter().zip(&frames).zip(verdicts) {
                sent(outcome(table, Some(before), frame, verdict));
            }
        }
    }

    /// An answer for a worker.
    pub fn answer(
        &mut self,
        worker: usize,
        tables: &ForwardingTables,
        now_ns: u64,
        answer: &MissAnswer,
        mut sent: impl FnMut(Sent),
    ) {
        let table = &self.table;
        if let Some(worker) = self.workers.get_mut(worker) {
            let release =
                &mut |frame: &mut Frame<'_>, verdict| sent(outcome(table, None, frame, verdict));
            worker.core.answer(tables, now_ns, answer, release);
        }
    }

    /// Has the ends of an expired session probed.
    pub fn probe(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        probe: &Probe,
        mut sent: impl FnMut(Sent),
    ) {
        let table = &self.table;
        let workers = self.workers.len().max(1);
        if let Some(worker) = self.workers.get_mut(probe.slot().index() as usize % workers) {
            let release =
                &mut |frame: &mut Frame<'_>, verdict| sent(unasked(table, frame, verdict));
            worker.core.probe(tables, now_ns, probe, release);
        }
    }

    /// Lets packets that wait go, and takes the questions that are due.
    pub fn turn(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        mut sent: impl FnMut(Sent),
        mut ask: impl FnMut(usize, MissQuestion),
    ) {
        let table = &self.table;
        for (n, worker) in self.workers.iter_mut().enumerate() {
            let release =
                &mut |frame: &mut Frame<'_>, verdict| sent(outcome(table, None, frame, verdict));
            worker.core.poll(tables, now_ns, release);
            let release =
                &mut |frame: &mut Frame<'_>, verdict| sent(unasked(table, frame, verdict));
            worker.core.reset_half_open(tables, now_ns, release);
            if worker.core.parked() > 0 {
                worker.core.take_questions(now_ns, &mut self.questions);
                self.questions.drain(..).for_each(|question| ask(n, question));
            }
        }
    }

    /// The sessions that were opened since the last call.
    pub fn opened(&mut self, mut take: impl FnMut(Slot)) {
        for worker in &mut self.workers {
            worker.core.take_young(|slot| {
                take(slot);
                true
            });
        }
    }

    /// Packets that wait.
    pub fn parked(&self) -> u32 {
        self.workers.iter().map(|worker| worker.core.parked()).sum()
    }

    /// Throws away what waits anywhere: it belongs to connections that others carry by now.
    pub fn discard(&mut self) {
        for worker in &mut self.workers {
            let bytes: usize = worker.queue.iter().map(Vec::len).sum();
            let frames = worker.queue.drain(..).count();
            worker.core.count_discarded(DropReason::Stale, frames as u64, bytes as u64);
            worker.core.discard_waiting(DropReason::Stale);
        }
    }

    /// What has been counted, all workers together.
    pub fn counters(&self) -> Counters {
        let mut all = Counters::default();
        self.workers.iter().for_each(|worker| all += worker.core.counters());
        all
    }

    /// Whether unknown UDP flows are asked for in any case.
    pub fn set_udp_ask(&mut self, ask: bool) {
        self.workers.iter_mut().for_each(|worker| worker.core.set_udp_ask(ask));
    }

    /// The wall clock, as it is now.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms: u64) {
        self.workers.iter_mut().for_each(|worker| worker.core.set_unix_ms_at_zero(unix_ms));
    }
}

fn outcome(
    table: &SessionTable,
    before: Option<Vec<u8>>,
    frame: &Frame<'_>,
    verdict: Verdict,
) -> Sent {
    let content = || frame.packet().get(HEADER..).map(<[u8]>::to_vec);
    let (packet, dropped) = match verdict {
        Verdict::Transmit => (content(), None),
        Verdict::Drop(reason) => (None, Some(reason)),
        Verdict::Parked => (None, None),
    };
    let waited = before.is_none();
    let before = before.or_else(|| dropped.and_then(|_| content()));
    let unsent = before.as_deref().filter(|_| packet.is_none());
    let known = unsent.and_then(key).map(|key| table.find(&key));
    let known = known.and_then(Known::session).map(Box::new);
    Sent { before, waited, known, packet, dropped }
}

/// What a director says by itself, and not in the place of anything that has come in.
fn unasked(table: &SessionTable, frame: &Frame<'_>, verdict: Verdict) -> Sent {
    Sent { waited: false, ..outcome(table, None, frame, verdict) }
}

/// The flow of a packet.
fn key(packet: &[u8]) -> Option<FlowKey> {
    let (src, dst, protocol) = frame::tuple(packet)?;
    let protocol = Protocol::from_number(protocol)?;
    Some(FlowKey::new(protocol, src.into(), dst.into()))
}
