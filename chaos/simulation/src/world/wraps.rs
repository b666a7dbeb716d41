//! Which connections of backends have numbers that wrap soon.
//!
//! A director tells connections of the same addresses by their numbers: the two that one opening of a client
//! may have at two backends, or over two directors, and the ones that follow each other on a client's port. In
//! reality a backend's first number is a hash (RFC 6528), and those of two connections are seldom near each other.
//! Wraps are wanted often, though. So of all connections of a client's socket only one may begin near 2^32.

use std::collections::BTreeMap;

use super::World;
use super::trace::FlowId;
use crate::director::frame;
use crate::endpoint::packet::Packet;
use crate::endpoint::segment::{Flags, Segment};
use crate::rng::mix;

/// A connection at a backend, from the side of the backend: the client's first number, the backend, the director's
/// socket.
type Place = (u32, u32, u64);

/// Who has been allowed to.
pub(super) struct Wraps {
    seed: u64,
    places: BTreeMap<FlowId, Place>,
}

impl Wraps {
    pub(super) fn new(seed: u64) -> Wraps {
        Wraps { seed, places: BTreeMap::new() }
    }

    /// Whether a connection of this client's socket may wrap. Every other opening is the one that may, as long as
    /// none has been: it need not be the first one of its port. Asked again, it says the same.
    fn may(&mut self, flow: FlowId, place: Place) -> bool {
        if let Some(wraps) = self.places.get(&flow) {
            return *wraps == place;
        }
        let may = mix(self.seed ^ mix(flow ^ u64::from(place.0) << 32)).is_multiple_of(2);
        if may {
            self.places.insert(flow, place);
        }
        may
    }
}

impl World {
    /// Whether the connection that this packet opens at a backend, if it opens one, may have numbers that wrap soon.
    pub(super) fn may_wrap(&mut self, backend: u32, packet: &[u8]) -> bool {
        let flags = packet.get(usize::from(packet.first().map_or(0, |b| b & 0xf)) * 4 + 13);
        if !flags.is_some_and(|flags| Flags(*flags) == Flags::SYN) {
            return false;
        }
        let Ok(ip) = Packet::parse(packet) else { return false };
        let syn = Segment::parse(&ip).ok().filter(|segment| segment.flags == Flags::SYN);
        let Some(isn) = syn.map(|syn| syn.seq) else { return false };
        let (Some(flow), Some((director, ..))) = (self.flow_of(packet), frame::tuple(packet))
        else {
            return false;
        };
        self.hosts.wraps.may(flow, (isn, backend, frame::socket_number(&director)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_sockets_connections_one_wraps_and_always_the_same() {
        let mut wraps = Wraps::new(7);
        let (mut first, mut any) = (0, 0);
        for flow in 0..400 {
            let places = [(1, 1, 9), (1, 2, 9), (1, 1, 8), (50_000, 1, 9), (90_000, 3, 9)];
            let may = places.map(|place| wraps.may(flow, place));
            assert_eq!(may, places.map(|place| wraps.may(flow, place)), "asked again");
            assert!(may.iter().filter(|may| **may).count() <= 1, "{may:?}");
            first += u32::from(may[0]);
            any += u32::from(may.contains(&true));
            assert!(!may[1] && !may[2], "others of the first opening");
        }
        assert!((150..250).contains(&first) && (320..380).contains(&any), "{first} {any}");
    }
}
