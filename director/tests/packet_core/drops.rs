//! What is dropped, and under which name.

use holdfast_director::core::{CoreConfig, Count, DropReason, Verdict};

use holdfast_schema::session::{SessionFlags, SessionSink};

use super::full_nat::{open, open_answered};
use super::support::packet::*;
use super::support::*;

fn syn(port: u16) -> Packet {
    Packet::tcp(at(CLIENT, port), at(VIP, WEB), SYN, 1, 0)
}

/// A frame with bytes of its IP header changed and the checksum right again.
fn with_ip_byte(packet: &Packet, offset: usize, value: u8) -> Vec<u8> {
    with_ip_bytes(packet, &[(offset, value)])
}

fn with_ip_bytes(packet: &Packet, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = packet.bytes();
    for (offset, value) in changes {
        bytes[14 + offset] = *value;
    }
    bytes[24..26].copy_from_slice(&[0, 0]);
    let mut sum: u32 =
        bytes[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

#[test]
fn every_malformation_is_dropped_by_name() {
    let tcp = syn(1000);
    let udp = Packet::udp(at(CLIENT, 1000), at(VIP, DNS)).payload(b"abc");
    let changed = |packet: &Packet, at: usize, value: u8| {
        let mut bytes = packet.bytes();
        bytes[at] = value;
        bytes
    };
    let ether_type = |high, low| {
        let mut bytes = syn(1000).bytes();
        (bytes[12], bytes[13]) = (high, low);
        bytes
    };
    let whole = tcp.bytes();
    let cases: Vec<(&str, Vec<u8>, DropReason)> = vec![
        ("empty", vec![], DropReason::EthernetMalformed),
        ("13 bytes", whole[..13].to_vec(), DropReason::EthernetMalformed),
        ("802.1Q", ether_type(0x81, 0), DropReason::Vlan),
        ("802.1ad", ether_type(0x88, 0xa8), DropReason::Vlan),
        ("IPv6", ether_type(0x86, 0xdd), DropReason::Ipv6),
        ("ARP", ether_type(0x08, 0x06), DropReason::EtherType),
        ("no IP header", whole[..30].to_vec(), DropReason::Ipv4Malformed),
        ("cut off", whole[..whole.len() - 1].to_vec(), DropReason::Ipv4Malformed),
        ("version", with_ip_byte(&tcp, 0, 0x55), DropReason::Ipv4Malformed),
        ("header length", with_ip_byte(&tcp, 0, 0x44), DropReason::Ipv4Malformed),
        ("total length", with_ip_byte(&tcp, 3, 19), DropReason::Ipv4Malformed),
        ("checksum", changed(&tcp, 24, whole[24] ^ 1), DropReason::Ipv4Checksum),
        ("first fragment", with_ip_byte(&tcp, 6, 0x20), DropReason::Fragment),
        ("later fragment", with_ip_byte(&tcp, 7, 9), DropReason::Fragment),
        ("GRE", with_ip_byte(&tcp, 9, 47), DropReason::IpProtocol),
        ("IGMP", with_ip_byte(&tcp, 9, 2), DropReason::IpProtocol),
        ("TCP too short", with_ip_byte(&tcp, 3, 39), DropReason::TcpMalformed),
        ("data offset small", changed(&tcp, 46, 0x40), DropReason::TcpMalformed),
        ("data offset large", changed(&tcp, 46, 0x60), DropReason::TcpMalformed),
        ("UDP too short", with_ip_byte(&udp, 3, 27), DropReason::UdpMalformed),
        ("UDP length large", changed(&udp, 39, 12), DropReason::UdpMalformed),
        ("UDP length small", changed(&udp, 39, 7), DropReason::UdpMalformed),
        ("ICMP too short", with_ip_bytes(&udp, &[(9, 1), (3, 27)]), DropReason::IcmpMalformed),
    ];
    let mut lab = Lab::new();
    for (name, bytes, reason) in cases {
        let before = lab.counters().dropped(reason);
        assert_eq!(lab.one(&bytes).0, Verdict::Drop(reason), "{name}");
        assert_eq!(lab.counters().dropped(reason), before + 1, "{name}");
    }
    assert_eq!(lab.counters().dropped_packets(), lab.counters().count(Count::ReceivedPackets));
    assert_eq!(lab.table.stats().sessions, 0);
}

#[test]
fn what_cannot_be_opened_is_dropped_by_name() {
    let from = |a, b, c, d| at(std::net::Ipv4Addr::new(a, b, c, d), 999);
    let flags = |flags| Packet::tcp(at(CLIENT, 7), at(VIP, WEB), flags, 1, 0);
    for (name, packet, reason) in [
        ("no listener", Packet::tcp(at(CLIENT, 7), at(VIP, 99), SYN, 1, 0), DropReason::NoListener),
        ("other protocol", Packet::udp(at(CLIENT, 7), at(VIP, WEB)), DropReason::NoListener),
        (
            "ACK, no listener",
            Packet::tcp(at(CLIENT, 7), at(VIP, 9), ACK, 1, 1),
            DropReason::NoListener,
        ),
        (
            "no backend",
            Packet::tcp(at(CLIENT, 7), at(DARK_VIP, WEB), SYN, 1, 0),
            DropReason::NoBackend,
        ),
        (
            "SYN to LIP",
            Packet::tcp(at(CLIENT, 7), at(OWN_LIPS[0], 2000), SYN, 1, 0),
            DropReason::SynToLip,
        ),
        ("from a VIP", Packet::tcp(at(VIP, 7), at(VIP, WEB), SYN, 1, 0), DropReason::BadSource),
        (
            "from a LIP",
            Packet::tcp(at(FOREIGN_LIP, 7), at(VIP, WEB), SYN, 1, 0),
            DropReason::BadSource,
        ),
        (
            "from zero",
            Packet::tcp(from(0, 0, 0, 0), at(VIP, WEB), SYN, 1, 0),
            DropReason::BadSource,
        ),
        ("from loopback", Packet::udp(from(127, 0, 0, 1), at(VIP, DNS)), DropReason::BadSource),
        ("from multicast", Packet::udp(from(224, 0, 0, 1), at(VIP, DNS)), DropReason::BadSource),
        (
            "from broadcast",
            Packet::udp(from(255, 255, 255, 255), at(VIP, DNS)),
            DropReason::BadSource,
        ),
        ("SYN+FIN", flags(SYN | FIN), DropReason::TcpFlags),
        ("SYN+RST", flags(SYN | RST), DropReason::TcpFlags),
        (
            "unresolved next hop",
            Packet::tcp(at(CLIENT, 7), at(VIP, LOST), SYN, 1, 0),
            DropReason::NoRoute,
        ),
    ] {
        let mut lab = Lab::new();
        assert_eq!(lab.one(&packet.bytes()).0, Verdict::Drop(reason), "{name}");
        assert_eq!(lab.counters().dropped(reason), 1, "{name}");
        assert!(lab.questions().is_empty(), "{name}");
    }
}

#[test]
fn a_director_without_lips_opens_nothing() {
    let mut cluster = cluster();
    for lip in cluster.lips.values_mut() {
        lip.owner = Some(OTHER);
    }
    let mut lab = Lab::new();
    lab.tables = tables_of(&cluster);
    assert_eq!(lab.one(&syn(1).bytes()).0, Verdict::Drop(DropReason::NoLip));
}

#[test]
fn a_full_table_refuses_new_sessions_and_keeps_the_old() {
    let mut lab = Lab::with(20, CoreConfig::for_workers(20, 1));
    let first = syn(1);
    let (local, backend) = open(&mut lab, &first);
    for port in 2..11 {
        open(&mut lab, &syn(port)); // half of the sessions may be half-open
    }
    assert_eq!(lab.one(&syn(11).bytes()).0, Verdict::Drop(DropReason::HalfOpenFull));
    let mut refused = 0;
    for port in 1..20 {
        // An answer establishes a UDP flow, so that it leaves the half-open pool.
        let (client, vip) = (at(CLIENT, port), at(VIP, DNS));
        for (local, backend) in [local, backend].chunks(2).map(|_| (local, backend)) {
            let answer = Packet::tcp(backend, local, SYN | ACK, 5, 2);
            lab.sent(&answer.bytes());
            lab.sent(&Packet::tcp(at(CLIENT, 1), at(VIP, WEB), ACK, 2, 6).bytes());
        }
        match lab.one(&Packet::udp(client, vip).bytes()) {
            (Verdict::Transmit, out) => {
                let (local, backend) = verified_endpoints(&out);
                lab.sent(&Packet::udp(backend, local).bytes());
            }
            (verdict, _) => {
                assert_eq!(verdict, Verdict::Drop(DropReason::SessionTableFull));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 9, "ten half-open or established TCP and ten UDP sessions fit");
    let up = Packet::tcp(at(CLIENT, 1), at(VIP, WEB), ACK, 2, 6).payload(b"still there");
    assert_eq!(lab.sent(&up.bytes()), up.forwarded(local, backend).bytes());
}

#[test]
fn exhausted_ports_go_to_the_next_lip_then_to_the_next_backend_then_are_named() {
    // One bucket, so that one class is used up quickly: clients whose flows all hash to it.
    let target = KEY.bucket(holdfast_schema::flow::Protocol::Udp, &CLIENT.into(), 1);
    let clients = (1..=255u8)
        .flat_map(|host| (1..=u16::MAX).map(move |port| (host, port)))
        .map(|(host, port)| at(std::net::Ipv4Addr::new(198, 51, 100, host), port))
        .filter(|c| {
            KEY.bucket(holdfast_schema::flow::Protocol::Udp, &(*c.ip()).into(), c.port()) == target
        });
    let mut lab = Lab::with(50_000, CoreConfig::for_workers(50_000, 1));
    let (mut opened, mut refused) = (0, 0);
    for client in clients {
        match lab.one(&Packet::udp(client, at(VIP, DNS)).bytes()) {
            (Verdict::Transmit, out) => {
                let (local, backend) = verified_endpoints(&out);
                lab.sent(&Packet::udp(backend, local).bytes()); // established
                opened += 1;
            }
            (verdict, _) => {
                assert_eq!(verdict, Verdict::Drop(DropReason::NoFreePort));
                refused += 1;
                if refused == 50 {
                    break;
                }
            }
        }
    }
    // 2 LIPs x 3 backends x 1008 ports of a class; classes that share a count leave a few.
    assert!((6_000..=6_048).contains(&opened), "{opened}");
    assert_eq!(refused, 50);
    assert!(lab.counters().count(Count::OpenedNextLip) > 0);
    assert!(lab.counters().count(Count::OpenedNextBackend) > 0);
}

/// Sessions that live long hold ports next to each other, and the cursor comes back to them.
#[test]
fn a_run_of_taken_ports_hides_no_free_one() {
    const RUN: u16 = 800;
    let (client, vip) = (at(CLIENT, 1), at(VIP, DNS));
    let mut source = Lab::new();
    open(&mut source, &Packet::udp(client, vip));
    let record = source.table.session_of(client, vip);
    let mut lab = Lab::new();
    let mut taken = 0u16;
    for backend in BACKENDS {
        for lip in OWN_LIPS {
            for step in 0..RUN {
                let mut record = record.clone();
                record.key.src = std::net::Ipv4Addr::new(198, 51, 101, 1).into();
                record.key.src_port = taken;
                (record.reply.src, record.reply.dst) = (backend.into(), lip.into());
                record.reply.dst_port = 1_024 + step * 64 + record.reply.dst_port % 64;
                record.flags = record.flags.with(SessionFlags::ESTABLISHED);
                lab.table.created(&record);
                taken += 1;
            }
        }
    }
    assert_eq!(lab.table.stats().sessions, u32::from(taken));
    let (local, _) = open(&mut lab, &Packet::udp(client, vip));
    assert!(local.port() >= 1_024 + RUN * 64);
}

/// Nothing is held for a packet that goes nowhere.
#[test]
fn no_session_is_opened_for_a_packet_that_cannot_be_sent() {
    let mut lab = Lab::new();
    let lost = Packet::tcp(at(CLIENT, 7), at(VIP, LOST), SYN, 1, 0);
    assert_eq!(lab.one(&lost.bytes()).0, Verdict::Drop(DropReason::NoRoute));
    let expired = Packet { ttl: 1, ..syn(8) };
    lab.sent(&expired.bytes());
    assert_eq!(lab.counters().count(Count::AnsweredTtl), 1);
    assert_eq!(lab.table.stats().sessions, 0);
    // A backend without a next hop does not take its clients with it.
    let mut cluster = cluster();
    let web = cluster.groups.get_mut("web").unwrap();
    let first = web.backends.values_mut().next().unwrap();
    first.spec.address = (UNRESOLVED, BACKEND_PORT).into();
    lab.tables = tables_of(&cluster);
    for port in 100..200 {
        open(&mut lab, &syn(port));
    }
    assert!(lab.counters().count(Count::OpenedNextBackend) > 10);
}

#[test]
fn a_packet_too_big_without_df_is_dropped() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 50), at(VIP, NARROW_WEB));
    open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 1, 0), 1);
    let big =
        Packet { dont_fragment: false, ..Packet::tcp(client, vip, ACK, 2, 2).payload(&[7; 1400]) };
    assert_eq!(lab.one(&big.bytes()).0, Verdict::Drop(DropReason::TooBig));
}
