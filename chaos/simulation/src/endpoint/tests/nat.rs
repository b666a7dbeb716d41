//! A load balancer without memory in the middle: addresses change, nobody minds.

use std::net::SocketAddr;

use super::*;
use crate::endpoint::segment::{Flags, Segment};
use crate::endpoint::{Setting, Target, Transport, datagram::Datagram, packet};

const VIP: &str = "203.0.113.1";
const LIP: &str = "10.0.0.1";
const BACKENDS: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// What the translator does about the client's address.
#[derive(Clone, Copy, PartialEq)]
enum Tells {
    Nothing,
    Address,
    WrongAddress,
    /// As [`Tells::Address`], but lets segments be as long as they are without it.
    LeavesSize,
}

/// Full NAT: the local port is the client's, so that replies find back without any table.
fn translate(tells: Tells) -> OnPath {
    let (vip, lip): (IpAddr, IpAddr) = (VIP.parse().unwrap(), LIP.parse().unwrap());
    let map = move |src: SocketAddr, dst: SocketAddr| {
        if dst.ip() == vip {
            let backend: IpAddr = BACKENDS[usize::from(src.port() % 2)].parse().unwrap();
            (SocketAddr::new(lip, src.port()), SocketAddr::new(backend, dst.port()))
        } else {
            let client = SocketAddr::new(CLIENT.parse().unwrap(), dst.port());
            (SocketAddr::new(vip, src.port()), client)
        }
    };
    Box::new(move |_, bytes| {
        let ip = Packet::parse(&bytes).unwrap();
        if ip.protocol == packet::UDP {
            let datagram = Datagram::parse(&ip).unwrap();
            let (src, dst) = map(datagram.src, datagram.dst);
            return vec![Datagram { src, dst, ..datagram }.encode()];
        }
        let mut segment = Segment::parse(&ip).unwrap();
        let (src, dst) = map(segment.src, segment.dst);
        if tells != Tells::Nothing {
            segment.toa = None; // the client's own
        }
        if tells != Tells::Nothing && segment.dst.ip() == vip && !segment.flags.has(Flags::SYN) {
            let mut told = segment.src;
            if tells == Tells::WrongAddress {
                told.set_port(told.port() + 1);
            }
            segment.toa = Some(told);
        }
        if tells != Tells::LeavesSize {
            segment.mss = segment.mss.map(|mss| mss - 8);
        }
        (segment.src, segment.dst) = (src, dst);
        vec![segment.encode(&[])]
    })
}

fn world(seed: u64, tells: Tells, expects_address: bool) -> Network {
    let target = |port, transport| Target {
        address: SocketAddr::new(VIP.parse().unwrap(), port),
        transport,
        idle_timeout_us: 2_000_000,
    };
    let setting = Setting {
        address: CLIENT.parse().unwrap(),
        targets: vec![target(80, Transport::Tcp), target(53, Transport::Udp)],
        connections: 20,
        first_id: 100,
        begin_us: (0, 1_000_000),
        tcp: TcpConfig { retransmit_most_us: 5_000_000, ..TcpConfig::default() },
        patience_us: 300_000_000,
    };
    let mut network = Network::bad(seed);
    network.add_client(ClientPlan::draw(&setting, seed), seed);
    for (identity, address) in (1..).zip(BACKENDS) {
        let config = BackendConfig { expects_address, ..backend_config(identity, address) };
        network.add_backend(config, seed);
    }
    network.on_path = translate(tells);
    network
}

#[test]
fn nothing_is_noticed_of_full_nat() {
    for seed in 0..40 {
        for (tells, expects) in [(Tells::Nothing, false), (Tells::Address, true)] {
            let mut network = world(seed, tells, expects);
            network.run(HOUR_US);
            assert_eq!(network.faults(), [""; 0], "seed {seed}:\n{}", network.story());
            assert_eq!(network.client(CLIENT).open(), []);
        }
    }
}

#[test]
fn missing_wrong_and_forged_addresses_are_noticed() {
    let missing = |kind: &EventKind| *kind == EventKind::AddressMissing;
    let wrong = |kind: &EventKind| matches!(kind, EventKind::AddressWrong { .. });
    let mut network = world(1, Tells::Nothing, true);
    network.run(HOUR_US);
    assert!(network.has(missing), "{}", network.story());
    let mut network = world(1, Tells::WrongAddress, true);
    network.run(HOUR_US);
    assert!(network.has(wrong) && !network.has(missing), "{}", network.story());
    // Some clients forge one; it gets through if nobody takes it away.
    let forged = (0..10).any(|seed| {
        let mut network = world(seed, Tells::Nothing, true);
        network.run(HOUR_US);
        network.has(wrong)
    });
    assert!(forged);
}

#[test]
fn segments_that_became_too_long_are_noticed() {
    let too_big = EventKind::Damaged(packet::Damage::TooBig);
    let noticed = (0..10).any(|seed| {
        let mut network = world(seed, Tells::LeavesSize, true);
        network.run(HOUR_US);
        network.has(|kind| *kind == too_big)
    });
    assert!(noticed);
}
