//! ICMP: echo, errors of our own, and errors translated in both directions.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::{IcmpEchoHeader, Icmpv4Type, IpNumber};
use holdfast_director::core::{CoreConfig, Count, DropReason, MissAnswer, MissKind, Verdict};

use super::full_nat::{open, open_answered};
use super::support::packet::*;
use super::support::*;

const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 5, 1);

fn errors() -> [Icmpv4Type; 4] {
    use DestUnreachableHeader::*;
    [
        Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1300 }),
        Icmpv4Type::DestinationUnreachable(Port),
        Icmpv4Type::DestinationUnreachable(Host),
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
    ]
}

#[test]
fn echo_to_a_served_vip_is_answered() {
    let mut lab = Lab::new();
    let numbers = [(77, 3), (0, 0), (0xf7ff, 0), (0xffff, 0)];
    let bodies = [&b""[..], b"odd", b"sixteen bytes!!!", &[0; 32]];
    for ((id, seq), body) in numbers.iter().flat_map(|n| bodies.iter().map(move |b| (*n, *b))) {
        let echo = IcmpEchoHeader { id, seq };
        let request = icmp(CLIENT, VIP, Icmpv4Type::EchoRequest(echo), body);
        let reply = icmp_frame(
            MAC_ME,
            MAC_ROUTER,
            (VIP, CLIENT),
            64,
            Icmpv4Type::EchoReply(echo),
            body,
            |_| (),
        );
        assert_eq!(lab.sent(&request), reply);
        let padded = |frame: &[u8]| [frame, &[0x5a; 18]].concat();
        assert_eq!(lab.sent(&padded(&request)), padded(&reply));
    }
    assert_eq!(lab.counters().count(Count::AnsweredEcho), 32);
}

#[test]
fn echo_elsewhere_is_dropped_by_name() {
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
    for (src, dst, reason) in [
        (CLIENT, DARK_VIP, DropReason::EchoUnserved),
        (CLIENT, OWN_LIPS[0], DropReason::EchoUnserved),
        (CLIENT, Ipv4Addr::new(8, 8, 8, 8), DropReason::NotOurs),
        (VIP, VIP, DropReason::BadSource),
        (Ipv4Addr::new(192, 0, 2, 1), VIP, DropReason::NoRoute),
    ] {
        let mut lab = Lab::new();
        assert_eq!(lab.one(&icmp(src, dst, echo.clone(), b"x")).0, Verdict::Drop(reason));
    }
}

/// One flow, opened; a packet of each direction as it left the director.
struct Flow {
    lab: Lab,
    client: SocketAddrV4,
    vip: SocketAddrV4,
    local: SocketAddrV4,
    backend: SocketAddrV4,
    udp: bool,
    payload: Vec<u8>,
}

impl Flow {
    fn new(udp: bool, payload: usize) -> Flow {
        let mut lab = Lab::new();
        let (client, vip) = (at(CLIENT, 41_000), at(VIP, if udp { DNS } else { WEB }));
        let first =
            if udp { Packet::udp(client, vip) } else { Packet::tcp(client, vip, SYN, 1, 0) };
        let (local, backend) = open(&mut lab, &first);
        let payload = (0..payload).map(|n| n as u8).collect();
        Flow { lab, client, vip, local, backend, udp, payload }
    }

    fn packet(&self, src: SocketAddrV4, dst: SocketAddrV4) -> Packet {
        let packet =
            if self.udp { Packet::udp(src, dst) } else { Packet::tcp(src, dst, ACK, 1000, 2000) };
        Packet { ttl: 3, ..packet.payload(&self.payload) }
    }
}

/// Every error about every flow, quoting from the least that RFC 792 allows to everything, is
/// translated to exactly what the other side would see if there were no director.
#[test]
fn errors_are_translated_in_both_directions() {
    for udp in [false, true] {
        for error in errors() {
            for quoted in [28, 34, 36, 39, 40, 60, 200] {
                let mut f = Flow::new(udp, 160);
                let (client, vip, local, backend) = (f.client, f.vip, f.local, f.backend);
                let cut = |packet: Packet| {
                    let bytes = packet.ip_bytes();
                    bytes[..quoted.min(bytes.len())].to_vec()
                };
                // A router on the client's side, about a packet to the client.
                let quote = cut(f.packet(vip, client));
                let expected = icmp_frame(
                    MAC_ME,
                    MAC_BACKENDS,
                    (*local.ip(), *backend.ip()),
                    59,
                    error.clone(),
                    &cut(f.packet(backend, local)),
                    |_| (),
                );
                assert_eq!(f.lab.sent(&icmp(ROUTER, VIP, error.clone(), &quote)), expected);
                // A router on the backends' side, about a packet to the backend.
                let quote = cut(f.packet(local, backend));
                let expected = icmp_frame(
                    MAC_ME,
                    MAC_ROUTER,
                    (VIP, CLIENT),
                    59,
                    error.clone(),
                    &cut(f.packet(client, vip)),
                    |_| (),
                );
                let out = f.lab.sent(&icmp(ROUTER, *local.ip(), error.clone(), &quote));
                assert_eq!(out, expected);
                assert_eq!(f.lab.counters().count(Count::IcmpTranslated), 2);
            }
        }
    }
}

