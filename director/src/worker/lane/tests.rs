//! The lane against a kernel played by the test, in memory.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::worker::SendPacket;
use crate::xdp::ring::testing::{self, Consumer, Producer};

const CHUNKS: u32 = 16;
const CHUNK_BYTES: u32 = 2048;

/// The kernel's ends of the rings.
struct Kernel {
    fill: Consumer<u64>,
    completion: Producer<u64>,
    rx: Producer<Descriptor>,
    tx: Consumer<Descriptor>,
}

fn lane(start: u32) -> (Lane, Kernel, Arc<IoCounters>) {
    let (umem, chunks) = Umem::new(CHUNKS, CHUNK_BYTES).unwrap();
    let half = CHUNKS / 2;
    let (fill, kernel_fill) = testing::fill(half, start);
    let (completion, kernel_completion) = testing::completion(CHUNKS, start);
    let (rx, kernel_rx) = testing::rx(half, start);
    let (tx, kernel_tx) = testing::tx(half, start);
    let counters = Arc::new(IoCounters::default());
    let rings = Rings { umem, chunks, fill, completion, rx, tx };
    let kernel =
        Kernel { fill: kernel_fill, completion: kernel_completion, rx: kernel_rx, tx: kernel_tx };
    (Lane::new(rings, counters.clone()), kernel, counters)
}

impl Kernel {
    /// Receives a packet of `length` bytes, if there is a chunk for it.
    fn deliver(&mut self, length: u32) -> bool {
        if self.rx.outstanding() == CHUNKS / 2 {
            return false;
        }
        let Some(address) = self.fill.pop() else { return false };
        self.fill.release();
        let sent = self.rx.push(Descriptor { address: address + 256, length, options: 0 });
        self.rx.publish();
        sent
    }

    /// Takes packets out of the transmit ring.
    fn sent(&mut self, most: usize) -> Vec<Descriptor> {
        let packets = std::iter::from_fn(|| self.tx.pop()).take(most).collect();
        self.tx.release();
        packets
    }

    fn complete(&mut self, address: u64) {
        assert!(self.completion.push(address), "the completion ring has room for all");
        self.completion.publish();
    }
}

/// Sends frames of an even length back, two bytes shorter, and keeps the others.
#[derive(Default)]
struct Even {
    unsent: u64,
}

impl PacketCore for Even {
    fn process(&mut self, _: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            let length = frame.len();
            if length > 2 && length % 2 == 0 {
                assert!(frame.resize(length - 2));
                *verdict = Verdict::Transmit;
            }
        }
    }
    fn turn(&mut self, _: u64, _: usize, _: &mut SendPacket<'_>) {}
    fn waiting(&self) -> bool {
        false
    }
    fn unsent(&mut self, reason: DropReason) {
        assert_eq!(reason, DropReason::TxRingFull);
        self.unsent += 1;
    }
    fn discarded(&mut self, _: u64, _: u64) {}
}

fn never() -> io::Result<()> {
    panic!("the kernel is told to send although there is nothing")
}

#[test]
fn a_frame_is_sent_from_where_it_was_received() {
    let (mut lane, mut kernel, counters) = lane(u32::MAX - 3);
    assert!(kernel.deliver(60) && kernel.deliver(61));
    assert_eq!(lane.forward(0, &mut Even::default()), 2);
    assert!(!lane.flush(|| Ok(())) || kernel.tx.waiting() == 1);
    let sent = kernel.sent(9);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].length, sent[0].address % u64::from(CHUNK_BYTES)), (58, 256));
    assert!(!lane.flush(never), "all was taken");
    kernel.complete(sent[0].address);
    lane.recycle();
    let now = counters.snapshot();
    assert_eq!((now.received, now.transmitted, now.bad_descriptor), (2, 1, 0));
    assert_eq!(lane.free_chunks() + kernel.fill.waiting() as usize, CHUNKS as usize);
}

#[test]
fn a_full_transmit_ring_is_a_counted_drop_and_loses_no_chunk() {
    let (mut lane, mut kernel, counters) = lane(7);
    // The kernel's sending side stands still: 8 packets fit.
    let mut core = Even::default();
    for _ in 0..3 {
        while kernel.deliver(60) {}
        lane.forward(0, &mut core);
        lane.recycle();
    }
    let now = counters.snapshot();
    assert_eq!(now.transmitted, u64::from(CHUNKS / 2));
    assert_eq!(now.tx_ring_full, now.received - now.transmitted);
    assert!(now.tx_ring_full > 0);
    assert_eq!(core.unsent, now.tx_ring_full, "the core counts it as a drop");
    let lent = kernel.fill.waiting() as usize + CHUNKS as usize / 2;
    assert_eq!(lane.free_chunks() + lent, CHUNKS as usize);
}

