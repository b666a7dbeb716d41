//! The packet core: decides what becomes of every packet. No I/O, no clock, no locks that wait.
//!
//! One [`Core`] per worker. Frames and the time come in; rewritten frames and verdicts go out; what
//! has to be asked of other directors comes out of [`Core::take_questions`], and answers go into
//! [`Core::answer`]. In the path of a packet there is, after start, no allocation and no panic; the
//! parts of a batch:
//!
//! 1. `meta` reads every frame: malformed ones are dropped, echo requests answered (`answer`),
//!    the others have a flow key.
//! 2. All keys are looked up in L1 together, what is not there in L2.
//! 3. Packets of known sessions are rewritten (`nat`), and what they tell is noted (`track`).
//!    Of the others, first ones open a session (`open`); the rest wait until the question who
//!    knows their session is answered (`unknown`, `waiting`, `miss`, `released`).
//!
//! Every packet is counted once ([`counters`]): as forwarded, answered, dropped for one
//! [`DropReason`], or waiting.
#![forbid(unsafe_code)]

mod answer;
mod budget;
mod config;
pub mod counters;
mod doubt;
mod forward;
mod frame;
mod hops;
mod meta;
pub mod miss;
mod nat;
mod open;
mod probe;
mod reason;
mod released;
mod track;
mod twin;
mod unknown;
mod waiting;

use std::sync::Arc;

use ahash::RandomState;
use holdfast_schema::flow::{Addr, FlowKey};

pub use config::{AskLimits, CoreConfig};
pub use counters::{Count, Counters, SharedCounters};
pub use frame::{Frame, Verdict};
pub use miss::{MissAnswer, MissKind, MissQuestion};
pub use reason::DropReason;

use crate::session::{FlowCache, Lookup, SessionTable, Side, Slot, WorkerHandle};
use crate::tables::ForwardingTables;
use budget::{AskBudget, Rate, TokenBucket};
use hops::HopCache;
use meta::{Class, Meta};
use miss::Denials;
use waiting::{RoomSize, WaitFor, WaitingRoom};

/// Frames that are looked up together.
pub const BATCH: usize = 64;

/// Young sessions that are kept until [`Core::take_young`].
const YOUNG: usize = 4_096;

/// Where packets that leave the waiting room go: the frame, and what has become of it
/// ([`Verdict::Transmit`] or [`Verdict::Drop`]). The frame is only lent.
pub type Release<'r> = dyn FnMut(&mut Frame<'_>, Verdict) + 'r;

/// What a packet is judged by: the tables and the time of its batch.
#[derive(Clone, Copy)]
struct Moment<'t> {
    tables: &'t ForwardingTables,
    now_ns: u64,
    now_ms: u64,
}

/// What is known of a packet before its session is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It just came in.
    Fresh,
    /// It waited for something other than a denial.
    Waited,
    /// It waited, and everybody denies its session.
    Denied,
}

/// One batch between its passes. Kept for its memory.
#[derive(Default)]
struct Batch {
    keys: Vec<FlowKey>,
    metas: Vec<(usize, Meta)>,
    found: Vec<Option<(Slot, Side)>>,
}

/// The packet core of one worker.
pub struct Core {
    table: Arc<SessionTable>,
    worker: WorkerHandle,
    cache: FlowCache,
    config: CoreConfig,
    udp_ask: bool,
    batch: Batch,
    room: WaitingRoom,
    waiting_keys: Vec<waiting::Waiting>,
    next_look_ns: u64,
    young: Vec<Slot>,
    denials: Denials,
    budget: AskBudget,
    icmp_rate: Rate,
    icmp_bucket: TokenBucket,
    /// While packets leave the waiting room: since when they have waited.
    waited_since_ns: Option<u64>,
    /// How often another session took the place of one that packets of a batch may have found before.
    replaced: u64,
    next_lip: usize,
    hops: HopCache,
    counters: Counters,
    shared: Arc<SharedCounters>,
}