#[test]
fn a_quote_with_ip_options_and_without_udp_checksum_is_translated() {
    let mut f = Flow::new(true, 10);
    let adjust = |packet: Packet| Packet {
        ip_options: vec![1, 1, 1, 0],
        l4: L4::Udp { checksum: false },
        ..packet
    };
    let (vip, client, local, backend) = (f.vip, f.client, f.local, f.backend);
    let error = errors()[1].clone();
    let quote = adjust(f.packet(vip, client)).ip_bytes();
    let expected = icmp_frame(
        MAC_ME,
        MAC_BACKENDS,
        (*local.ip(), *backend.ip()),
        59,
        error.clone(),
        &adjust(f.packet(backend, local)).ip_bytes(),
        |_| (),
    );
    assert_eq!(f.lab.sent(&icmp(ROUTER, VIP, error, &quote)), expected);
}

#[test]
fn padding_behind_a_short_quote_is_no_checksum() {
    let mut f = Flow::new(false, 0);
    let (vip, client, local, backend) = (f.vip, f.client, f.local, f.backend);
    let error = errors()[0].clone();
    let quote = &f.packet(vip, client).ip_bytes()[..28];
    let mut padded = icmp(ROUTER, VIP, error.clone(), quote);
    padded.extend_from_slice(&[0x5a; 16]);
    let mut expected = icmp_frame(
        MAC_ME,
        MAC_BACKENDS,
        (*local.ip(), *backend.ip()),
        59,
        error,
        &f.packet(backend, local).ip_bytes()[..28],
        |_| (),
    );
    expected.extend_from_slice(&[0x5a; 16]);
    assert_eq!(f.lab.sent(&padded), expected);
}

#[test]
fn an_error_does_not_touch_its_session() {
    let mut f = Flow::new(false, 0);
    let before = f.lab.table.session_of(f.client, f.vip);
    f.lab.pass(700);
    let quote = f.packet(f.vip, f.client).ip_bytes();
    f.lab.sent(&icmp(ROUTER, VIP, errors()[1].clone(), &quote));
    let after = f.lab.table.session_of(f.client, f.vip);
    assert_eq!(after.client.age_ms, before.client.age_ms + 700);
    assert_eq!(after.flags, before.flags);
}

#[test]
fn bad_errors_are_dropped_by_name() {
    let mut f = Flow::new(false, 20);
    let (vip, client) = (f.vip, f.client);
    let error = errors()[0].clone();
    let quote = f.packet(vip, client).ip_bytes();
    let good = icmp(ROUTER, VIP, error.clone(), &quote);
    let mut sum = good.clone();
    *sum.last_mut().unwrap() ^= 1;
    let about = |packet: Packet| icmp(ROUTER, VIP, error.clone(), &packet.ip_bytes());
    let mut inner = quote.clone();
    inner[10] ^= 1;
    let gre = {
        let mut bytes = Vec::new();
        ipv4_header(IpNumber::GRE, (VIP, CLIENT), 3, 20, |_| ()).write(&mut bytes).unwrap();
        bytes.extend_from_slice(&[0; 20]);
        bytes
    };
    let fragment = {
        let mut bytes = Vec::new();
        let cut = |h: &mut etherparse::Ipv4Header| {
            h.dont_fragment = false;
            h.fragment_offset = 8.try_into().unwrap();
        };
        ipv4_header(IpNumber::UDP, (VIP, CLIENT), 3, 20, cut).write(&mut bytes).unwrap();
        bytes.extend_from_slice(&[0; 20]);
        bytes
    };
    let raw = |body: &[u8]| icmp(ROUTER, VIP, error.clone(), body);
    let other = at(Ipv4Addr::new(203, 0, 113, 99), WEB);
    for (name, bytes, reason) in [
        ("checksum", sum, DropReason::IcmpChecksum),
        ("inner checksum", raw(&inner), DropReason::QuoteMalformed),
        ("short quote", raw(&quote[..27]), DropReason::QuoteMalformed),
        ("no quote", raw(&[]), DropReason::QuoteMalformed),
        ("GRE quoted", raw(&gre), DropReason::QuoteProtocol),
        ("fragment quoted", raw(&fragment), DropReason::QuoteFragment),
        ("quote from elsewhere", about(f.packet(other, client)), DropReason::QuoteMismatch),
        (
            "timestamp request",
            icmp(
                ROUTER,
                VIP,
                Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0; 4] },
                &[0; 12],
            ),
            DropReason::IcmpType,
        ),
        (
            "redirect",
            icmp(
                ROUTER,
                VIP,
                Icmpv4Type::Unknown { type_u8: 5, code_u8: 1, bytes5to8: [0; 4] },
                &quote,
            ),
            DropReason::IcmpType,
        ),
        (
            "echo reply",
            icmp(ROUTER, VIP, Icmpv4Type::EchoReply(IcmpEchoHeader { id: 1, seq: 1 }), b""),
            DropReason::IcmpType,
        ),
        (
            "TTL",
            icmp_frame(MAC_ROUTER, MAC_ME, (ROUTER, VIP), 1, error.clone(), &quote, |_| ()),
            DropReason::TtlExpired,
        ),
    ] {
        assert_eq!(f.lab.one(&bytes).0, Verdict::Drop(reason), "{name}");
    }
    f.lab.sent(&good);
}

