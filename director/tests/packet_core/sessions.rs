//! What packets tell about their session, and SYNs on sessions that are there already.

use holdfast_director::core::{CoreConfig, Count, Verdict};
use holdfast_director::session::{Lookup, Side};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::SessionFlags as F;

use super::full_nat::open;
use super::support::packet::*;
use super::support::*;

fn flags(all: &[F]) -> u16 {
    all.iter().fold(F::default(), |sum, f| sum.with(*f)).0
}

#[test]
fn a_connection_from_syn_to_last_fin() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_000), at(VIP, WEB));
    let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
    let mut expected = vec![F::CLIENT_OPENED];
    let state = |lab: &Lab| lab.table.session_of(client, vip).flags.0;
    assert_eq!(state(&lab), flags(&expected));
    assert_eq!(lab.table.stats().half_open, 1);
    for (down, bits, seq, ack, payload, news) in [
        (true, SYN | ACK, 500, 101, 0, &[F::BACKEND_ANSWERED][..]),
        (false, ACK, 101, 501, 0, &[F::ESTABLISHED]),
        (false, ACK | PSH, 101, 501, 10, &[]),
        (true, ACK, 501, 111, 0, &[]),
        (true, ACK | FIN, 501, 111, 4, &[F::BACKEND_FIN, F::BACKEND_CLOSED_FIRST]),
        (false, ACK, 111, 506, 0, &[]),
        (false, ACK | FIN, 111, 506, 0, &[F::CLIENT_FIN]),
        (true, ACK, 506, 112, 0, &[]),
    ] {
        let (src, dst) = if down { (backend, local) } else { (client, vip) };
        lab.pass(10);
        lab.sent(&Packet::tcp(src, dst, bits, seq, ack).payload(&vec![1; payload]).bytes());
        expected.extend_from_slice(news);
        assert_eq!(state(&lab), flags(&expected));
        let record = lab.table.session_of(client, vip);
        let seen = if down { record.backend_seen } else { record.client };
        let length = payload as u32 + u32::from(bits & SYN != 0) + u32::from(bits & FIN != 0);
        assert_eq!((seen.age_ms, seen.seq, seen.ack), (0, seq + length, ack));
    }
    assert_eq!(lab.table.stats().half_open, 0);
    assert_eq!(lab.table.session_of(client, vip).flags.state_name(), "closed");
}

/// Anybody can send a RST with the right addresses and ports. The endpoint judges it by its number,
/// and so does the director.
#[test]
fn a_blind_reset_is_forwarded_and_ends_nothing() {
    for from_backend in [false, true] {
        let mut lab = Lab::new();
        let (client, vip) = (at(CLIENT, 43_010), at(VIP, WEB));
        let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
        lab.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
        lab.sent(&Packet::tcp(client, vip, ACK, 101, 501).bytes());
        let before = lab.table.session_of(client, vip);
        let (src, dst, to_src, to_dst) = match from_backend {
            false => (client, vip, local, backend),
            true => (backend, local, vip, client),
        };
        lab.pass(50);
        // Twice: the first one must not make its number that of the sender.
        for seq in [7_000, 7_000, 7_001] {
            let blind = Packet::tcp(src, dst, RST, seq, 0);
            assert_eq!(lab.sent(&blind.bytes()), blind.forwarded(to_src, to_dst).bytes());
        }
        let after = lab.table.session_of(client, vip);
        assert_eq!(after.flags.0, before.flags.0, "the session goes on");
        assert_eq!((after.client.seq, after.backend_seen.seq), (101, 501));
        assert_eq!(lab.counters().count(Count::ResetsUnbelieved), 3);
        let true_one = Packet::tcp(src, dst, RST, if from_backend { 501 } else { 101 }, 0);
        assert_eq!(lab.sent(&true_one.bytes()), true_one.forwarded(to_src, to_dst).bytes());
        assert!(lab.table.session_of(client, vip).flags.has(F::RESET));
    }
}

#[test]
fn udp_is_established_by_the_first_answer() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_001), at(VIP, DNS));
    let (local, backend) = open(&mut lab, &Packet::udp(client, vip));
    lab.sent(&Packet::udp(client, vip).bytes());
    assert!(!lab.table.session_of(client, vip).flags.established());
    lab.sent(&Packet::udp(backend, local).bytes());
    assert!(lab.table.session_of(client, vip).flags.established());
}

#[test]
fn a_retransmitted_syn_reuses_its_session() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_002), at(VIP, WEB));
    let syn = Packet::tcp(client, vip, SYN, 100, 0);
    let (local, backend) = open(&mut lab, &syn);
    let again = Packet { id: 0x9999, ..syn.clone() };
    assert_eq!(lab.sent(&again.bytes()), again.forwarded(local, backend).bytes());
    // Even if the backend refused meanwhile: it is the same attempt.
    lab.sent(&Packet::tcp(backend, local, RST | ACK, 0, 101).bytes());
    assert_eq!(lab.sent(&again.bytes()), again.forwarded(local, backend).bytes());
    assert_eq!(lab.table.stats().opened, 1);
}

