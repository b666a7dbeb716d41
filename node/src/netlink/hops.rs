//! Next hops out of routes, neighbours and the data interface: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_schema::prefix::Prefix;

/// The data interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
}

/// A neighbour on the data interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its address, if it is known and not given up.
    pub mac: Option<[u8; 6]>,
    /// Whether the kernel has confirmed it lately.
    pub confirmed: bool,
}

/// One way a route may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Via {
    /// Out of this interface,
    pub ifindex: u32,
    /// to this gateway; none: the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// A route of the main table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteEntry {
    /// Where it leads.
    pub prefix: Prefix,
    /// Whether it forwards (and does not drop or deliver).
    pub unicast: bool,
    /// Its metric: lower wins.
    pub metric: u32,
    /// Its MTU, if it has one of its own.
    pub mtu: Option<u32>,
    /// The ways it may take.
    pub via: Vec<Via>,
}

/// How to reach what lies behind a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Source MAC.
    pub src_mac: [u8; 6],
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u16,
}

/// What the director needs to know of the network around it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hops {
    /// Prefixes and how to reach them; none: known, but not resolved or not through the data interface.
    pub table: Vec<(Prefix, Option<Hop>)>,
    /// Gateways on the data interface, and whether they are resolved now.
    pub gateways: BTreeMap<IpAddr, Gateway>,
}

/// What is known of a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// It has a MAC now.
    pub resolved: bool,
    /// The kernel has confirmed it lately.
    pub confirmed: bool,
}

/// Computes the next hops.
///
/// `remembered` holds the last MAC of each gateway. A gateway that the kernel has given up keeps
/// it: when the router is gone BGP is gone too, and when it comes back no packet has to wait.
pub fn compute(
    link: &Link,
    routes: &[RouteEntry],
    neighbours: &BTreeMap<IpAddr, Neighbour>,
    remembered: &mut BTreeMap<IpAddr, [u8; 6]>,
) -> Hops {
    let mut best: BTreeMap<Prefix, &RouteEntry> = BTreeMap::new();
    for route in routes.iter().filter(|r| r.unicast) {
        let slot = best.entry(route.prefix).or_insert(route);
        if route.metric < slot.metric {
            *slot = route;
        }
    }
    let hop = |mac: [u8; 6], mtu: Option<u32>| Hop {
        src_mac: link.mac,
        dst_mac: mac,
        mtu: mtu.unwrap_or(link.mtu).min(link.mtu).min(u32::from(u16::MAX)) as u16,
    };
    let mut hops = Hops::default();
    for (prefix, route) in best {
        let ours = || route.via.iter().filter(|v| v.ifindex == link.index);
        let mut found = None;
        for gateway in ours().filter_map(|v| v.gateway) {
            let neighbour = neighbours.get(&gateway);
            let mac = neighbour.and_then(|n| n.mac);
            if let Some(mac) = mac {
                remembered.insert(gateway, mac);
            }
            hops.gateways.insert(
                gateway,
                Gateway {
                    resolved: mac.is_some(),
                    confirmed: neighbour.is_some_and(|n| n.confirmed),
                },
            );
            let mac = mac.or_else(|| remembered.get(&gateway).copied());
            found = found.or(mac.map(|mac| hop(mac, route.mtu)));
        }
        let on_link = ours().any(|v| v.gateway.is_none());
        if on_link {
            let inside = neighbours.iter().filter(|(ip, _)| prefix.contains(**ip));
            for (ip, neighbour) in inside {
                if let Some(mac) = neighbour.mac {
                    hops.table.push((Prefix::host(*ip), Some(hop(mac, route.mtu))));
                }
            }
        }
        hops.table.push((prefix, found));
    }
    // Longest first; for the same prefix (an on-link neighbour with a host route) the first stays.
    hops.table.sort_by_key(|(prefix, _)| (std::cmp::Reverse(prefix.length()), *prefix));
    hops.table.dedup_by_key(|(prefix, _)| *prefix);
    remembered.retain(|ip, _| hops.gateways.contains_key(ip));
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { index: 7, mac: [2, 0, 0, 0, 0, 1], mtu: 1500, up: true };
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn route(prefix: &str, metric: u32, via: Vec<Via>) -> RouteEntry {
        let prefix = prefix.parse().unwrap();
        RouteEntry { prefix, unicast: true, metric, mtu: None, via }
    }

    fn via(ifindex: u32, gateway: Option<&str>) -> Vec<Via> {
        vec![Via { ifindex, gateway: gateway.map(|g| g.parse().unwrap()) }]
    }

    fn neighbours(mac: Option<[u8; 6]>) -> BTreeMap<IpAddr, Neighbour> {
        [("10.0.0.1".parse().unwrap(), Neighbour { mac, confirmed: mac.is_some() })].into()
    }

    fn lookup(hops: &Hops, ip: &str) -> Option<Hop> {
        let ip = ip.parse().unwrap();
        hops.table.iter().find(|(p, _)| p.contains(ip)).and_then(|(_, hop)| *hop)
    }

    #[test]
    fn the_default_route_leads_to_the_routers_mac() {
        let routes = [
            route("0.0.0.0/0", 0, via(7, Some("10.0.0.1"))),
            route("10.0.0.0/24", 0, via(7, None)),
            route("10.9.0.0/24", 0, via(3, Some("10.8.0.1"))),
        ];
        let hops = compute(&LINK, &routes, &neighbours(Some(ROUTER)), &mut BTreeMap::new());
        let expected = Hop { src_mac: LINK.mac, dst_mac: ROUTER, mtu: 1500 };
        assert_eq!(lookup(&hops, "192.0.2.1"), Some(expected));
        assert_eq!(lookup(&hops, "10.0.0.1"), Some(expected), "a neighbour on the link");
        assert_eq!(lookup(&hops, "10.0.0.77"), None, "on the link, but nobody has seen it");
        assert_eq!(lookup(&hops, "10.9.0.5"), None, "out of another interface");
        assert_eq!(hops.gateways.len(), 1);
    }

    #[test]
    fn a_gateway_that_fell_silent_keeps_its_mac_but_is_not_resolved() {
        let routes = [route("0.0.0.0/0", 0, via(7, Some("10.0.0.1")))];
        let mut remembered = BTreeMap::new();
        compute(&LINK, &routes, &neighbours(Some(ROUTER)), &mut remembered);
        let hops = compute(&LINK, &routes, &neighbours(None), &mut remembered);
        assert_eq!(lookup(&hops, "192.0.2.1").unwrap().dst_mac, ROUTER);
        assert!(hops.gateways.values().all(|g| !g.resolved && !g.confirmed));
        let never = compute(&LINK, &routes, &neighbours(None), &mut BTreeMap::new());
        assert_eq!(lookup(&never, "192.0.2.1"), None);
    }

    #[test]
    fn the_lowest_metric_wins_and_mtus_are_respected() {
        let mut low = route("0.0.0.0/0", 10, via(7, Some("10.0.0.1")));
        low.mtu = Some(1400);
        let routes = [route("0.0.0.0/0", 100, via(3, Some("10.8.0.1"))), low];
        let hops = compute(&LINK, &routes, &neighbours(Some(ROUTER)), &mut BTreeMap::new());
        assert_eq!(lookup(&hops, "192.0.2.1").unwrap().mtu, 1400);
    }
}