#[test]
fn an_error_about_an_unknown_flow_is_asked_about_and_never_reset() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 41_001), at(VIP, WEB));
    let quote = Packet::tcp(vip, client, ACK, 1, 1).ip_bytes();
    let error = icmp(ROUTER, VIP, errors()[0].clone(), &quote);
    assert_eq!(lab.one(&error).0, Verdict::Parked);
    let questions = lab.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].kind, MissKind::IcmpError);
    assert_eq!(questions[0].key.to_string(), format!("tcp {client} > {vip}"));
    let released = lab.answer(MissAnswer::NoWithAuthority { id: questions[0].id });
    assert_eq!(released.len(), 1);
    assert_eq!(released[0].0, Verdict::Drop(DropReason::IcmpDenied));
    // The denial is remembered: no second question.
    assert_eq!(lab.one(&error).0, Verdict::Drop(DropReason::IcmpDenied));
}

#[test]
fn a_packet_too_big_with_df_is_answered() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 42_000), at(VIP, NARROW_WEB));
    let (local, backend) = open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 1, 0), 1);
    let fits = Packet::tcp(client, vip, ACK, 2, 2).payload(&[7; 1360]);
    assert_eq!(lab.sent(&fits.bytes()), fits.forwarded(local, backend).bytes());
    let big = Packet::tcp(client, vip, ACK, 2, 2).payload(&[7; 1361]);
    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let expected = icmp_frame(
        MAC_ME,
        MAC_ROUTER,
        (VIP, CLIENT),
        64,
        Icmpv4Type::DestinationUnreachable(needed),
        &big.ip_bytes()[..548],
        |_| (),
    );
    assert_eq!(lab.sent(&big.bytes()), expected);
    assert_eq!(lab.counters().count(Count::AnsweredTooBig), 1);
    // 576 bytes are the most (RFC 1812).
    assert_eq!(expected.len(), 14 + 576);
}

#[test]
fn an_expired_ttl_is_answered_within_the_budget() {
    let config = CoreConfig {
        icmp_errors_per_second: 10,
        icmp_error_burst: 2,
        ..CoreConfig::for_workers(100, 1)
    };
    let mut lab = Lab::with(100, config);
    let (client, vip) = (at(CLIENT, 42_001), at(VIP, DNS));
    let (local, backend) = open(&mut lab, &Packet::udp(client, vip));
    for (src, dst, us, them) in
        [(client, vip, VIP, CLIENT), (backend, local, *local.ip(), *backend.ip())]
    {
        let packet = Packet { ttl: 1, ..Packet::udp(src, dst) };
        let expected = icmp_frame(
            MAC_ME,
            if us == VIP { MAC_ROUTER } else { MAC_BACKENDS },
            (us, them),
            64,
            Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit),
            &packet.ip_bytes(),
            |_| (),
        );
        assert_eq!(lab.sent(&packet.bytes()), expected);
    }
    let packet = Packet { ttl: 1, ..Packet::udp(client, vip) };
    assert_eq!(lab.one(&packet.bytes()).0, Verdict::Drop(DropReason::TtlExpired));
    lab.pass(100);
    lab.sent(&packet.bytes());
    assert_eq!(lab.counters().count(Count::AnsweredTtl), 3);
}
