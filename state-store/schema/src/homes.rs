//! The homes of a bucket: directors that keep its young sessions in memory for others to ask.
//!
//! They are found by rendezvous hashing (Thaler and Ravishankar, 1998) over the members that are not
//! down: every director computes the same order, and a member that comes or goes moves only the
//! buckets that it has a part in. The homes of a session are the first two of its bucket's order that
//! are not its owner, for a home that is the owner is no copy. Whoever looks for a session does not
//! know the owner, so he asks the first three: the two homes of any owner are among them.

use crate::bucket::Bucket;
use crate::cluster::{ClusterState, DirectorId};

/// Copies of a young session besides its owner's.
pub const HOMES: usize = 2;

/// Directors to ask for a young session of unknown owner.
pub const ASKED: usize = HOMES + 1;

/// The homes-to-be of every bucket for one set of live members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomeTable {
    /// The first [`ASKED`] of each bucket's order, best first.
    order: Vec<Vec<DirectorId>>,
}

impl HomeTable {
    /// The order over the members that are not down.
    pub fn of(cluster: &ClusterState) -> HomeTable {
        Self::over(cluster.members.values().filter(|m| !m.down).map(|m| m.id))
    }

    /// The order over these directors.
    pub fn over(live: impl Iterator<Item = DirectorId>) -> HomeTable {
        let live: Vec<DirectorId> = live.collect();
        let order = Bucket::all().map(|bucket| {
            let mut ranked = live.clone();
            // Ties are as good as impossible, and broken alike by everybody.
            ranked.sort_by_key(|id| (std::cmp::Reverse(score(bucket, *id)), *id));
            ranked.truncate(ASKED);
            ranked
        });
        HomeTable { order: order.collect() }
    }

    /// Who keeps a copy of this owner's young sessions of a bucket; fewer than two in small clusters.
    pub fn homes(
        &self,
        bucket: Bucket,
        owner: DirectorId,
    ) -> impl Iterator<Item = DirectorId> + '_ {
        self.asked(bucket).iter().copied().filter(move |id| *id != owner).take(HOMES)
    }

    /// Whom to ask for a young session of a bucket.
    pub fn asked(&self, bucket: Bucket) -> &[DirectorId] {
        self.order.get(bucket.index()).map_or(&[], Vec::as_slice)
    }
}

/// A director's weight for a bucket (the finaliser of SplitMix64: Steele, Lea and Flood, 2014).
///
/// It may never change: directors of two versions must agree.
fn score(bucket: Bucket, director: DirectorId) -> u64 {
    let mut z =
        ((bucket.index() as u64) << 32 | u64::from(director.0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(ids: &[u32]) -> HomeTable {
        HomeTable::over(ids.iter().map(|id| DirectorId(*id)))
    }

    #[test]
    fn a_lone_director_has_no_home_and_two_have_each_other() {
        let (one, two) = (DirectorId(1), DirectorId(2));
        for bucket in Bucket::all() {
            assert_eq!(table(&[1]).homes(bucket, one).count(), 0);
            assert_eq!(table(&[1, 2]).homes(bucket, one).collect::<Vec<_>>(), [two]);
        }
    }

    #[test]
    fn the_order_is_pinned() {
        let order: Vec<u32> = table(&[1, 2, 3, 4, 5])
            .order
            .iter()
            .take(4)
            .flat_map(|ids| ids.iter().map(|id| id.0))
            .collect();
        assert_eq!(order, PINNED, "directors of two versions must agree");
    }

    const PINNED: [u32; 12] = [2, 1, 4, 2, 3, 4, 3, 5, 1, 4, 5, 1];

    #[test]
    fn load_is_spread() {
        let table = table(&[1, 2, 3, 4, 5, 6, 7, 8]);
        for id in 1..=8 {
            let asked = Bucket::all().filter(|b| table.asked(*b).contains(&DirectorId(id))).count();
            assert!((10..=40).contains(&asked), "director {id} is asked for {asked} of 64 buckets");
        }
    }

    proptest! {
        /// Whoever asks the first three asks both homes, whoever the owner is.
        #[test]
        fn homes_are_among_the_asked(n in 1u32..12, owner in 1u32..14) {
            let ids: Vec<u32> = (1..=n).collect();
            let (table, owner) = (table(&ids), DirectorId(owner));
            for bucket in Bucket::all() {
                let homes: Vec<_> = table.homes(bucket, owner).collect();
                prop_assert!(!homes.contains(&owner));
                prop_assert!(homes.iter().all(|h| table.asked(bucket).contains(h)));
                let others = ids.iter().filter(|id| **id != owner.0).count();
                prop_assert_eq!(homes.len(), others.min(HOMES));
            }
        }

        /// A member that goes moves nothing but what it had.
        #[test]
        fn a_departure_moves_only_its_own(n in 4u32..12, gone in 1u32..12) {
            let before: Vec<u32> = (1..=n).collect();
            let after: Vec<u32> = before.iter().copied().filter(|id| *id != gone).collect();
            let (old, new) = (table(&before), table(&after));
            for bucket in Bucket::all() {
                let kept: Vec<_> =
                    old.asked(bucket).iter().filter(|id| id.0 != gone).copied().collect();
                prop_assert_eq!(&new.asked(bucket)[..kept.len()], &kept[..]);
            }
        }
    }
}