#[test]
fn a_syn_on_a_live_session_passes_through() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_003), at(VIP, WEB));
    let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
    lab.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
    lab.sent(&Packet::tcp(client, vip, ACK, 101, 501).bytes());
    let syn = Packet::tcp(client, vip, SYN, 90_000, 0);
    assert_eq!(lab.sent(&syn.bytes()), syn.forwarded(local, backend).bytes());
    // The challenge ACK goes back to the client.
    let challenge = Packet::tcp(backend, local, ACK, 501, 101);
    assert_eq!(lab.sent(&challenge.bytes()), challenge.forwarded(vip, client).bytes());
    assert_eq!(lab.table.stats().opened, 1);
}

#[test]
fn a_syn_on_a_closing_session_opens_a_new_one() {
    for reset in [false, true] {
        let mut lab = Lab::new();
        let (client, vip) = (at(CLIENT, 43_004), at(VIP, WEB));
        let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
        lab.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
        lab.sent(&Packet::tcp(client, vip, ACK, 101, 501).bytes());
        if reset {
            lab.sent(&Packet::tcp(client, vip, RST, 101, 0).bytes());
        } else {
            lab.sent(&Packet::tcp(backend, local, FIN | ACK, 501, 101).bytes());
            lab.sent(&Packet::tcp(client, vip, FIN | ACK, 101, 502).bytes());
        }
        let old = lab.table.session_of(client, vip).incarnation;
        // The very SYN of the old connection, late: not a new one.
        let late = Packet::tcp(client, vip, SYN, 100, 0);
        assert_eq!(lab.sent(&late.bytes()), late.forwarded(local, backend).bytes());

        let (new_local, new_backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 7_000, 0));
        assert_ne!(new_local, local, "the old port may be in TIME_WAIT at the backend");
        assert_eq!(new_backend, backend, "the scheduler is a hashing one");
        let new = lab.table.session_of(client, vip);
        assert!(new.incarnation > old && new.incarnation.isn == 7_000);
        assert_eq!(new.flags.0, F::CLIENT_OPENED.0);
        assert_eq!(lab.counters().count(Count::SessionsReplaced), 1);
        // Both directions of the new one work.
        let down = Packet::tcp(new_backend, new_local, SYN | ACK, 1, 7_001);
        assert_eq!(lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
        let up = Packet::tcp(client, vip, ACK, 7_001, 2);
        assert_eq!(lab.sent(&up.bytes()), up.forwarded(new_local, new_backend).bytes());
    }
}

/// Fast open: the data come right behind the SYN that opens their session.
#[test]
fn data_behind_a_reopening_syn_go_with_it() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_011), at(VIP, WEB));
    let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
    lab.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
    lab.sent(&Packet::tcp(client, vip, ACK, 101, 501).bytes());
    lab.sent(&Packet::tcp(client, vip, RST, 101, 0).bytes());
    let syn = Packet::tcp(client, vip, SYN, 7_000, 0);
    let data = Packet::tcp(client, vip, ACK, 7_001, 1).payload(b"early");
    let out = lab.batch(&[syn.bytes(), data.bytes()]);
    let (new_local, new_backend) = verified_endpoints(&out[0].1);
    assert_ne!(new_local, local);
    assert_eq!(out[1], (Verdict::Transmit, data.forwarded(new_local, new_backend).bytes()));
}

#[test]
fn sessions_keep_their_backend_when_the_tables_change() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_005), at(VIP, WEB));
    let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
    let mut cluster = cluster();
    // The listener is gone, and so are all backends.
    cluster.listeners.retain(|_, listener| listener.spec.port != WEB);
    cluster.groups.clear();
    lab.tables = tables_of(&cluster);
    let up = Packet::tcp(client, vip, ACK, 101, 501);
    assert_eq!(lab.sent(&up.bytes()), up.forwarded(local, backend).bytes());
    let down = Packet::tcp(backend, local, ACK, 501, 101);
    assert_eq!(lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
}

#[test]
fn stamps_are_unix_time() {
    let config =
        CoreConfig { unix_ms_at_zero: 1_700_000_000_000, ..CoreConfig::for_workers(10, 1) };
    let mut lab = Lab::with(10, config);
    let (client, vip) = (at(CLIENT, 43_006), at(VIP, DNS));
    open(&mut lab, &Packet::udp(client, vip));
    let stamp = lab.table.session_of(client, vip).incarnation.stamp;
    assert_eq!(stamp, 1_700_000_000_000 + START / MS);
}

#[test]
fn a_session_freed_by_another_thread_is_not_used_again() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_007), at(VIP, WEB));
    open(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0));
    let key = FlowKey::new(Protocol::Tcp, client.into(), vip.into());
    let Lookup::Found(slot, Side::Client) = lab.table.lookup(&key) else { panic!("known") };
    assert!(lab.table.remove(slot, &key));
    let up = Packet::tcp(client, vip, ACK, 101, 501);
    assert_eq!(lab.one(&up.bytes()).0, Verdict::Parked, "it is unknown now");
}
