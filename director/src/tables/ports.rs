//! Local ports of FullNAT: which ones to try for a new session.
//!
//! A class is (LIP, backend, bucket): the ports from 1024 up whose low six bits are the bucket, about
//! a thousand. Whether a port is free is decided by L2 (its reply key is there or not), so a cursor
//! that goes round is all there is to keep: it makes a port that was just freed the last to be tried.
//!
//! The ports of a class form two halves. After an unclean end a director does not know which ports of
//! the half it used before are still in use, so it prefers the half of its incarnation's parity, and
//! is confined to it until the old sessions are known or gone (PROTOCOLS, dying).

use std::hash::Hasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use holdfast_schema::bucket::{BUCKETS, Bucket};
use holdfast_schema::cluster::BackendId;
use holdfast_schema::flow::Addr;
use siphasher::sip::SipHasher13;

/// How many ports are tried first for a session on one LIP, half of them from each half. Most often
/// one of them is free, or the class is full; if not, the rest of the class follows.
pub const PORT_TRIES: usize = 64;

/// Cursors; classes are hashed into them. Two classes that share one merely skip a port now and then.
const CURSORS: usize = 1 << 16;

/// The first port that is given away, in steps of [`BUCKETS`].
const FIRST: u32 = 1_024 / BUCKETS as u32;

/// Ports of each half of a class.
const HALF_PORTS: u32 = (65_536 / BUCKETS as u32 - FIRST) / 2;

/// The rotating cursors of one director, shared by its workers and kept across table changes.
pub struct PortCursors {
    cursors: Vec<AtomicU32>,
    incarnation: AtomicU64,
    confined: AtomicBool,
}

impl PortCursors {
    /// Cursors of a director in this incarnation.
    pub fn new(incarnation: u64) -> PortCursors {
        PortCursors {
            cursors: std::iter::repeat_with(|| AtomicU32::new(0)).take(CURSORS).collect(),
            incarnation: AtomicU64::new(incarnation),
            confined: AtomicBool::new(false),
        }
    }

    /// Takes over the incarnation when it is known better. What the cluster knows may be of an earlier
    /// start, until this one is committed: its half is the one to keep away from.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.incarnation.fetch_max(incarnation, Ordering::Relaxed);
    }

    /// Whether only the preferred half may be used.
    pub fn set_confined(&self, confined: bool) {
        self.confined.store(confined, Ordering::Relaxed);
    }

    /// Whether only the preferred half may be used.
    pub fn confined(&self) -> bool {
        self.confined.load(Ordering::Relaxed)
    }

    /// The local ports to try for a new session, best first: the whole class, or the half this
    /// director is confined to.
    pub fn candidates(&self, lip: &Addr, backend: BackendId, bucket: Bucket) -> Candidates<'_> {
        // Not attackable: LIPs and backends are configured and buckets are few.
        let mut hasher = SipHasher13::new();
        hasher.write(&lip.0);
        hasher.write_u32(backend.0);
        let class = (hasher.finish() as usize).wrapping_add(bucket.index() * 2) % CURSORS;
        Candidates { ports: self, class, bucket, tried: 0 }
    }

    fn next(&self, class: usize, bucket: Bucket, odd: bool) -> u16 {
        let cursor = &self.cursors[(class + usize::from(odd)) % CURSORS];
        let turn = cursor.fetch_add(1, Ordering::Relaxed) % HALF_PORTS;
        let step = FIRST + turn * 2 + u32::from(odd);
        (step * BUCKETS as u32) as u16 + bucket.index() as u16
    }
}

/// Yields ports to try; see [`PortCursors::candidates`].
pub struct Candidates<'c> {
    ports: &'c PortCursors,
    class: usize,
    bucket: Bucket,
    tried: usize,
}

impl Iterator for Candidates<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        const HALF: usize = HALF_PORTS as usize;
        const FIRST: usize = PORT_TRIES / 2;
        let confined = self.ports.confined();
        if self.tried >= if confined { HALF } else { 2 * HALF } {
            return None;
        }
        let odd = self.ports.incarnation.load(Ordering::Relaxed) % 2 == 1;
        let preferred = match self.tried {
            _ if confined => true,
            0..FIRST => true,
            FIRST..PORT_TRIES => false,
            rest => rest < FIRST + HALF,
        };
        self.tried += 1;
        Some(self.ports.next(self.class, self.bucket, odd == preferred))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ports(cursors: &PortCursors, bucket: Bucket, rounds: usize) -> Vec<u16> {
        let lip = Addr::from_v4_octets([192, 0, 2, 1]);
        (0..rounds)
            .flat_map(|_| cursors.candidates(&lip, BackendId(1), bucket).take(PORT_TRIES))
            .collect()
    }

    #[test]
    fn every_candidate_carries_the_bucket_and_is_unprivileged() {
        for bucket in Bucket::all() {
            for port in ports(&PortCursors::new(1), bucket, 20) {
                assert!(port >= 1_024);
                assert_eq!(Bucket::of_local_port(port), bucket);
            }
        }
    }

    #[test]
    fn a_round_of_both_halves_covers_the_class_without_repeats() {
        let bucket = Bucket::of_local_port(63);
        let distinct = |rounds| {
            ports(&PortCursors::new(0), bucket, rounds).into_iter().collect::<BTreeSet<u16>>()
        };
        assert_eq!(distinct(15).len(), 15 * PORT_TRIES);
        let all = distinct(16);
        assert_eq!(all.len(), 1_008);
        assert!(all.contains(&1_087) && all.contains(&65_535), "both ends");
    }

    #[test]
    fn the_candidates_of_one_session_are_the_whole_class() {
        let cursors = PortCursors::new(0);
        let lip = Addr::from_v4_octets([192, 0, 2, 1]);
        let all = || -> BTreeSet<u16> {
            cursors.candidates(&lip, BackendId(1), Bucket::of_local_port(9)).collect()
        };
        assert_eq!(all().len(), 1_008);
        cursors.set_confined(true);
        assert_eq!(all().len(), 504);
    }

    #[test]
    fn the_preferred_half_follows_the_incarnation_and_confines() {
        let bucket = Bucket::of_local_port(5);
        let half = |port: u16| (u32::from(port) / BUCKETS as u32) % 2;
        for incarnation in [4, 5] {
            let cursors = PortCursors::new(incarnation);
            let free = ports(&cursors, bucket, 1);
            assert_eq!(free.len(), PORT_TRIES);
            assert!(free[..32].iter().all(|p| u64::from(half(*p)) == incarnation % 2));
            assert!(free[32..].iter().all(|p| u64::from(half(*p)) != incarnation % 2));
            cursors.set_confined(true);
            let confined = ports(&cursors, bucket, 8);
            assert!(confined.iter().all(|p| u64::from(half(*p)) == incarnation % 2));
        }
    }

    #[test]
    fn what_is_known_of_an_earlier_start_does_not_bring_its_half_back() {
        let cursors = PortCursors::new(2);
        cursors.set_incarnation(3);
        cursors.set_incarnation(2);
        cursors.set_confined(true);
        let confined = ports(&cursors, Bucket::of_local_port(5), 8);
        assert!(confined.iter().all(|port| (u32::from(*port) / BUCKETS as u32) % 2 == 1));
    }

    #[test]
    fn a_port_just_given_is_the_last_to_come_again() {
        let cursors = PortCursors::new(0);
        cursors.set_confined(true);
        let all = ports(&cursors, Bucket::of_local_port(1), 16);
        assert_eq!(all.iter().skip(1).position(|p| *p == all[0]), Some(503));
    }
}
