//! What packets tell about their session, and SYNs on sessions that are there already.

use holdfast_director::core::{CoreConfig, Count, DropReason, MissAnswer, Verdict};
use holdfast_director::session::{Lookup, Side};
use holdfast_director::tables::ForwardingTables;
use holdfast_schema::cluster::{Backend, BackendId, ClusterState};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{SessionFlags as F, SessionSink};

use super::full_nat::{open, open_answered};
use super::misses::is_denied;
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

/// The local port is that of an older connection, which nobody knows any more but its backend.
#[test]
fn a_client_that_resets_an_older_connection_at_its_backend_goes_on_opening_its_own() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_013), at(VIP, WEB));
    let syn = Packet::tcp(client, vip, SYN, 100, 0);
    let (local, backend) = open(&mut lab, &syn);
    let challenge = Packet::tcp(backend, local, ACK, 7_000, 9_000);
    let reset = Packet::tcp(client, vip, RST, 9_000, 0);
    let syn_ack = Packet::tcp(backend, local, SYN | ACK, 500, 101);
    let ack = Packet::tcp(client, vip, ACK, 101, 501);
    lab.sent(&challenge.bytes());
    for packet in [&reset, &syn] {
        assert_eq!(lab.sent(&packet.bytes()), packet.forwarded(local, backend).bytes());
    }
    lab.sent(&syn_ack.bytes());
    lab.sent(&ack.bytes());
    let flags = lab.table.session_of(client, vip).flags;
    assert!(flags.established() && !flags.closing());
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
    let data = Packet::tcp(client, vip, PSH, 7_001, 0).payload(b"early");
    let out = lab.batch(&[syn.bytes(), data.bytes()]);
    let (new_local, new_backend) = verified_endpoints(&out[0].1);
    assert_ne!(new_local, local);
    assert_eq!(out[1], (Verdict::Transmit, data.forwarded(new_local, new_backend).bytes()));
}

#[test]
fn sessions_keep_their_backend_when_the_tables_change() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_005), at(VIP, WEB));
    let (local, backend) = open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 100, 0), 500);
    let name = backend.ip().to_string();
    let stays = |lab: &mut Lab| {
        let up = Packet::tcp(client, vip, ACK, 101, 501);
        assert_eq!(lab.sent(&up.bytes()), up.forwarded(local, backend).bytes());
        let down = Packet::tcp(backend, local, ACK, 501, 101);
        assert_eq!(lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
    };
    let web = |cluster: &mut ClusterState, change: &dyn Fn(&mut Backend)| {
        let group = cluster.groups.get_mut("web").expect("the group of the listener");
        change(group.backends.get_mut(&name).expect("the backend of the session"));
    };
    let mut cluster = cluster();
    // It weighs less than others, then nothing; it is drained.
    for (weight, draining) in [(1, false), (0, false), (0, true), (1, true)] {
        web(&mut cluster, &|backend| {
            (backend.spec.weight, backend.spec.draining) = (weight, draining);
        });
        for other in cluster.groups.get_mut("web").unwrap().backends.values_mut() {
            if other.spec.name != name {
                other.spec.weight = 100;
            }
        }
        lab.install(&cluster);
        stays(&mut lab);
    }
    // Others come, and go; so do other listeners.
    cluster.next.backend += 1;
    let mut new = cluster.groups["web"].backends[&name].clone();
    new.id = BackendId(cluster.next.backend - 1);
    new.spec.name = "new".into();
    new.spec.address = "10.1.0.4:8080".parse().unwrap();
    cluster.groups.get_mut("web").unwrap().backends.insert("new".into(), new);
    lab.install(&cluster);
    stays(&mut lab);
    cluster.groups.get_mut("web").unwrap().backends.retain(|other, _| *other == name);
    cluster.groups.retain(|group, _| group == "web");
    cluster.listeners.retain(|listener, _| listener == "web");
    lab.install(&cluster);
    stays(&mut lab);
    // It is unhealthy, as all of them are.
    lab.tables = ForwardingTables::build(&cluster, ME, &|_| false, next_hops(), None);
    lab.table.configure(lab.tables.configured());
    stays(&mut lab);
    assert_eq!(lab.table.stats().removed, 0);
    // It goes, and its session with it.
    cluster.groups.get_mut("web").unwrap().backends.clear();
    lab.install(&cluster);
    assert_eq!((lab.table.sessions(), lab.table.stats().removed), (0, 1));
    let down = Packet::tcp(backend, local, ACK, 501, 101);
    assert_eq!(lab.one(&down.bytes()).0, Verdict::Parked, "it is unknown now");
}

