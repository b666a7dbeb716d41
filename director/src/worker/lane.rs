//! One receive queue's rings and packet memory, and how frames move through them.
//!
//! A chunk is in one of four places: in the free list, lent to the kernel for receiving (fill ring,
//! receive ring), in our hands during a batch, or lent to the kernel for sending (transmit ring,
//! completion ring). A forwarded frame is rewritten where it lies and sent from there.

use std::io;
use std::sync::Arc;

use super::PacketCore;
use super::counters::{IoCounters, add};
use crate::core::{BATCH, DropReason, Frame, Verdict};
use crate::xdp::Rings;
use crate::xdp::ring::{CompletionRing, Descriptor, FillRing, RxRing, TxRing};
use crate::xdp::umem::{Chunk, Umem};

/// How often the kernel is told to send before the rest is left to the next round.
const MOST_KICKS: u32 = 32;

/// A received frame in our hands.
#[derive(Debug)]
struct Held {
    chunk: Chunk,
    start: usize,
    length: usize,
}

/// The rings and packet memory of one queue.
#[derive(Debug)]
pub(crate) struct Lane {
    umem: Umem,
    fill: FillRing,
    completion: CompletionRing,
    rx: RxRing,
    tx: TxRing,
    free: Vec<Chunk>,
    held: [Option<Held>; BATCH],
    counters: Arc<IoCounters>,
}

impl Lane {
    /// Takes the rings over and gives the kernel chunks to receive into.
    pub(crate) fn new(rings: Rings, counters: Arc<IoCounters>) -> Lane {
        let Rings { umem, chunks, fill, completion, rx, tx } = rings;
        let held = [const { None }; BATCH];
        let mut lane = Lane { umem, fill, completion, rx, tx, free: chunks, held, counters };
        lane.refill();
        lane
    }

    /// Takes sent chunks back and gives the kernel free ones to receive into.
    pub(crate) fn recycle(&mut self) {
        while let Some(address) = self.completion.pop() {
            match self.umem.reclaim(address) {
                Some((chunk, _)) => self.free.push(chunk),
                None => add(&self.counters.bad_descriptor, 1),
            }
        }
        self.completion.release();
        self.refill();
    }

    fn refill(&mut self) {
        let room = self.fill.room() as usize;
        if room == 0 || self.free.is_empty() {
            return;
        }
        for _ in 0..room {
            let Some(chunk) = self.free.pop() else { break };
            // There is room, so the push succeeds.
            self.fill.push(self.umem.lend(chunk));
        }
        self.fill.publish();
    }

    /// Receives a batch, has it judged, and puts what is to be sent into the transmit ring.
    /// Returns how many frames there were.
    pub(crate) fn forward<C: PacketCore>(&mut self, now_ns: u64, core: &mut C) -> usize {
        let count = self.receive();
        if count == 0 {
            return 0;
        }
        // The core gives every frame a verdict; one that it forgot would not be sent.
        let mut verdicts = [Verdict::Drop(DropReason::Internal); BATCH];
        let umem = &self.umem;
        let mut frames = self.held.each_mut().map(|held| match held {
            Some(Held { chunk, start, length }) => Frame::new(umem.bytes(chunk), *start, *length),
            None => Frame::new(&mut [], 0, 0),
        });
        core.process(now_ns, &mut frames[..count], &mut verdicts[..count]);
        let lengths = frames.map(|frame| frame.len());
        for index in 0..count {
            let Some(held) = self.held[index].take() else { continue };
            if verdicts[index] != Verdict::Transmit {
                self.free.push(held.chunk);
            } else if let Err(reason) = self.transmit(held.chunk, held.start, lengths[index]) {
                core.unsent(reason);
            }
        }
        count
    }

    /// Fills `held` from the receive ring, from its beginning.
    fn receive(&mut self) -> usize {
        let mut count = 0;
        while count < BATCH {
            let Some(descriptor) = self.rx.pop() else { break };
            let Some((chunk, start)) = self.umem.reclaim(descriptor.address) else {
                add(&self.counters.bad_descriptor, 1);
                continue;
            };
            self.held[count] = Some(Held { chunk, start, length: descriptor.length as usize });
            count += 1;
        }
        self.rx.release();
        add(&self.counters.received, count as u64);
        count
    }

    /// Throws away what waits in the receive ring now: how many frames, how many bytes.
    pub(crate) fn discard(&mut self) -> (u64, u64) {
        let waiting = self.rx.waiting();
        let mut bytes = 0;
        for _ in 0..waiting {
            let Some(descriptor) = self.rx.pop() else { break };
            bytes += u64::from(descriptor.length);
            match self.umem.reclaim(descriptor.address) {
                Some((chunk, _)) => self.free.push(chunk),
                None => add(&self.counters.bad_descriptor, 1),
            }
        }
        self.rx.release();
        add(&self.counters.received, u64::from(waiting));
        add(&self.counters.stale, u64::from(waiting));
        (u64::from(waiting), bytes)
    }

    fn transmit(&mut self, chunk: Chunk, start: usize, length: usize) -> Result<(), DropReason> {
        if length == 0 {
            self.free.push(chunk);
            add(&self.counters.bad_length, 1);
            return Err(DropReason::BadLength);
        }
        let address = self.umem.lend(chunk) + start as u64;
        if self.tx.push(Descriptor { address, length: length as u32, options: 0 }) {
            add(&self.counters.transmitted, 1);
            return Ok(());
        }
        self.free.extend(self.umem.reclaim(address).map(|(chunk, _)| chunk));
        add(&self.counters.tx_ring_full, 1);
        Err(DropReason::TxRingFull)
    }

    /// Sends a copy of `packet`, or tells why it was dropped.
    pub(crate) fn send_copy(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let Some(mut chunk) = self.free.pop() else {
            add(&self.counters.no_free_chunk, 1);
            return Err(DropReason::NoFreeChunk);
        };
        match self.umem.bytes(&mut chunk).get_mut(..packet.len()) {
            Some(to) => to.copy_from_slice(packet),
            None => {
                self.free.push(chunk);
                add(&self.counters.bad_length, 1);
                return Err(DropReason::BadLength);
            }
        }
        self.transmit(chunk, 0, packet.len())
    }

    /// Makes the kernel send what is in the transmit ring; `kick` tells it to.
    /// Returns whether something is left for the next round.
    pub(crate) fn flush(&mut self, mut kick: impl FnMut() -> io::Result<()>) -> bool {
        self.tx.publish();
        let mut left = self.tx.outstanding();
        for _ in 0..MOST_KICKS {
            if left == 0 || !self.tx.needs_wakeup() {
                break;
            }
            add(&self.counters.kicks, 1);
            let result = kick();
            let before = std::mem::replace(&mut left, self.tx.outstanding());
            match result {
                // EAGAIN after progress: its budget for one call is used up. The others: the
                // driver's queue is full for the moment.
                Err(e) if temporary(&e) => {
                    if left == before {
                        add(&self.counters.kicks_busy, 1);
                        break;
                    }
                }
                Err(_) => {
                    add(&self.counters.kicks_failed, 1);
                    break;
                }
                Ok(()) => {}
            }
        }
        left > 0
    }

    /// Chunks in the free list.
    #[cfg(test)]
    fn free_chunks(&self) -> usize {
        self.free.len()
    }
}

/// Whether the kernel will send later what it did not send now.
fn temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR))
}

#[cfg(test)]
mod tests;
