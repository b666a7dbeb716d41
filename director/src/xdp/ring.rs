//! The rings between us and the kernel: an array of entries, a producer index and a consumer index
//! that count up for ever and wrap at 2^32.
//!
//! One [`Cursor`] type does all the index work, for either role; [`FillRing`], [`CompletionRing`],
//! [`RxRing`] and [`TxRing`] give it the right entry type and the right half of its methods.
//! [`pair`] makes the two ends of a ring without a kernel, so that the I/O loop is tested in memory.
//!
//! The memory model is that of the kernel's net/xdp/xsk_queue.h: entries are written before the
//! producer index is stored with release, and read after it was loaded with acquire; the same for
//! the consumer index in the other direction.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::sys::Mapping;

/// A packet in a chunk of the UMEM: `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Where its first byte is, from the start of the UMEM.
    pub(crate) address: u64,
    /// Its length in bytes.
    pub(crate) length: u32,
    /// Flags; 0.
    pub(crate) options: u32,
}

/// Where the parts of a ring lie in its memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) entries: usize,
}

/// Our end of a ring: the shared indices, our own index, and what we last knew of the other's.
///
/// A producer's `own` is what it has written (published or not), a consumer's what it has read.
#[derive(Debug)]
struct Cursor<T> {
    _memory: Arc<Mapping>,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    own: u32,
    other: u32,
}

// SAFETY: the pointers lead into `_memory`, which is Send and lives as long as the cursor. The
// indices are atomics, and an entry is touched by one side at a time (module documentation).
unsafe impl<T: Send> Send for Cursor<T> {}

impl<T: Copy> Cursor<T> {
    /// A cursor over `memory`; `size` entries, a power of two. Takes its place from the shared indices.
    fn new(
        memory: Arc<Mapping>,
        layout: Layout,
        size: u32,
        produces: bool,
    ) -> io::Result<Cursor<T>> {
        let outside = || io::Error::other("the ring's layout does not fit its memory");
        if !size.is_power_of_two() {
            return Err(io::Error::other("the ring's size is no power of two"));
        }
        let mut cursor = Cursor {
            producer: memory.at(layout.producer, 1).ok_or_else(outside)?,
            consumer: memory.at(layout.consumer, 1).ok_or_else(outside)?,
            flags: memory.at(layout.flags, 1).ok_or_else(outside)?,
            entries: memory.at(layout.entries, size as usize).ok_or_else(outside)?,
            size,
            own: 0,
            other: 0,
            _memory: memory,
        };
        let (producer, consumer) = (cursor.load_producer(), cursor.load_consumer());
        (cursor.own, cursor.other) =
            if produces { (producer, consumer) } else { (consumer, producer) };
        Ok(cursor)
    }

    fn load_producer(&self) -> u32 {
        // SAFETY: points to an aligned index inside `_memory` (checked in `new`).
        unsafe { self.producer.as_ref() }.load(Ordering::Acquire)
    }

