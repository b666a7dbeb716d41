//! FullNAT, both directions, byte by byte.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use holdfast_director::core::{Count, DropReason, Verdict};
use holdfast_director::tables::ForwardingTables;
use holdfast_schema::bucket::Bucket;
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::SessionSink;

use super::support::packet::*;
use super::support::*;

/// Opens a session by its first packet and returns (local endpoint, backend) as they were chosen.
#[track_caller]
pub fn open(lab: &mut Lab, first: &Packet) -> (std::net::SocketAddrV4, std::net::SocketAddrV4) {
    let out = lab.sent(&first.bytes());
    let (local, backend) = verified_endpoints(&out);
    assert_eq!(out, first.forwarded(local, backend).bytes());
    (local, backend)
}

/// [`open`], and the backend answers with this initial sequence number.
#[track_caller]
pub fn open_answered(
    lab: &mut Lab,
    first: &Packet,
    isn: u32,
) -> (std::net::SocketAddrV4, std::net::SocketAddrV4) {
    let (local, backend) = open(lab, first);
    let L4::Tcp { seq, .. } = first.l4 else { panic!("no SYN") };
    lab.sent(&Packet::tcp(backend, local, SYN | ACK, isn, seq + 1).bytes());
    (local, backend)
}

#[test]
fn both_directions_of_tcp_and_udp() {
    for (udp, port) in [(false, WEB), (true, DNS)] {
        for ip_options in [&[][..], &[1, 1, 1, 0], &[7, 7, 4, 0, 0, 0, 0, 0]] {
            let mut lab = Lab::new();
            let (client, vip) = (at(CLIENT, 40_000), at(VIP, port));
            let make = |src, dst, flags, seq, ack| Packet {
                ip_options: ip_options.to_vec(),
                ..if udp { Packet::udp(src, dst) } else { Packet::tcp(src, dst, flags, seq, ack) }
            };
            let first = Packet { tos: 0xb9, ..make(client, vip, SYN, 100, 0) };
            let (local, backend) = open(&mut lab, &first);
            assert!(OWN_LIPS.contains(local.ip()), "{local}");
            assert!(BACKENDS.contains(backend.ip()) && backend.port() == BACKEND_PORT);
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let bucket = KEY.bucket(protocol, &CLIENT.into(), 40_000);
            assert_eq!(Bucket::of_local_port(local.port()), bucket);
            assert!(local.port() >= 1024);

            if !udp {
                lab.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
            }
            for payload in [&b""[..], b"x", b"even", b"an odd one", &[0xff; 1400]] {
                let up = make(client, vip, ACK | PSH, 101, 501).payload(payload);
                assert_eq!(lab.sent(&up.bytes()), up.forwarded(local, backend).bytes());
                let down = make(backend, local, ACK | PSH, 501, 101).payload(payload);
                assert_eq!(lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
            }
            let counters = lab.counters();
            assert_eq!(counters.count(Count::ToBackendPackets), 6);
            assert_eq!(counters.count(Count::ToClientPackets), 5 + u64::from(!udp));
            assert_eq!(counters.count(Count::SessionsOpenedTcp), u64::from(!udp));
            assert_eq!(counters.count(Count::SessionsOpenedUdp), u64::from(udp));
            assert_eq!(counters.dropped_packets(), 0);
        }
    }
}

#[test]
fn tcp_options_pass_untouched() {
    let mut lab = Lab::new();
    let options = vec![2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let mut syn = Packet::tcp(at(CLIENT, 40_001), at(VIP, WEB), SYN, 1, 0);
    syn.l4 = L4::Tcp { flags: SYN, seq: 1, ack: 0, options };
    open(&mut lab, &syn);
}

#[test]
fn a_udp_checksum_of_none_stays_none() {
    let mut lab = Lab::new();
    let datagram = |src, dst| Packet {
        l4: L4::Udp { checksum: false },
        ..Packet::udp(src, dst).payload(b"query")
    };
    let (client, vip) = (at(CLIENT, 40_002), at(VIP, DNS));
    let (local, backend) = open(&mut lab, &datagram(client, vip));
    let down = datagram(backend, local);
    assert_eq!(lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
}

#[test]
fn a_computed_udp_checksum_of_zero_becomes_ones() {
    // Try payloads until the checksum after translation is all ones; etherparse knows the rule.
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 40_003), at(VIP, DNS));
    let (local, backend) = open(&mut lab, &Packet::udp(client, vip));
    let mut met = false;
    for n in 0..=u16::MAX {
        let up = Packet::udp(client, vip).payload(&n.to_be_bytes());
        let expected = up.forwarded(local, backend).bytes();
        if expected[40..42] == [0xff, 0xff] {
            met = true;
            assert_eq!(lab.sent(&up.bytes()), expected);
        }
    }
    assert!(met, "one of 65536 payloads gives this checksum");
}

#[test]
fn a_damaged_checksum_stays_damaged() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 40_004), at(VIP, WEB));
    let (local, backend) = open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 1, 0), 1);
    let up = Packet::tcp(client, vip, ACK, 2, 2).payload(b"data");
    let mut damaged = up.bytes();
    *damaged.last_mut().unwrap() ^= 4;
    let mut expected = up.forwarded(local, backend).bytes();
    *expected.last_mut().unwrap() ^= 4;
    assert_eq!(lab.sent(&damaged), expected);
}

