//! What is fuzzed. Each function takes any bytes, must not panic by itself, and asserts what always
//! holds. Shared by the libFuzzer targets and by the replay of the corpus in `cargo test`.

use holdfast_director::core::{CoreConfig, MissAnswer, Verdict};
use holdfast_director::session::SessionTable;
use holdfast_director::wire::quote::Endpoints;
use holdfast_director::wire::{Ethernet, Icmp, IcmpKind, Ipv4, Quote, Tcp, Udp, checksum, ipv4};
use holdfast_schema::cluster::{BackendId, ListenerId};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, SessionFlags, SessionRecord,
};

use super::support::{
    BACKEND_PORT, BACKENDS, FOREIGN_LIP, Lab, MAC_ME, MAC_ROUTER, ME, OTHER, cluster, tables_of,
};

/// Every parser over the same bytes.
pub fn wire(data: &[u8]) {
    if let Ok(ethernet) = Ethernet::parse(data) {
        let _ = ethernet.ether_type();
        assert_eq!(ethernet.payload().len() + 14, data.len());
    }
    for ip in [Ipv4::parse(data), Ipv4::parse_beginning(data)].into_iter().flatten() {
        assert!(ip.header_len() + ip.payload().len() <= data.len());
        assert!((20..=60).contains(&ip.header_len()));
        let _ = (ip.checksum_ok(), ip.is_fragment(), ip.total_len());
    }
    if let Ok(tcp) = Tcp::parse(data) {
        let options: usize = tcp.options().flatten().map(|option| option.data.len() + 2).sum();
        assert!(options <= 40 && tcp.options().count() <= 40);
        assert!(tcp.sequence_len() as usize <= tcp.payload().len() + 2);
    }
    if let Ok(udp) = Udp::parse(data) {
        assert!(udp.payload().len() + 8 <= data.len());
    }
    if let Ok(icmp) = Icmp::parse(data) {
        let _ = (icmp.kind(), icmp.mtu(), icmp.checksum_ok());
    }
    quote(data);
}

/// Rewriting a quote and rewriting it back is the identity, and the change of the sum is told right.
fn quote(data: &[u8]) {
    let Ok(quote) = Quote::parse(data) else { return };
    let v4 = |addr: holdfast_schema::flow::Addr| addr.v4_octets().expect("quotes are IPv4");
    let before = Endpoints {
        src: v4(quote.flow.src),
        dst: v4(quote.flow.dst),
        src_port: quote.flow.src_port,
        dst_port: quote.flow.dst_port,
    };
    let other =
        Endpoints { src: [10, 9, 0, 1], dst: [10, 1, 0, 2], src_port: 2048, dst_port: 8080 };
    let mut bytes = data.to_vec();
    let there = quote.rewrite(&mut bytes, &other).expect("it was parsed");
    assert_eq!(
        there.apply(checksum::finish(checksum::sum(data) + 1)),
        checksum::finish(checksum::sum(&bytes) + 1),
        "the message's checksum follows"
    );
    let middle = Quote::parse(&bytes).expect("it is as valid as before");
    assert_eq!((middle.flow.src_port, middle.flow.dst_port), (2048, 8080));
    let _ = middle.rewrite(&mut bytes, &before).expect("it was parsed");
    // Zero has two forms in ones' complement; a checksum may come back in the other one.
    let places = [10, quote.header_len + 6, quote.header_len + 16];
    for (at, (left, right)) in data.iter().zip(&bytes).enumerate() {
        let zero = places.iter().any(|place| at == *place || at == place + 1);
        assert!(left == right || zero && left ^ right == 0xff, "byte {at}");
    }
}

/// Cuts a script into its steps: a kind, a length (two bytes), and that many bytes.
fn steps(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([kind, high, low], rest) = data.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        data = rest;
        Some((*kind, bytes))
    })
}

/// A step of a script for [`core`].
pub fn step(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut step = vec![kind];
    step.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    step.extend_from_slice(bytes);
    step
}

/// A frame as it is.
pub const RAW: u8 = 0;
/// An IP packet; its IP and ICMP checksums are made right, or nothing would get far.
pub const PACKET: u8 = 1;
/// Milliseconds pass, as many as the first byte says.
pub const PASS: u8 = 2;
/// All questions are answered: denied, not known, or told, as the first byte says.
pub const ANSWER: u8 = 3;
/// UDP is asked about from now on, or not.
pub const UDP_ASK: u8 = 4;