    fn load_consumer(&self) -> u32 {
        // SAFETY: points to an aligned index inside `_memory` (checked in `new`).
        unsafe { self.consumer.as_ref() }.load(Ordering::Acquire)
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below `size`, and `size` entries lie inside `_memory`.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    /// Producer: writes an entry that is not yet visible to the other side. False: the ring is full.
    fn push(&mut self, value: T) -> bool {
        if self.own.wrapping_sub(self.other) >= self.size {
            self.other = self.load_consumer();
            if self.own.wrapping_sub(self.other) >= self.size {
                return false;
            }
        }
        // SAFETY: the consumer is past this entry (checked above) and does not touch it until
        // `publish` passes it on.
        unsafe { self.entry(self.own).write(value) };
        self.own = self.own.wrapping_add(1);
        true
    }

    /// Producer: makes everything written visible.
    fn publish(&mut self) {
        // SAFETY: points to an aligned index inside `_memory` (checked in `new`).
        unsafe { self.producer.as_ref() }.store(self.own, Ordering::Release);
    }

    /// Producer: entries the other side has not consumed yet, unpublished ones included.
    fn outstanding(&mut self) -> u32 {
        self.other = self.load_consumer();
        self.own.wrapping_sub(self.other)
    }

    /// Consumer: the next entry; its place is not given back before [`Cursor::release`].
    fn pop(&mut self) -> Option<T> {
        if self.own == self.other {
            self.other = self.load_producer();
            if self.own == self.other {
                return None;
            }
        }
        // SAFETY: the producer has published this entry (checked above) and does not touch it
        // until `release` gives it back.
        let value = unsafe { self.entry(self.own).read() };
        self.own = self.own.wrapping_add(1);
        Some(value)
    }

    /// Consumer: gives the places of everything read back.
    fn release(&mut self) {
        // SAFETY: points to an aligned index inside `_memory` (checked in `new`).
        unsafe { self.consumer.as_ref() }.store(self.own, Ordering::Release);
    }

    /// Consumer: entries that wait.
    fn waiting(&mut self) -> u32 {
        self.other = self.load_producer();
        self.other.wrapping_sub(self.own)
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: points to an aligned word inside `_memory` (checked in `new`).
        let flags = unsafe { self.flags.as_ref() }.load(Ordering::Relaxed);
        flags & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Free chunks on their way to the kernel, by address.
#[derive(Debug)]
pub(crate) struct FillRing(Cursor<u64>);

impl FillRing {
    pub(crate) fn new(memory: Arc<Mapping>, layout: Layout, size: u32) -> io::Result<FillRing> {
        Cursor::new(memory, layout, size, true).map(FillRing)
    }

    /// Writes a chunk's address; false if the ring is full.
    pub(crate) fn push(&mut self, address: u64) -> bool {
        self.0.push(address)
    }

    /// How many more addresses it takes.
    pub(crate) fn room(&mut self) -> u32 {
        self.0.size - self.0.outstanding().min(self.0.size)
    }

    pub(crate) fn publish(&mut self) {
        self.0.publish();
    }
}

/// Chunks whose packets were sent, by address.
#[derive(Debug)]
pub(crate) struct CompletionRing(Cursor<u64>);

impl CompletionRing {
    pub(crate) fn new(
        memory: Arc<Mapping>,
        layout: Layout,
        size: u32,
    ) -> io::Result<CompletionRing> {
        Cursor::new(memory, layout, size, false).map(CompletionRing)
    }

    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.0.pop()
    }

    pub(crate) fn release(&mut self) {
        self.0.release();
    }
}

/// Received packets.
#[derive(Debug)]
pub(crate) struct RxRing(Cursor<Descriptor>);

impl RxRing {
    pub(crate) fn new(memory: Arc<Mapping>, layout: Layout, size: u32) -> io::Result<RxRing> {
        Cursor::new(memory, layout, size, false).map(RxRing)
    }

    pub(crate) fn pop(&mut self) -> Option<Descriptor> {
        self.0.pop()
    }

    pub(crate) fn release(&mut self) {
        self.0.release();
    }

    /// How many packets wait.
    pub(crate) fn waiting(&mut self) -> u32 {
        self.0.waiting()
    }
}

/// Packets to be sent.
#[derive(Debug)]
pub(crate) struct TxRing(Cursor<Descriptor>);

impl TxRing {
    pub(crate) fn new(memory: Arc<Mapping>, layout: Layout, size: u32) -> io::Result<TxRing> {
        Cursor::new(memory, layout, size, true).map(TxRing)
    }

    /// Writes a packet; false if the ring is full.
    pub(crate) fn push(&mut self, packet: Descriptor) -> bool {
        self.0.push(packet)
    }

    pub(crate) fn publish(&mut self) {
        self.0.publish();
    }

    /// Packets that the kernel has not taken yet.
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.0.outstanding()
    }

    /// Whether the kernel sends only when told to.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.0.needs_wakeup()
    }
}

