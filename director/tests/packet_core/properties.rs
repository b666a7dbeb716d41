//! What holds for all packets.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::DestUnreachableHeader;
use holdfast_director::core::{MissAnswer, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use super::support::packet::*;
use super::support::*;

/// Any packet between two endpoints that a session can have.
fn packet() -> impl Strategy<Value = Packet> {
    let header = (any::<u8>(), any::<u16>(), 3u8.., vec(Just(1u8), 0..10), any::<bool>());
    let tcp = (any::<u8>(), any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..10));
    let l4 = prop_oneof![
        tcp.prop_map(|(flags, seq, ack, options)| {
            let mut options = options;
            options.resize(options.len().div_ceil(4) * 4, 1);
            L4::Tcp { flags: flags & 0x1f, seq, ack, options }
        }),
        any::<bool>().prop_map(|checksum| L4::Udp { checksum }),
    ];
    let client = (any::<u8>(), 1u16..);
    (header, l4, client, vec(any::<u8>(), 0..1200)).prop_map(|(header, l4, client, payload)| {
        let (tos, id, ttl, mut ip_options, dont_fragment) = header;
        ip_options.resize(ip_options.len().div_ceil(4) * 4, 1);
        let port = if matches!(l4, L4::Udp { .. }) { DNS } else { WEB };
        Packet {
            src_mac: MAC_ROUTER,
            dst_mac: MAC_ME,
            src: at(std::net::Ipv4Addr::new(198, 51, 100, client.0), client.1),
            dst: at(VIP, port),
            ttl,
            tos,
            id,
            dont_fragment,
            ip_options,
            window: id,
            l4,
            payload,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What the client sends and the backend sends back unchanged arrives as it was sent, with
    /// source and destination exchanged; in between it verifies.
    #[test]
    fn there_and_back_is_the_identity(packet in packet()) {
        let mut lab = Lab::new();
        let opener = match packet.l4 {
            L4::Tcp { .. } => Packet::tcp(packet.src, packet.dst, SYN, 1, 0),
            L4::Udp { .. } => Packet::udp(packet.src, packet.dst),
        };
        let (local, backend) = verified_endpoints(&lab.sent(&opener.bytes()));
        if let L4::Tcp { .. } = packet.l4 {
            // Of an established connection: what does not fit a half-open one is asked about.
            lab.sent(&Packet::tcp(backend, local, SYN | ACK, 1, 2).bytes());
            lab.sent(&Packet::tcp(packet.src, packet.dst, ACK, 2, 2).bytes());
        }
        let there = lab.sent(&packet.bytes());
        prop_assert_eq!(&there, &packet.forwarded(local, backend).bytes());
        // The backend echoes: endpoints exchanged, all else as it came.
        let echoed = Packet { src: backend, dst: local, ttl: packet.ttl - 1, ..packet.clone() };
        let back = lab.sent(&echoed.bytes());
        prop_assert_eq!(back, echoed.forwarded(packet.dst, packet.src).bytes());
    }

    /// An ICMP error about a packet in the middle, translated, is the error about the packet at the
    /// end; and through the other direction it comes back to where it was.
    #[test]
    fn errors_about_any_packet_are_translated(packet in packet(), quoted in 28usize..700, mtu: u16) {
        let mut lab = Lab::new();
        let opener = match packet.l4 {
            L4::Tcp { .. } => Packet::tcp(packet.src, packet.dst, SYN, 1, 0),
            L4::Udp { .. } => Packet::udp(packet.src, packet.dst),
        };
        let (local, backend) = verified_endpoints(&lab.sent(&opener.bytes()));
        let header = 20 + packet.ip_options.len();
        let quoted = match quoted.max(header + 8) {
            // Half a checksum is not a number; it is left as it is.
            half if half == header + 17 => half + 1,
            other => other,
        };
        let cut = |packet: &Packet| {
            let mut bytes = packet.ip_bytes();
            bytes.truncate(quoted);
            bytes
        };
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        let error = Icmpv4Type::DestinationUnreachable(needed);
        let router = std::net::Ipv4Addr::new(172, 16, 0, 1);
        let middle = Packet { src: local, dst: backend, ..packet.clone() };
        let out = lab.sent(&icmp(router, *local.ip(), error.clone(), &cut(&middle)));
        let ends = (*packet.dst.ip(), *packet.src.ip());
        let expected = icmp_frame(MAC_ME, MAC_ROUTER, ends, 59, error.clone(), &cut(&packet), |_| ());
        prop_assert_eq!(out, expected);

        let reply = Packet { src: packet.dst, dst: packet.src, ..packet.clone() };
        let out = lab.sent(&icmp(router, *packet.dst.ip(), error.clone(), &cut(&reply)));
        let behind = Packet { src: backend, dst: local, ..packet.clone() };
        let ends = (*local.ip(), *backend.ip());
        let expected = icmp_frame(MAC_ME, MAC_BACKENDS, ends, 59, error, &cut(&behind), |_| ());
        prop_assert_eq!(out, expected);
    }

    /// Whatever comes, in whatever order with answers and time: nothing panics, every packet is
    /// counted once (the lab checks that after each step), and what is sent verifies if it did
    /// before.
    #[test]
    fn any_bytes_are_counted(steps in vec(step(), 1..60)) {
        let mut lab = Lab::new();
        for step in steps {
            match step {
                Step::Bytes(batch) => {
                    for (before, (verdict, after)) in batch.iter().zip(lab.batch(&batch)) {
                        if verdict == Verdict::Transmit {
                            verifies_as_before(before, &after)?;
                        }
                    }
                }
                Step::Pass(ms) => {
                    lab.pass(ms);
                    for (verdict, _) in lab.poll() {
                        prop_assert!(verdict != Verdict::Parked);
                    }
                }
                Step::Answer(known) => {
                    for question in lab.questions() {
                        let id = question.id;
                        lab.answer(match known {
                            true => MissAnswer::NoWithAuthority { id },
                            false => MissAnswer::DontKnow { id },
                        });
                    }
                }
            }
        }
        lab.pass(21);
        lab.poll();
        lab.poll();
        prop_assert_eq!(lab.core.parked(), 0);
    }
}

/// The Internet checksum (RFC 1071) over these bytes, by the book: 0 if the checksum among them is right.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words =
        bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Source, destination, and whether the checksum of what an IPv4 packet carries is right; after its own was
/// found right.
fn judged(frame: &[u8]) -> ([u8; 4], [u8; 4], bool) {
    let ip = &frame[14..];
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert_eq!(checksum(&[&ip[..header]]), 0, "IP checksum");
    let (src, dst): ([u8; 4], [u8; 4]) =
        (ip[12..16].try_into().unwrap(), ip[16..20].try_into().unwrap());
    let body = &ip[header..total];
    let length = (body.len() as u16).to_be_bytes();
    let pseudo = [&src[..], &dst, &[0, ip[9]], &length].concat();
    let right = match ip[9] {
        1 => checksum(&[body]) == 0,
        17 if body[6..8] == [0, 0] => true, // none
        _ => checksum(&[&pseudo, body]) == 0,
    };
    (src, dst, right)
}

/// What is forwarded is as right or as damaged as it came; an answer of the director's own is right.
fn verifies_as_before(before: &[u8], after: &[u8]) -> Result<(), TestCaseError> {
    let (from, _, was_right) = judged(before);
    let (_, to, is_right) = judged(after);
    let answered = to == from;
    prop_assert!(is_right || !was_right, "damaged on the way");
    prop_assert!(answered || is_right == was_right, "repaired on the way");
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<Vec<u8>>),
    Pass(u64),
    Answer(bool),
}

/// Valid packets, packets with some bytes changed or cut off, and noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let hurt = (packet(), vec((any::<u16>(), any::<u8>()), 0..4), any::<u16>(), any::<bool>());
    prop_oneof![
        1 => vec(any::<u8>(), 0..120),
        2 => (vec(any::<u8>(), 0..100), any::<[u8; 2]>()).prop_map(|(body, icmp)| {
            icmp_frame(
                MAC_ROUTER,
                MAC_ME,
                (CLIENT, VIP),
                9,
                Icmpv4Type::Unknown { type_u8: icmp[0] % 13, code_u8: icmp[1] % 6, bytes5to8: [0; 4] },
                &body,
                |_| (),
            )
        }),
        5 => hurt.prop_map(|(packet, changes, cut, whole)| {
            let mut bytes = packet.bytes();
            for (place, value) in changes {
                let place = usize::from(place) % bytes.len().min(60);
                bytes[place] = value;
            }
            if !whole {
                bytes.truncate(usize::from(cut) % (bytes.len() + 1));
            }
            bytes
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec(bytes(), 1..10).prop_map(Step::Bytes),
        1 => (0u64..15).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Answer),
    ]
}