#[test]
fn copies_are_sent_or_counted() {
    let (mut lane, mut kernel, counters) = lane(0);
    assert_eq!(lane.send_copy(&[0; CHUNK_BYTES as usize + 1]), Err(DropReason::BadLength));
    assert_eq!(lane.send_copy(&[]), Err(DropReason::BadLength));
    for n in 0..CHUNKS / 2 {
        assert_eq!(lane.send_copy(&[n as u8; 100]), Ok(()));
    }
    let none = lane.send_copy(&[1; 100]);
    assert_eq!(
        none,
        Err(DropReason::NoFreeChunk),
        "half of the chunks wait for packets, half are sent"
    );
    assert_eq!(counters.snapshot().no_free_chunk, 1);
    assert_eq!(counters.snapshot().bad_length, 2);
    assert!(lane.flush(|| Ok(())), "the kernel takes nothing");
    assert_eq!(kernel.sent(99).len(), CHUNKS as usize / 2);
}

#[test]
fn discarding_empties_the_receive_ring() {
    let (mut lane, mut kernel, counters) = lane(u32::MAX);
    while kernel.deliver(60) {}
    assert_eq!(lane.discard(), (u64::from(CHUNKS / 2), u64::from(CHUNKS / 2) * 60));
    assert_eq!(lane.forward(0, &mut Even::default()), 0);
    assert_eq!(counters.snapshot().stale, u64::from(CHUNKS / 2));
    lane.recycle();
    assert!(kernel.deliver(60), "the chunks are with the kernel again");
}

#[test]
fn a_descriptor_that_makes_no_sense_is_counted() {
    let (mut lane, mut kernel, counters) = lane(0);
    for address in [u64::MAX, u64::from(CHUNKS * CHUNK_BYTES), 15 * u64::from(CHUNK_BYTES)] {
        // The last one is a chunk that was never lent, or was and comes twice.
        kernel.rx.push(Descriptor { address, length: 60, options: 0 });
        kernel.rx.push(Descriptor { address, length: 60, options: 0 });
    }
    kernel.rx.publish();
    lane.forward(0, &mut Even::default());
    assert!(counters.snapshot().bad_descriptor >= 5);
}

#[test]
fn kicking_stops_when_the_kernel_makes_no_progress() {
    let (mut lane, mut kernel, counters) = lane(0);
    for _ in 0..4 {
        let _ = lane.send_copy(&[0; 60]);
    }
    let mut calls = 0;
    let left = lane.flush(|| {
        calls += 1;
        if calls <= 2 {
            kernel.sent(1);
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    });
    assert!(left);
    assert_eq!(calls, 3);
    assert_eq!(counters.snapshot().kicks_busy, 1);
    assert!(lane.flush(|| Err(io::Error::from_raw_os_error(libc::ENETDOWN))));
    assert_eq!(counters.snapshot().kicks_failed, 1);
}

proptest! {
    /// Whatever the order of events, every chunk is in one place, and every packet is accounted for.
    #[test]
    fn chunks_are_neither_lost_nor_doubled(
        start in prop_oneof![any::<u32>(), (0u32..64).prop_map(|n| u32::MAX - n)],
        events in proptest::collection::vec((0u8..6, 0u32..300), 0..300),
    ) {
        let (mut lane, mut kernel, counters) = lane(start);
        let mut delivered = 0;
        let mut in_flight: Vec<u64> = Vec::new();
        for (event, value) in events {
            match event {
                0 => delivered += u64::from(kernel.deliver(value)),
                1 => { lane.forward(0, &mut Even::default()); }
                2 => {
                    lane.flush(|| Ok(()));
                    in_flight.extend(kernel.sent(value as usize).iter().map(|d| d.address));
                }
                3 => if !in_flight.is_empty() {
                    let address = in_flight.swap_remove(value as usize % in_flight.len());
                    kernel.complete(address);
                },
                4 => lane.recycle(),
                _ => { let _ = lane.send_copy(&vec![0; value as usize]); }
            }
        }
        // Let everything come to rest.
        lane.forward(0, &mut Even::default());
        lane.flush(|| Ok(()));
        in_flight.extend(kernel.sent(usize::MAX).iter().map(|d| d.address));
        for address in in_flight {
            kernel.complete(address);
        }
        lane.recycle();
        let now = counters.snapshot();
        prop_assert_eq!(now.received, delivered);
        prop_assert_eq!(now.bad_descriptor, 0);
        let mut places = BTreeSet::new();
        while let Some(address) = kernel.fill.pop() {
            places.insert(address / u64::from(CHUNK_BYTES));
        }
        let filled = places.len();
        for chunk in std::mem::take(&mut lane.free) {
            places.insert(lane.umem.lend(chunk) / u64::from(CHUNK_BYTES));
        }
        prop_assert_eq!(filled, CHUNKS as usize / 2);
        prop_assert_eq!(places.len(), CHUNKS as usize);
    }
}