/// What is left of a session after a forced removal: packets of unknown sessions.
#[test]
fn packets_of_a_removed_backend_are_those_of_unknown_sessions() {
    let mut lab = Lab::new();
    let (web, dns) = (at(VIP, WEB), at(VIP, DNS));
    let client = |n: u16| at(CLIENT, 43_100 + n);
    // Until there is one of each kind at the same backend.
    let (local, backend) = open(&mut lab, &Packet::tcp(client(0), web, SYN, 100, 0));
    let datagram = (1..200)
        .map(|n| Packet::udp(client(n), dns))
        .find(|packet| open(&mut lab, packet).1 == backend)
        .expect("one of many goes to this backend");
    let record = lab.table.session_of(client(0), web);
    let mut cluster = cluster();
    cluster.groups.get_mut("web").unwrap().backends.remove(&backend.ip().to_string()).unwrap();
    lab.install(&cluster);
    // The client's segments are denied by all, and get what the listener wants.
    let up = Packet::tcp(client(0), web, ACK, 101, 501);
    assert_eq!(lab.one(&up.bytes()).0, Verdict::Parked);
    // A director that has not come that far tells of it. That neither brings it back nor denies it.
    let question = lab.questions()[0];
    let told = MissAnswer::Found { id: question.id, record: record.clone() };
    assert_eq!(lab.answer(told), []);
    lab.table.created(&record);
    assert_eq!(lab.core.parked(), 1, "asked again");
    lab.pass(5);
    let question = lab.questions()[0];
    let released = lab.answer(MissAnswer::NoWithAuthority { id: question.id });
    assert_eq!(released, [(Verdict::Drop(DropReason::DeniedOnce), up.bytes())]);
    lab.pass(200);
    let released = is_denied(&mut lab, &up.bytes());
    let reset = Packet {
        src_mac: MAC_ME,
        dst_mac: MAC_ROUTER,
        ttl: 64,
        id: 0,
        window: 0,
        ..Packet::tcp(web, client(0), RST, 501, 0)
    };
    assert_eq!(released, [(Verdict::Transmit, reset.bytes())]);
    // A datagram begins anew elsewhere.
    let (_, other) = open(&mut lab, &datagram);
    assert_ne!(other, backend);
    // What the backend still sends goes nowhere.
    let down = Packet::tcp(backend, local, ACK, 501, 101).bytes();
    assert_eq!(lab.one(&down).0, Verdict::Parked);
    let question = lab.questions()[0];
    let released = lab.answer(MissAnswer::NoWithAuthority { id: question.id });
    assert_eq!(released, [(Verdict::Drop(DropReason::ReplyDenied), down)]);
    // A new connection of the client works at once.
    let (_, other) = open(&mut lab, &Packet::tcp(client(0), web, SYN, 7_000, 0));
    assert_ne!(other, backend);
}

/// Its tables are a moment older than the session table's: the SYN waits for the new ones.
#[test]
fn a_syn_for_a_backend_that_was_just_removed_goes_to_another() {
    let mut lab = Lab::new();
    let (client, vip) = (at(CLIENT, 43_012), at(VIP, WEB));
    let syn = Packet::tcp(client, vip, SYN, 100, 0);
    let first = lab.tables.listener(&(*vip.ip()).into(), WEB, Protocol::Tcp).unwrap();
    let first = lab.tables.schedule(first, &(*client.ip()).into(), client.port()).unwrap();
    let name = first.name.to_string();
    let mut cluster = cluster();
    cluster.groups.get_mut("web").unwrap().backends.remove(&name).unwrap();
    let newer = tables_of(&cluster);
    lab.table.configure(newer.configured());
    assert_eq!(lab.one(&syn.bytes()).0, Verdict::Parked);
    assert_eq!(lab.table.sessions(), 0);
    lab.tables = newer;
    lab.pass(1);
    let released = lab.poll();
    assert_eq!(released.len(), 1);
    let (local, backend) = verified_endpoints(&released[0].1);
    assert_ne!(backend.ip().to_string(), name);
    assert_eq!(released[0], (Verdict::Transmit, syn.forwarded(local, backend).bytes()));
    // A listener that goes in that moment has nothing to say any more.
    cluster.listeners.remove("web");
    let newer = tables_of(&cluster);
    lab.table.configure(newer.configured());
    let syn = Packet::tcp(at(CLIENT, 43_013), vip, SYN, 100, 0).bytes();
    assert_eq!(lab.one(&syn).0, Verdict::Parked);
    lab.tables = newer;
    lab.pass(1);
    assert_eq!(lab.poll(), [(Verdict::Drop(DropReason::NoListener), syn)]);
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
