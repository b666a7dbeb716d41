//! Next hops of the addresses that a batch goes to: few, compared with the cost of a longest-prefix
//! match for each packet.

use holdfast_schema::flow::Addr;

use super::Moment;
use crate::tables::NextHop;

const PLACES: usize = 64;

#[derive(Clone, Copy)]
struct Place {
    dst: [u8; 4],
    /// The batch in which this was looked up.
    batch: u32,
    hop: NextHop,
}

/// Next hops found during one batch. (Not longer: the tables may be others then.)
pub(super) struct HopCache {
    places: [Place; PLACES],
    batch: u32,
}

impl HopCache {
    pub(super) fn new() -> HopCache {
        let hop = NextHop { src_mac: [0; 6], dst_mac: [0; 6], mtu: 0 };
        HopCache { places: [Place { dst: [0; 4], batch: 0, hop }; PLACES], batch: 1 }
    }

    /// Begins a batch: nothing is known.
    pub(super) fn forget(&mut self) {
        self.batch = self.batch.wrapping_add(1);
        if self.batch == 0 {
            // Four billion batches later an old place could pass for a new one.
            *self = HopCache::new();
        }
    }

    /// The next hop towards `addr`, whose IPv4 bytes are `dst`.
    #[inline]
    pub(super) fn get(&mut self, at: &Moment<'_>, addr: &Addr, dst: [u8; 4]) -> Option<NextHop> {
        // Fibonacci hashing: addresses that are near each other go to different places.
        let hash = u32::from_be_bytes(dst).wrapping_mul(0x9e37_79b9) >> 26;
        let place = self.places.get_mut(hash as usize % PLACES)?;
        if place.dst != dst || place.batch != self.batch {
            let hop = at.tables.next_hop(addr)?;
            *place = Place { dst, batch: self.batch, hop };
        }
        Some(place.hop)
    }
}