impl Core {
    /// A core that works on `table`. `worker` is its thread's part in the table's quiescence
    /// protocol; `seed` has to be random in production, because clients choose what is hashed;
    /// `shared` shows its counters to others. Allocates everything it will ever need.
    pub fn new(
        table: Arc<SessionTable>,
        worker: WorkerHandle,
        config: CoreConfig,
        seed: u64,
        shared: Arc<SharedCounters>,
    ) -> Core {
        let hasher = |n: u64| RandomState::with_seeds(seed, seed.rotate_left(17), !seed, n);
        let size = RoomSize {
            packets: config.waiting_packets,
            flows: config.waiting_flows,
            packets_a_flow: config.waiting_packets_a_flow,
            bytes_a_packet: config.waiting_bytes,
        };
        let asks = Rate::new(config.asks_per_second, config.ask_burst);
        let prefix_asks = Rate::new(config.prefix_asks_per_second, config.prefix_ask_burst);
        Core {
            cache: FlowCache::new(config.flow_cache_sessions, seed),
            udp_ask: false,
            batch: Batch {
                keys: Vec::with_capacity(BATCH),
                metas: Vec::with_capacity(BATCH),
                found: vec![None; BATCH],
            },
            room: WaitingRoom::new(size, hasher(1)),
            waiting_keys: Vec::with_capacity(config.waiting_flows as usize),
            next_look_ns: 0,
            young: Vec::with_capacity(YOUNG),
            denials: Denials::new(hasher(2)),
            budget: AskBudget::new(asks, prefix_asks, hasher(3)),
            icmp_rate: Rate::new(config.icmp_errors_per_second, config.icmp_error_burst),
            icmp_bucket: TokenBucket::default(),
            waited_since_ns: None,
            replaced: 0,
            next_lip: 0,
            hops: HopCache::new(),
            counters: Counters::default(),
            table,
            worker,
            config,
            shared,
        }
    }

    /// Judges and rewrites a batch of frames; `verdicts` is as long as `frames`. `now_ns` is
    /// CLOCK_MONOTONIC. Call [`Core::poll`] afterwards while packets wait.
    pub fn process(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
    ) {
        debug_assert_eq!(frames.len(), verdicts.len());
        let at = self.begin(tables, now_ns);
        for (frames, verdicts) in frames.chunks_mut(BATCH).zip(verdicts.chunks_mut(BATCH)) {
            self.batch(&at, frames, verdicts);
        }
        self.end_batch();
    }

