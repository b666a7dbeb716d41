//! What a worker counts about its rings. (What the packet core decides is counted there.)

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker; written by its thread alone, read by anyone.
        #[derive(Debug, Default)]
        pub struct IoCounters { $($(#[$doc])* pub(crate) $name: AtomicU64,)* }

        /// The counters of one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct IoSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl IoCounters {
            /// What they stand at.
            pub fn snapshot(&self) -> IoSnapshot {
                IoSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl std::ops::AddAssign for IoSnapshot {
            fn add_assign(&mut self, other: IoSnapshot) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Frames taken from the receive ring.
    received,
    /// Frames put into the transmit ring.
    transmitted,
    /// Frames that were to be sent, dropped because the transmit ring was full.
    tx_ring_full,
    /// Frames that were to be sent, dropped because no chunk was free for them.
    no_free_chunk,
    /// Frames that were to be sent, dropped because they are longer than a chunk or empty.
    bad_length,
    /// Received frames thrown away because they had waited through a stall.
    stale,
    /// Descriptors of the kernel that named memory it did not have.
    bad_descriptor,
    /// Rounds after a stall (300 ms without one).
    stalls,
    /// Wake-ups of the kernel's sending side.
    kicks,
    /// Wake-ups after which the kernel could not send more for the moment.
    kicks_busy,
    /// Wake-ups that failed (the interface is down).
    kicks_failed,
    /// Rounds of the loop.
    rounds,
    /// Times the thread waited in poll().
    waits,
}

/// Adds to a counter that only the calling thread writes: a load and a store, no locked instruction.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}
