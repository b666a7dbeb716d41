//! Buckets: the small number that both directions of a session lead to.
//!
//! `bucket = keyed_hash(protocol, client address, client port) & 63`. A FullNAT reply does not
//! carry the client's address, therefore the local port is chosen so that
//! `local_port & 63 == bucket`.

use std::hash::Hasher;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::flow::{Addr, Protocol};

/// How many buckets there are. Fixed for ever: local ports carry the bucket in their low bits.
pub const BUCKETS: usize = 64;

/// A bucket, `0..BUCKETS`.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize,
)]
pub struct Bucket(u8);

impl Bucket {
    /// The bucket a FullNAT reply leads to: the low bits of the local port it is sent to.
    #[inline]
    pub fn of_local_port(port: u16) -> Bucket {
        Bucket((port & (BUCKETS as u16 - 1)) as u8)
    }

    /// The bucket as an index, below [`BUCKETS`].
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All buckets.
    pub fn all() -> impl Iterator<Item = Bucket> {
        (0..BUCKETS as u8).map(Bucket)
    }
}

/// The cluster's key for bucket hashing. Made at `cluster init`; it can never rotate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct BucketKey(pub [u8; 16]);

impl BucketKey {
    /// The bucket of a client's flow (SipHash-1-3: clients choose their ports, so the hash is keyed).
    #[inline]
    pub fn bucket(&self, protocol: Protocol, client: &Addr, client_port: u16) -> Bucket {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(&client.0);
        hasher.write_u32(u32::from(client_port) << 8 | u32::from(protocol.number()));
        Bucket((hasher.finish() & (BUCKETS as u64 - 1)) as u8)
    }
}

/// A session group (Raft shard), `0..shard_count`.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize,
)]
pub struct ShardId(pub u16);

/// A set of shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardSet(u64);

impl ShardSet {
    /// No shard.
    pub const NONE: ShardSet = ShardSet(0);
    /// Every shard there can be.
    pub const ALL: ShardSet = ShardSet(u64::MAX);

    /// With this shard, too.
    pub fn with(self, shard: ShardId) -> ShardSet {
        ShardSet(self.0 | Self::bit(shard))
    }

    /// Without this shard.
    pub fn without(self, shard: ShardId) -> ShardSet {
        ShardSet(self.0 & !Self::bit(shard))
    }

    /// Whether this shard is in it.
    #[inline]
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 & Self::bit(shard) != 0
    }

    /// There are at most as many shards as [`BUCKETS`].
    fn bit(shard: ShardId) -> u64 {
        1u64.checked_shl(shard.0.into()).unwrap_or(0)
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> ShardSet {
        shards.into_iter().fold(ShardSet::NONE, ShardSet::with)
    }
}

/// Which shard each bucket belongs to. Fixed at `cluster init`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ShardTable {
    shards: Vec<u16>,
}

impl ShardTable {
    /// Spreads the buckets over `count` shards (1 to [`BUCKETS`]) in turn.
    pub fn spread(count: u16) -> ShardTable {
        let count = count.clamp(1, BUCKETS as u16);
        ShardTable { shards: (0..BUCKETS as u16).map(|b| b % count).collect() }
    }

    /// The shard of a bucket.
    #[inline]
    pub fn shard(&self, bucket: Bucket) -> ShardId {
        ShardId(self.shards.get(bucket.index()).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_port_carries_the_bucket() {
        for bucket in Bucket::all() {
            let port = 1024 + bucket.index() as u16;
            assert_eq!(Bucket::of_local_port(port), bucket);
        }
    }

    #[test]
    fn hash_is_pinned() {
        // Two versions of Holdfast in one cluster must agree, so the value may never change.
        let key = BucketKey([7; 16]);
        let client = Addr::from_v4_octets([192, 0, 2, 1]);
        let a = key.bucket(Protocol::Tcp, &client, 40000).index();
        let b = key.bucket(Protocol::Udp, &client, 40000).index();
        assert_eq!((a, b), PINNED);
    }

    const PINNED: (usize, usize) = (36, 39);

    #[test]
    fn a_set_holds_any_shard_there_can_be() {
        let set: ShardSet = [ShardId(0), ShardId(63)].into_iter().collect();
        assert!(set.contains(ShardId(0)) && set.contains(ShardId(63)));
        assert!(!set.contains(ShardId(1)) && !ShardSet::NONE.contains(ShardId(63)));
        assert!(!ShardSet::ALL.contains(ShardId(64)), "there is none");
        assert_eq!(set.without(ShardId(63)), ShardSet::NONE.with(ShardId(0)));
    }

    #[test]
    fn every_shard_gets_buckets() {
        let table = ShardTable::spread(16);
        let mut counts = [0; 16];
        Bucket::all().for_each(|b| counts[usize::from(table.shard(b).0)] += 1);
        assert_eq!(counts, [4; 16]);
    }
}
