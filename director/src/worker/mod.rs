//! Workers: one thread a receive queue, which moves packets between the rings and the packet core.
//!
//! A `Lane` owns the rings and the packet memory of one queue, a [`PacketCore`] decides what
//! becomes of packets, and the thread in `run` drives both: receive a batch, have it judged,
//! send, tell the kernel once, give chunks back. It waits in poll() only when there is nothing to
//! do, and never longer than a few milliseconds, because every round leaves a [`Beat`].

mod beat;
mod counters;
pub(crate) mod lane;
mod pool;
mod run;

pub use beat::Beat;
pub use counters::{IoCounters, IoSnapshot};
pub use pool::{DEFAULT_CHUNKS, Pool, PoolConfig, PoolCounters, QueueCounters, Waker};

/// Most frames that are judged together.
pub const BATCH: usize = 64;

/// A received frame in its chunk of packet memory, with free room around it.
#[derive(Debug)]
pub struct Frame<'a> {
    chunk: &'a mut [u8],
    start: usize,
    length: usize,
}

impl<'a> Frame<'a> {
    /// The frame of `length` bytes at `start` of `chunk`; cut to what the chunk holds.
    pub fn new(chunk: &'a mut [u8], start: usize, length: usize) -> Frame<'a> {
        let start = start.min(chunk.len());
        let length = length.min(chunk.len() - start);
        Frame { chunk, start, length }
    }

    /// The frame's bytes, from the Ethernet header on.
    pub fn bytes(&self) -> &[u8] {
        &self.chunk[self.start..self.start + self.length]
    }

    /// The frame's bytes, to be rewritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.chunk[self.start..self.start + self.length]
    }

    /// The whole chunk, and where the frame lies in it.
    pub fn parts(self) -> (&'a mut [u8], usize, usize) {
        (self.chunk, self.start, self.length)
    }

    /// Where the frame lies in its chunk: first byte and length.
    pub fn place(&self) -> (usize, usize) {
        (self.start, self.length)
    }

    /// Moves the frame's bounds; cut to what the chunk holds.
    pub fn set_place(&mut self, start: usize, length: usize) {
        self.start = start.min(self.chunk.len());
        self.length = length.min(self.chunk.len() - self.start);
    }
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing more: the core has counted or copied it.
    #[default]
    Done,
    /// Send it, as it lies in its chunk now.
    Transmit,
}

/// What decides about packets. One per worker; called by that worker's thread only.
///
/// No method may wait or allocate in the ordinary course of packets.
pub trait PacketCore: Send {
    /// Judges frames, at most [`BATCH`]. `fates` has their length and is all [`Fate::Done`].
    fn process(&mut self, now_ns: u64, frames: &mut [Frame<'_>], fates: &mut [Fate]);

    /// Everything that is not a received packet: answers, questions, time limits. Called once a
    /// round. `send` sends a packet; false: it could not, which is counted by the worker.
    fn turn(&mut self, now_ns: u64, send: &mut dyn FnMut(&[u8]) -> bool);

    /// Whether packets wait in the core for an answer, so that it wants more frequent turns.
    fn waiting(&self) -> bool;

    /// The end of a round: no reference into shared tables is held across this call.
    fn quiescent(&mut self);
}
