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
}

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
            return Maglev { places: Vec::new() };
        }
        let mut walks: Vec<Walk> = backends
            .iter()
            .map(|(id, weight)| Walk {
                at: (hash_of_backend(key, DOMAIN_OFFSET, *id) % size as u64) as usize,
                step: (hash_of_backend(key, DOMAIN_STEP, *id) % (size as u64 - 1)) as usize + 1,
                weight: u64::from(*weight),
                credit: 0,
            })
            .collect();
        const FREE: u16 = u16::MAX;
        let mut places = vec![FREE; size];
        let mut filled = 0;
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
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Maglev { places }
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

    /// The `nth` distinct position on the way from a hash's place on: 0 is that of
    /// [`lookup`](Self::lookup), 1 the first other one, and so on.
    pub fn lookup_nth(&self, hash: u64, nth: usize) -> Option<usize> {
        let first = self.lookup(hash)?;
        if nth == 0 {
            return Some(first);
        }
        // Few are asked for (the packet path bounds it), so a short list on the stack will do.
        const MOST: usize = 8;
        let mut seen = [first; MOST];
        let mut distinct = 1;
        let start = (hash % self.places.len() as u64) as usize;
        for position in self.places[start..].iter().chain(&self.places[..start]) {
            let position = usize::from(*position);
            if seen[..distinct].contains(&position) {
                continue;
            }
            if distinct == nth {
                return Some(position);
            }
            if distinct == MOST {
                return None;
            }
            seen[distinct] = position;
            distinct += 1;
        }
        None
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