/// A script of packets, answers and time through the whole core.
pub fn core(data: &[u8]) {
    let config = CoreConfig {
        waiting_packets: 8,
        waiting_flows: 4,
        waiting_packets_a_flow: 3,
        ..CoreConfig::for_workers(64, 1)
    };
    let table = std::sync::Arc::new(SessionTable::new(16, 8, ME, 1));
    let mut lab = Lab::on(table, tables_of(&cluster()), config);
    for (kind, bytes) in steps(data).take(64) {
        let first = bytes.first().copied().unwrap_or(0);
        match kind {
            RAW => {
                lab.one(bytes);
            }
            PACKET => {
                let frame = with_checksums(bytes);
                let (verdict, out) = lab.one(&frame);
                if verdict == Verdict::Transmit {
                    check_sent(&frame, &out);
                }
            }
            PASS => {
                lab.pass(u64::from(first));
                lab.poll();
            }
            ANSWER => {
                for question in lab.questions() {
                    let id = question.id;
                    lab.answer(match first % 3 {
                        0 => MissAnswer::NoWithAuthority { id },
                        1 => MissAnswer::DontKnow { id },
                        _ => MissAnswer::Found { id, record: record(&question.key) },
                    });
                }
            }
            _ => lab.core.set_udp_ask(first & 1 == 1),
        }
    }
    lab.pass(100);
    lab.poll();
    assert_eq!(lab.core.parked(), 0, "nothing waits for ever");
}

/// What is sent is a valid IP packet, and a valid ICMP message if it is one of ours or was one.
fn check_sent(received: &[u8], sent: &[u8]) {
    let ethernet = Ethernet::parse(sent).expect("an Ethernet frame");
    let ip = Ipv4::parse(ethernet.payload()).expect("an IP packet");
    assert!(ip.checksum_ok() && ip.ttl() > 0);
    assert_eq!(sent[6..12], MAC_ME);
    if ip.protocol() == ipv4::PROTOCOL_ICMP {
        let icmp = Icmp::parse(ip.payload()).expect("an ICMP message");
        assert!(icmp.checksum_ok(), "{received:02x?} became {sent:02x?}");
        if matches!(icmp.kind(), IcmpKind::Unreachable | IcmpKind::TimeExceeded) {
            Quote::parse(icmp.body()).expect("its quote is whole");
        }
    }
}

fn put_ip_checksum(ip: &mut [u8]) {
    let header_len = usize::from(ip.first().copied().unwrap_or(0) & 0x0f) * 4;
    if header_len < 20 || ip.len() < header_len {
        return;
    }
    ip[10..12].fill(0);
    let check = checksum::finish(checksum::sum(&ip[..header_len]));
    ip[10..12].copy_from_slice(&check.to_be_bytes());
}

/// A frame with this IP packet, the total length and the checksums of IP and ICMP made right.
fn with_checksums(ip: &[u8]) -> Vec<u8> {
    let mut ip = ip.to_vec();
    if ip.len() >= 20 {
        let total = (ip.len() as u16).to_be_bytes();
        ip[2..4].copy_from_slice(&total);
        put_ip_checksum(&mut ip);
        let header_len = usize::from(ip[0] & 0x0f) * 4;
        if ip[9] == ipv4::PROTOCOL_ICMP && header_len >= 20 && ip.len() >= header_len + 8 {
            put_ip_checksum(&mut ip[header_len + 8..]);
            ip[header_len + 2..header_len + 4].fill(0);
            let check = checksum::finish(checksum::sum(&ip[header_len..]));
            ip[header_len + 2..header_len + 4].copy_from_slice(&check.to_be_bytes());
        }
    }
    let mut frame = [MAC_ME, MAC_ROUTER].concat();
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(&ip);
    frame
}

/// A record as another director would tell it about this key, of whatever direction.
fn record(asked: &FlowKey) -> SessionRecord {
    let backend = (BACKENDS[0], BACKEND_PORT).into();
    let bucket = asked.src_port & 0x3f;
    let to_lip = asked.dst == FOREIGN_LIP.into();
    let (key, reply) = match to_lip {
        true => {
            let client = ([198, 51, 100, 1], asked.dst_port).into();
            (FlowKey::new(asked.protocol, client, ([203, 0, 113, 10], 80).into()), *asked)
        }
        false => {
            let local = (FOREIGN_LIP, 1024 + bucket).into();
            (*asked, FlowKey::new(asked.protocol, backend, local))
        }
    };
    let seen = HalfSeen { age_ms: 5, seq: 1, ack: 1 };
    SessionRecord {
        key,
        reply,
        incarnation: Incarnation { stamp: 7, creator: OTHER, counter: 1, isn: 0 },
        generation: 1,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: match asked.src_port % 7 {
            0 => ForwardingMode::Dnat,
            _ => ForwardingMode::FullNat,
        },
        owner: OTHER,
        flags: SessionFlags(asked.src_port & 0xff),
        created_age_ms: 10,
        idle_timeout_ms: if asked.protocol == Protocol::Tcp { 900_000 } else { 120_000 },
        isn_delta: 0,
        timestamp_delta: 0,
        client: seen,
        backend_seen: seen,
    }
}
