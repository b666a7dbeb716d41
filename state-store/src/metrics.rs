//! Counters of the store: plain atomics, read by whoever exports them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds (us) of the commit latency buckets; the last bucket has none.
pub const LATENCY_BOUNDS_US: [u64; 12] =
    [250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// A histogram with fixed bounds.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    /// Counts one observation.
    pub fn observe_us(&self, us: u64) {
        let at = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Observations per bucket (not cumulative; the last has no upper bound) and the sum (us).
    pub fn read(&self) -> ([u64; LATENCY_BOUNDS_US.len() + 1], u64) {
        let buckets = std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed));
        (buckets, self.sum_us.load(Ordering::Relaxed))
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one director's store.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
            /// Time from proposal to apply of the entries this director proposed as leader.
            pub commit_latency: Latency,
        }

        impl Metrics {
            /// Every counter with its name (without prefix), for export.
            pub fn each(&self, mut see: impl FnMut(&'static str, u64)) {
                $(see(stringify!($name), self.$name.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    /// Session changes taken by `propose`.
    proposed_changes,
    /// Session changes refused because the queue of their shard was full.
    proposals_busy,
    /// Forwarded batches dropped: no leader here, or no room.
    forwarded_dropped,
    /// Session changes applied.
    applied_changes,
    /// Log entries applied, all groups.
    applied_entries,
    /// Times a group's leader changed as seen here.
    leader_changes,
    /// Snapshots sent to peers.
    snapshots_sent,
    /// Snapshots that could not be sent.
    snapshots_failed,
    /// Snapshots installed here.
    snapshots_installed,
    /// Checkpoints written.
    checkpoints,
    /// Log writes that waited for the disk (fsync).
    synced_writes,
    /// Log writes that took longer than 200 ms.
    slow_writes,
    /// Times the groups' work had to wait because too many writes were outstanding.
    write_queue_full,
    /// Raft messages dropped because generation, group or replica did not match.
    messages_mismatched,
    /// Raft messages dropped because a queue of this director was full.
    messages_dropped,
    /// Peers' messages that could not be read.
    messages_malformed,
    /// Misses asked.
    misses_asked,
    /// Misses answered with a record.
    misses_found,
    /// Misses denied by every authority.
    misses_denied,
    /// Misses without a sure answer.
    misses_unsure,
    /// Times a home asked for everything anew because it had missed registrations.
    registrations_missed,
    /// Creates dropped because the shard was full.
    shard_full,
    /// Configuration changes of groups proposed here.
    conf_changes,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_land_in_the_first_bucket_that_holds_them() {
        let latency = Latency::default();
        for us in [1, 250, 251, 10_000_000] {
            latency.observe_us(us);
        }
        let (buckets, sum) = latency.read();
        assert_eq!((buckets[0], buckets[1], buckets[12]), (2, 1, 1));
        assert_eq!(sum, 10_000_502);
    }
}
