//! Next hops: which MAC address a packet for an address leaves to.

use std::collections::HashMap;

use ahash::RandomState;
use holdfast_schema::flow::Addr;
use holdfast_schema::prefix::Prefix;

/// How a frame leaves this director.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// Source MAC: the data interface's.
    pub src_mac: [u8; 6],
    /// Destination MAC: the neighbour's.
    pub dst_mac: [u8; 6],
    /// Largest IP packet that the way takes.
    pub mtu: u16,
}

/// Routes of one prefix length, by masked address.
struct Length {
    mask: u128,
    routes: HashMap<u128, Option<NextHop>, RandomState>,
}

/// Longest-prefix match over the routes of the data interface. One probe per prefix length in use.
#[derive(Default)]
pub struct NextHops {
    /// Longest first. Lengths are those of mapped addresses: an IPv4 /24 is a /120 here.
    lengths: Vec<Length>,
}

fn number(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.0)
}

impl NextHops {
    /// Next hops from routes. `None` marks a route that cannot be used now (unresolved neighbour, or
    /// another interface): its addresses have no next hop, whatever shorter routes say. Of two routes
    /// with the same prefix the first counts.
    pub fn new(routes: Vec<(Prefix, Option<NextHop>)>) -> NextHops {
        let mut lengths: Vec<(u8, Length)> = Vec::new();
        for (prefix, hop) in routes {
            let address = Addr::from(prefix.address());
            let bits = prefix.length() + if address.is_v4() { 96 } else { 0 };
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            let at = match lengths.binary_search_by(|(other, _)| bits.cmp(other)) {
                Ok(at) => at,
                Err(at) => {
                    let routes = HashMap::with_hasher(RandomState::new());
                    lengths.insert(at, (bits, Length { mask, routes }));
                    at
                }
            };
            lengths[at].1.routes.entry(number(&address) & mask).or_insert(hop);
        }
        NextHops { lengths: lengths.into_iter().map(|(_, length)| length).collect() }
    }

    /// The next hop towards an address, if there is a usable one.
    #[inline]
    pub fn get(&self, addr: &Addr) -> Option<NextHop> {
        let addr = number(addr);
        self.lengths.iter().find_map(|l| l.routes.get(&(addr & l.mask)).copied()).flatten()
    }
}