    fn begin<'t>(&mut self, tables: &'t ForwardingTables, now_ns: u64) -> Moment<'t> {
        self.hops.forget();
        let now_ms = now_ns / 1_000_000;
        self.table.tick(now_ms);
        Moment { tables, now_ns, now_ms }
    }

    fn batch(&mut self, at: &Moment<'_>, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        // Taken out of `self` for the time being; nothing is allocated for what stays behind.
        let mut batch = std::mem::take(&mut self.batch);
        batch.keys.clear();
        batch.metas.clear();
        let mut bytes = 0;
        for (index, (frame, verdict)) in frames.iter_mut().zip(verdicts.iter_mut()).enumerate() {
            bytes += frame.len() as u64;
            *verdict = match meta::classify(frame.packet()) {
                Ok(Class::Flow(key, meta)) => {
                    batch.keys.push(key);
                    batch.metas.push((index, meta));
                    continue;
                }
                Ok(Class::Echo(src, dst)) => self.echo(at, frame, &src, &dst),
                Err(reason) => self.drop(reason),
            };
        }
        self.counters.add(Count::ReceivedPackets, frames.len().min(verdicts.len()) as u64);
        self.counters.add(Count::ReceivedBytes, bytes);
        if let Some(found) = batch.found.get_mut(..batch.keys.len()) {
            self.cache.lookup_batch(&self.table, &batch.keys, found);
        }
        let flows = batch.keys.iter().zip(&batch.metas).zip(&batch.found);
        let replaced = self.replaced;
        for ((key, (index, meta)), found) in flows {
            // A packet before it in this batch may have put another session in the place of the one
            // that was found.
            let stale = self.replaced != replaced;
            let found = if stale { &None } else { found };
            if let (Some(frame), Some(verdict)) = (frames.get_mut(*index), verdicts.get_mut(*index))
            {
                *verdict = self.flow(at, frame, key, meta, *found, Standing::Fresh);
            }
        }
        self.batch = batch;
    }

    fn end_batch(&mut self) {
        self.worker.quiescent();
        self.counters.set_parked(u64::from(self.room.len()));
        self.shared.publish(&self.counters);
    }

    /// Judges a packet of, or about, a flow.
    #[inline]
    fn flow(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        cached: Option<(Slot, Side)>,
        standing: Standing,
    ) -> Verdict {
        // Behind packets of the same flow that wait already, which are released first. A SYN begins
        // something new and has no need to wait.
        if self.room.len() > 0
            && standing == Standing::Fresh
            && !meta.opens()
            && self.room.holds(key)
        {
            match self.try_park(at, frame, key, meta, WaitFor::Lock) {
                Ok(()) => return Verdict::Parked,
                // Those that wait go the same way in a moment: before them is better than not at all.
                Err(_) if self.has_come(key) => {}
                Err(reason) => return self.drop(reason),
            }
        }
        let found = match cached {
            Some(found) => found,
            None => {
                self.counters.add(Count::SharedLookups, 1);
                match self.table.lookup(key) {
                    Lookup::Found(slot, side) => {
                        self.cache.insert(key, slot, side);
                        (slot, side)
                    }
                    Lookup::Absent => return self.unknown(at, frame, key, meta, standing),
                    Lookup::Contended => {
                        self.counters.add(Count::ContendedLookups, 1);
                        return self.park(at, frame, key, meta, WaitFor::Lock);
                    }
                }
            }
        };
        if self.may_be_earlier(at.now_ms, found) && self.is_in_doubt(at.now_ms, key, meta, found) {
            if standing == Standing::Fresh {
                return self.ask_in_doubt(at, frame, key, meta, found);
            }
            return self.doubted(at, frame, key, meta, found, DropReason::MissUnknown);
        }
        self.known(at, frame, key, meta, found)
    }

    #[inline]
    fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    fn echo(&mut self, at: &Moment<'_>, frame: &mut Frame<'_>, src: &Addr, dst: &Addr) -> Verdict {
        let tables = at.tables;
        if !tables.is_vip(dst) && !tables.is_lip(dst) {
            return self.drop(DropReason::NotOurs);
        }
        if !tables.vip_pingable(dst) {
            return self.drop(DropReason::EchoUnserved);
        }
        if !unknown::may_be_client(tables, src) {
            return self.drop(DropReason::BadSource);
        }
        let Some(hop) = tables.next_hop(src) else { return self.drop(DropReason::NoRoute) };
        match answer::echo(frame, &hop) {
            Some(()) => {
                self.counters.add(Count::AnsweredEcho, 1);
                Verdict::Transmit
            }
            None => self.drop(DropReason::Internal),
        }
    }

    /// Notes a session whose homes are to be told of it: it has begun, or its handshake is complete.
    fn note_young(&mut self, slot: Slot) {
        if self.young.len() < YOUNG {
            self.young.push(slot);
        } else {
            self.counters.add(Count::RegistrationsDropped, 1);
        }
    }

    /// Hands out the sessions whose homes are to be told of them; false: this one found no room. To be
    /// called at least once a batch.
    pub fn take_young(&mut self, mut take: impl FnMut(Slot) -> bool) {
        let dropped = self.young.drain(..).filter(|slot| !take(*slot)).count();
        self.counters.add(Count::RegistrationsDropped, dropped as u64);
    }

    /// Counts a question that found no room on its way to the others.
    pub fn count_refused_question(&mut self) {
        self.counters.add(Count::QuestionsRefused, 1);
    }

    /// Packets that wait now.
    pub fn parked(&self) -> u32 {
        self.room.len()
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The table this core works on.
    pub fn table(&self) -> &Arc<SessionTable> {
        &self.table
    }

    /// The worker's part in the quiescence protocol, to go offline for a long sleep.
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Whether UDP misses ask the others in any case (for a while after a membership or announcement
    /// change).
    pub fn set_udp_ask(&mut self, ask: bool) {
        self.udp_ask = ask;
    }

    /// Corrects the Unix time (ms) at which the monotonic clock was 0.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms: u64) {
        self.config.unix_ms_at_zero = unix_ms;
    }

    /// Counts frames that were thrown away unread (`frames` of them, `bytes` together).
    pub fn count_discarded(&mut self, reason: DropReason, frames: u64, bytes: u64) {
        self.counters.add(Count::ReceivedPackets, frames);
        self.counters.add(Count::ReceivedBytes, bytes);
        self.counters.drop_many(reason, frames);
        self.shared.publish(&self.counters);
    }

    /// Counts a frame that was to be transmitted and could not be.
    pub fn count_unsent(&mut self, reason: DropReason) {
        self.counters.add(Count::Unsent, 1);
        self.counters.drop_many(reason, 1);
    }
}