/// The kernel's ends of the four rings, for tests in memory.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    const LAYOUT: Layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };

    /// Memory of a ring whose indices begin at `start`, and whose producer needs wake-ups.
    fn memory<T>(size: u32, start: u32) -> Arc<Mapping> {
        let bytes = LAYOUT.entries + size as usize * size_of::<T>();
        let mapping = Mapping::anonymous(bytes).expect("memory for a ring");
        let set = |offset: usize, value: u32| {
            let word = mapping.at::<AtomicU32>(offset, 1).expect("inside");
            // SAFETY: aligned, inside the mapping, and nobody else knows it yet.
            unsafe { word.as_ref() }.store(value, Ordering::Relaxed);
        };
        set(LAYOUT.producer, start);
        set(LAYOUT.consumer, start);
        set(LAYOUT.flags, libc::XDP_RING_NEED_WAKEUP);
        Arc::new(mapping)
    }

    /// What writes into a ring.
    pub(crate) struct Producer<T>(Cursor<T>);
    /// What reads from a ring.
    pub(crate) struct Consumer<T>(Cursor<T>);

    impl<T: Copy> Producer<T> {
        pub(crate) fn push(&mut self, value: T) -> bool {
            self.0.push(value)
        }
        pub(crate) fn publish(&mut self) {
            self.0.publish();
        }
        pub(crate) fn outstanding(&mut self) -> u32 {
            self.0.outstanding()
        }
    }

    impl<T: Copy> Consumer<T> {
        pub(crate) fn pop(&mut self) -> Option<T> {
            self.0.pop()
        }
        pub(crate) fn release(&mut self) {
            self.0.release();
        }
        pub(crate) fn waiting(&mut self) -> u32 {
            self.0.waiting()
        }
    }

    /// Both ends of a ring of `size` entries whose indices begin at `start`.
    pub(crate) fn pair<T: Copy>(size: u32, start: u32) -> (Producer<T>, Consumer<T>) {
        let memory = memory::<T>(size, start);
        let end = |produces| Cursor::new(memory.clone(), LAYOUT, size, produces).expect("fits");
        (Producer(end(true)), Consumer(end(false)))
    }

    pub(crate) fn fill(size: u32, start: u32) -> (FillRing, Consumer<u64>) {
        let (ours, kernels) = pair(size, start);
        (FillRing(ours.0), kernels)
    }

    pub(crate) fn completion(size: u32, start: u32) -> (CompletionRing, Producer<u64>) {
        let (kernels, ours) = pair(size, start);
        (CompletionRing(ours.0), kernels)
    }

    pub(crate) fn rx(size: u32, start: u32) -> (RxRing, Producer<Descriptor>) {
        let (kernels, ours) = pair(size, start);
        (RxRing(ours.0), kernels)
    }

    pub(crate) fn tx(size: u32, start: u32) -> (TxRing, Consumer<Descriptor>) {
        let (ours, kernels) = pair(size, start);
        (TxRing(ours.0), kernels)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::testing::*;
    use super::*;

    #[test]
    fn nothing_is_seen_before_it_is_published_nor_reused_before_it_is_released() {
        let (mut producer, mut consumer) = pair::<u64>(2, u32::MAX);
        assert!(producer.push(1));
        assert_eq!(consumer.pop(), None);
        producer.publish();
        assert!(producer.push(2));
        assert!(!producer.push(3), "full");
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(consumer.pop(), None, "2 is not published");
        assert!(!producer.push(3), "1 is not released");
        consumer.release();
        assert!(producer.push(3));
        producer.publish();
        assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn a_ring_that_does_not_fit_its_memory_is_refused() {
        let memory = Arc::new(Mapping::anonymous(4096).unwrap());
        let layout = Layout { producer: 0, consumer: 64, flags: 128, entries: 192 };
        assert!(RxRing::new(memory.clone(), layout, 256).is_err());
        assert!(RxRing::new(memory.clone(), layout, 3).is_err());
        assert!(RxRing::new(memory, layout, 128).is_ok());
    }

    #[test]
    fn two_threads_pass_everything_on_in_order_across_the_wrap() {
        const COUNT: u64 = 100_000;
        let (mut producer, mut consumer) = pair::<u64>(64, u32::MAX - 1_000);
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                while next < COUNT && producer.push(next) {
                    next += 1;
                }
                producer.publish();
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            while let Some(value) = consumer.pop() {
                assert_eq!(value, expected);
                expected += 1;
            }
            consumer.release();
            std::thread::yield_now();
        }
        writer.join().unwrap();
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u64),
        Publish,
        Pop,
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<u64>().prop_map(Step::Push),
            2 => Just(Step::Publish),
            4 => Just(Step::Pop),
            2 => Just(Step::Release),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// Against a queue that knows nothing of indices, from any start, most often near the wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(
            start in prop_oneof![any::<u32>(), (0u32..64).prop_map(|n| u32::MAX - n)],
            bits in 0u32..6,
            steps in steps(),
        ) {
            let size = 1 << bits;
            let (mut producer, mut consumer) = pair::<u64>(size, start);
            let mut written = VecDeque::new();
            let mut published = VecDeque::new();
            let mut read = 0;
            for step in steps {
                match step {
                    Step::Push(value) => {
                        let used = written.len() + published.len() + read;
                        let fits = used < size as usize;
                        prop_assert_eq!(producer.push(value), fits);
                        if fits {
                            written.push_back(value);
                        }
                    }
                    Step::Publish => {
                        producer.publish();
                        published.append(&mut written);
                    }
                    Step::Pop => {
                        let expected = published.pop_front();
                        read += usize::from(expected.is_some());
                        prop_assert_eq!(consumer.pop(), expected);
                    }
                    Step::Release => {
                        consumer.release();
                        read = 0;
                    }
                }
                prop_assert_eq!(consumer.waiting() as usize, published.len());
                let outstanding = written.len() + published.len() + read;
                prop_assert_eq!(producer.outstanding() as usize, outstanding);
            }
        }
    }
}