#[test]
fn ethernet_padding_is_carried_and_not_summed() {
    let mut lab = Lab::new();
    let syn = Packet::tcp(at(CLIENT, 40_005), at(VIP, WEB), SYN, 1, 0);
    let mut padded = syn.bytes();
    padded.extend_from_slice(&[0xaa; 6]);
    let out = lab.sent(&padded);
    let (local, backend) = verified_endpoints(&out[..out.len() - 6]);
    let mut expected = syn.forwarded(local, backend).bytes();
    expected.extend_from_slice(&[0xaa; 6]);
    assert_eq!(out, expected);
}

#[test]
fn sessions_spread_over_backends_lips_and_ports() {
    let mut lab = Lab::new();
    let mut locals = std::collections::BTreeSet::new();
    let mut backends = std::collections::BTreeMap::new();
    for port in 20_000..20_600 {
        let syn = Packet::tcp(at(CLIENT, port), at(VIP, WEB), SYN, 1, 0);
        let (local, backend) = open(&mut lab, &syn);
        assert!(locals.insert((local, backend)), "a local port towards a backend is used once");
        *backends.entry(backend).or_insert(0) += 1;
    }
    assert_eq!(backends.len(), 3);
    assert!(backends.values().all(|n| (120..=280).contains(n)), "{backends:?}");
    for lip in OWN_LIPS {
        assert!(locals.iter().filter(|(local, _)| *local.ip() == lip).count() > 200);
    }
}

#[test]
fn one_batch_holds_many_flows_in_order() {
    let mut lab = Lab::new();
    let mut packets = Vec::new();
    for port in 30_000..30_100 {
        let (client, vip) = (at(CLIENT, port), at(VIP, WEB));
        packets.push(Packet::tcp(client, vip, SYN, 7, 0));
        // Nobody sends this so soon, but it must find the session that its SYN just opened.
        packets.push(Packet::tcp(client, vip, PSH, 8, 0).payload(b"first data"));
    }
    let bytes: Vec<_> = packets.iter().map(Packet::bytes).collect();
    let out = lab.batch(&bytes);
    for (pair, sent) in packets.chunks(2).zip(out.chunks(2)) {
        assert_eq!((sent[0].0, sent[1].0), (Verdict::Transmit, Verdict::Transmit));
        let (local, backend) = verified_endpoints(&sent[0].1);
        assert_eq!(sent[0].1, pair[0].forwarded(local, backend).bytes());
        assert_eq!(sent[1].1, pair[1].forwarded(local, backend).bytes());
    }
    assert_eq!(lab.counters().count(Count::SessionsOpenedTcp), 100);
}

