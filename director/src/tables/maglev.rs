//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with weights.
//!
//! Each backend has a permutation of the table's places that follows from its identity alone, and
//! backends take turns at claiming the next free place of theirs. So every director builds the same
//! table from the same backends, and removing one moves few flows of the others.

use std::hash::Hasher;

use holdfast_schema::bucket::BucketKey;
use holdfast_schema::cluster::BackendId;
use holdfast_schema::flow::{Addr, Protocol};
use siphasher::sip::SipHasher13;

/// Table sizes: primes, so that every step width visits every place.
const SMALL: usize = 16_381;
const LARGE: usize = 65_521;

/// Up to this many backends, the small table gives each at least 255 places of equal weight.
const FEW: usize = 64;

/// A lookup table over the eligible backends of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev {
    /// Positions in the list of backends the table was built from.
    places: Vec<u16>,
    /// Those that have places, in the order in which they first got one.
    holders: Vec<u16>,
}

/// How many places [`Maglev::lookup_nth`] looks at. Backends of equal weight are met after a few; one
/// of little weight may be thousands of places away, and clients choose how often that is asked.
const MOST_STEPS: usize = 64;

/// What separates this hash from the bucket hash, which uses the same key.
const DOMAIN_FLOW: u8 = 1;
const DOMAIN_OFFSET: u8 = 2;
const DOMAIN_STEP: u8 = 3;

fn hash_of_backend(key: &BucketKey, domain: u8, id: BackendId) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key.0);
    hasher.write_u8(domain);
    hasher.write_u32(id.0);
    hasher.finish()
}

/// One backend's walk over the table, and its claim to turns.
struct Walk {
    at: usize,
    step: usize,
    weight: u64,
    credit: u64,
    holds: bool,
}

impl Maglev {
    /// The size for a group. It has to follow from the group's configuration, not from who is healthy:
    /// tables of different sizes have nothing in common.
    pub fn size_for(configured_backends: usize) -> usize {
        if configured_backends <= FEW { SMALL } else { LARGE }
    }

    /// A table of a (prime) size over backends by number and weight, in this order; weight 0 gets no
    /// place. The order matters a little for who wins a place, so callers sort by number.
    pub fn build(key: &BucketKey, backends: &[(BackendId, u16)], size: usize) -> Maglev {
        debug_assert!(backends.len() <= usize::from(u16::MAX));
        let most = backends.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(0);
        if most == 0 {
            return Maglev { places: Vec::new(), holders: Vec::new() };
        }
        let mut walks: Vec<Walk> = backends
            .iter()
            .map(|(id, weight)| Walk {
                at: (hash_of_backend(key, DOMAIN_OFFSET, *id) % size as u64) as usize,
                step: (hash_of_backend(key, DOMAIN_STEP, *id) % (size as u64 - 1)) as usize + 1,
                weight: u64::from(*weight),
                credit: 0,
                holds: false,
            })
            .collect();
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; size];
        let (mut filled, mut holders) = (0, Vec::new());
        while filled < size {
            // The heaviest claims a place in every round, the others when their credit suffices.
            for (position, walk) in walks.iter_mut().enumerate() {
                walk.credit += walk.weight;
                if walk.credit < most {
                    continue;
                }
                walk.credit -= most;
                while places[walk.at] != FREE {
                    walk.at = (walk.at + walk.step) % size;
                }
                places[walk.at] = position as u16;
                if !walk.holds {
                    walk.holds = true;
                    holders.push(position as u16);
                }
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Maglev { places, holders }
    }

    /// The hash that a client's flow is looked up by: the same on all directors.
    pub fn hash(key: &BucketKey, protocol: Protocol, client: &Addr, client_port: u16) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&key.0);
        hasher.write_u8(DOMAIN_FLOW);
        hasher.write(&client.0);
        hasher.write_u32(u32::from(client_port) << 8 | u32::from(protocol.number()));
        hasher.finish()
    }

    /// The position (in the list the table was built from) for a hash.
    #[inline]
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let place = (hash % self.places.len() as u64) as usize;
        self.places.get(place).map(|position| usize::from(*position))
    }

    /// The `nth` distinct position for a hash: 0 is that of [`lookup`](Self::lookup), the next ones
    /// are met on the way from there on, or follow in turn if the way is long. None: there are no
    /// more (or `nth` is above 7).
    pub fn lookup_nth(&self, hash: u64, nth: usize) -> Option<usize> {
        let first = self.lookup(hash)?;
        if nth == 0 {
            return Some(first);
        }
        // Few are asked for (the packet path bounds it), so a short list on the stack will do.
        const MOST: usize = 8;
        if nth >= self.holders.len().min(MOST) {
            return None;
        }
        let mut seen = [first; MOST];
        let mut distinct = 1;
        for position in self.way(hash) {
            if seen[..distinct].contains(&position) {
                continue;
            }
            if distinct == nth {
                return Some(position);
            }
            seen[distinct] = position;
            distinct += 1;
        }
        None
    }

    /// Where the next choices for a hash are looked for: short, and it meets everybody who has a
    /// place.
    fn way(&self, hash: u64) -> impl Iterator<Item = usize> {
        let from = |all: &'_ [u16]| (hash % all.len().max(1) as u64) as usize;
        let (start, turn) = (from(&self.places), from(&self.holders));
        let places = self.places[start..].iter().chain(&self.places[..start]).take(MOST_STEPS);
        let holders = self.holders[turn..].iter().chain(&self.holders[..turn]);
        places.chain(holders).map(|position| usize::from(*position))
    }

    /// How many places there are.
    pub fn size(&self) -> usize {
        self.places.len()
    }

    /// The places, for hashing and tests.
    pub fn places(&self) -> &[u16] {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(weights: &[u16]) -> Maglev {
        let backends: Vec<_> = weights.iter().zip(1..).map(|(w, id)| (BackendId(id), *w)).collect();
        Maglev::build(&BucketKey([9; 16]), &backends, SMALL)
    }

    /// A SYN that finds no port asks for the next choices, and whoever floods decides how often.
    #[test]
    fn further_choices_are_near_however_few_or_light_the_backends_are() {
        for (weights, there) in
            [(&[1][..], 1), (&[1, 1], 2), (&[9_000, 1], 2), (&[5_000, 1, 0, 1], 3), (&[1; 20], 8)]
        {
            let table = table(weights);
            for n in 0..500u64 {
                let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let choices: Vec<_> =
                    (0..10).map_while(|nth| table.lookup_nth(hash, nth)).collect();
                assert_eq!(choices.len(), there, "{weights:?}");
                assert!(choices.iter().all(|at| weights[*at] > 0));
                let distinct: std::collections::BTreeSet<_> = choices.iter().collect();
                assert_eq!(distinct.len(), there);
                assert!(table.way(hash).count() <= MOST_STEPS + weights.len());
            }
        }
    }
}
