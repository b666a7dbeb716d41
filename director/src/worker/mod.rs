//! Workers: one thread a receive queue, which moves packets between the rings and the packet core.
//!
//! A `Lane` owns the rings and the packet memory of one queue, a [`PacketCore`] decides what
//! becomes of packets, and the thread in `run` drives both: receive a batch, have it judged,
//! send, tell the kernel once, give chunks back. It waits in poll() only when there is nothing to
//! do, and never longer than a few milliseconds, because every round leaves a [`Beat`].

mod beat;
mod counters;
mod forwarder;
pub(crate) mod lane;
mod pool;
mod run;

use crate::core::{DropReason, Frame, Verdict};

pub use beat::Beat;
pub use counters::{IoCounters, IoSnapshot};
pub(crate) use forwarder::{Forwarder, Incoming, Shared, Taker, rings};
pub use pool::{DEFAULT_CHUNKS, Pool, PoolConfig, PoolCounters, QueueCounters, Waker};

/// Sends a packet; or tells why it could not be sent, as which it is to be counted.
pub type SendPacket<'s> = dyn FnMut(&[u8]) -> Result<(), DropReason> + 's;

/// What decides about packets. One per worker; called by that worker's thread only.
///
/// No method may wait, and none may allocate in the ordinary course of packets.
pub trait PacketCore: Send {
    /// Judges frames, at most [`BATCH`](crate::core::BATCH). `verdicts` has their length.
    fn process(&mut self, now_ns: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]);

    /// Everything that is not a received packet: answers, questions, time limits. Called once a
    /// round, after the round's `received` packets. `send` sends a packet.
    fn turn(&mut self, now_ns: u64, received: usize, send: &mut SendPacket<'_>);

    /// Whether packets wait in the core for an answer, so that it wants more frequent turns.
    fn waiting(&self) -> bool;

    /// A frame with [`Verdict::Transmit`] could not be sent, for this reason.
    fn unsent(&mut self, reason: DropReason);

    /// Received frames were thrown away unread, because they had waited through a stall. So is to be
    /// whatever waits in the core.
    fn discarded(&mut self, frames: u64, bytes: u64);
}