#[test]
fn two_workers_share_sessions() {
    let mut a = Lab::new();
    let mut b = Lab::on(
        a.table.clone(),
        tables_of(&cluster()),
        holdfast_director::core::CoreConfig::for_workers(10_000, 1),
    );
    let (client, vip) = (at(CLIENT, 40_006), at(VIP, WEB));
    let (local, backend) = open(&mut a, &Packet::tcp(client, vip, SYN, 1, 0));
    // Receive side scaling gives the replies to the other worker.
    let down = Packet::tcp(backend, local, SYN | ACK, 9, 2);
    assert_eq!(b.sent(&down.bytes()), down.forwarded(vip, client).bytes());
    assert_eq!(b.counters().count(Count::SharedLookups), 1);
    assert_eq!(b.sent(&down.bytes()), down.forwarded(vip, client).bytes());
    assert_eq!(b.counters().count(Count::SharedLookups), 1, "the second time its own cache knows");
}

#[test]
fn a_new_next_hop_counts_from_the_next_batch_on() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 40_007), at(VIP, WEB));
    let (local, backend) = open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 1, 0), 1);
    let moved = [2, 0, 0, 0, 0, 0xc];
    lab.tables = ForwardingTables::build(
        &cluster(),
        ME,
        &|_| true,
        next_hops_with(moved),
        Some(&lab.tables),
    );
    let up = Packet::tcp(client, vip, ACK, 2, 2);
    let expected = Packet { dst_mac: moved, ..up.forwarded(local, backend) };
    assert_eq!(lab.sent(&up.bytes()), expected.bytes());
}

/// Workers meet each other's and the store's locks. Whoever meets one waits; nothing is lost but
/// what waits for longer than a packet may (the thread with the lock may be preempted).
#[test]
fn taken_locks_lose_no_packet() {
    const SYNS: u16 = 4_000;
    let mut source = Lab::new();
    let mut records = Vec::new();
    for port in 1..200 {
        let (client, vip) = (at(CLIENT, port), at(VIP, QUIET));
        open(&mut source, &Packet::tcp(client, vip, SYN, 1, 0));
        let mut record = source.table.session_of(client, vip);
        record.reply.dst = FOREIGN_LIP.into();
        records.push(record);
    }
    let mut lab = Lab::new();
    let (begin, stop) = (Instant::now(), AtomicBool::new(false));
    let (mut sent, mut dropped) = (0, 0);
    std::thread::scope(|scope| {
        // Ends the other thread in any case, or a failure here would wait for it for ever.
        struct Stop<'s>(&'s AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let table = lab.table.clone();
        let (records, stop) = (&records, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for record in records {
                    table.created(record);
                }
            }
        });
        let _stop = Stop(stop);
        for port in 10_000..10_000 + SYNS {
            let syn = Packet::tcp(at(CLIENT, port), at(VIP, WEB), SYN, 1, 0);
            let mut outcome = lab.one(&syn.bytes());
            while outcome.0 == Verdict::Parked {
                lab.now_ns = START + begin.elapsed().as_nanos() as u64;
                outcome = lab.poll().pop().unwrap_or((Verdict::Parked, Vec::new()));
            }
            match outcome {
                (Verdict::Transmit, bytes) => {
                    verified_endpoints(&bytes);
                    sent += 1;
                }
                (verdict, _) => {
                    assert_eq!(verdict, Verdict::Drop(DropReason::Contended));
                    dropped += 1;
                }
            }
        }
    });
    assert_eq!(sent + dropped, u64::from(SYNS));
    assert_eq!(lab.counters().count(Count::SessionsOpenedTcp), sent);
    assert_eq!(lab.counters().dropped(DropReason::Contended), dropped);
    assert!(sent > u64::from(SYNS) / 2, "{sent} of {SYNS}");
    assert_eq!(lab.core.parked(), 0);
}

#[test]
fn a_packet_for_nobody_is_not_ours() {
    let mut lab = Lab::new();
    let stray = Packet::tcp(at(CLIENT, 1), at(std::net::Ipv4Addr::new(8, 8, 8, 8), 80), SYN, 1, 0);
    assert_eq!(lab.one(&stray.bytes()).0, Verdict::Drop(DropReason::NotOurs));
}
