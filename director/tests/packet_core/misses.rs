//! Packets of sessions that this director does not know.

use std::net::SocketAddrV4;

use holdfast_director::core::{
    CoreConfig, Count, DropReason, MissAnswer, MissKind, MissQuestion, Verdict,
};
use holdfast_schema::session::{SessionFlags, SessionRecord, SessionSink};

use super::full_nat::{open, open_answered};
use super::support::packet::*;
use super::support::*;

/// A session that another director opened, as it would tell it, and its endpoints.
pub(super) struct Foreign {
    pub(super) record: SessionRecord,
    pub(super) client: std::net::SocketAddrV4,
    pub(super) vip: std::net::SocketAddrV4,
    pub(super) local: std::net::SocketAddrV4,
    pub(super) backend: std::net::SocketAddrV4,
}

pub(super) fn foreign(port: u16, udp: bool) -> Foreign {
    begun(port, udp, true)
}

/// A connection that another director has only seen the SYN of.
pub(super) fn half_open(port: u16) -> Foreign {
    begun(port, false, false)
}

fn begun(port: u16, udp: bool, answered: bool) -> Foreign {
    let mut other = Lab::new();
    let mut cluster = cluster();
    for (ip, lip) in &mut cluster.lips {
        lip.owner = Some(if *ip == std::net::IpAddr::V4(FOREIGN_LIP) { ME } else { OTHER });
    }
    other.tables = tables_of(&cluster);
    let (client, vip) = (at(CLIENT, port), at(VIP, if udp { GAME } else { WEB }));
    let first = if udp { Packet::udp(client, vip) } else { Packet::tcp(client, vip, SYN, 100, 0) };
    if udp {
        // Ask mode: nobody else is there to know it.
        assert_eq!(other.one(&first.bytes()).0, Verdict::Parked);
        let id = other.questions()[0].id;
        other.answer(MissAnswer::NoWithAuthority { id });
    } else {
        other.sent(&first.bytes());
    }
    let (local, backend) = ends(&other.table.session_of(client, vip));
    if answered && !udp {
        other.sent(&Packet::tcp(backend, local, SYN | ACK, 500, 101).bytes());
        other.sent(&Packet::tcp(client, vip, ACK, 101, 501).bytes());
    }
    let record = other.table.session_of(client, vip);
    Foreign { record, client, vip, local, backend }
}

/// Where the packets of a session go, and come back from.
fn ends(record: &SessionRecord) -> (SocketAddrV4, SocketAddrV4) {
    let v4 = |a: std::net::SocketAddr| match a {
        std::net::SocketAddr::V4(a) => a,
        other => panic!("{other} is not IPv4"),
    };
    (v4(record.reply.destination()), v4(record.reply.source()))
}

pub(super) fn found(question: &MissQuestion, record: &SessionRecord) -> MissAnswer {
    MissAnswer::Found { id: question.id, record: record.clone() }
}

/// Packets may come faster than anybody looks whether their session has become known.
#[test]
fn a_full_queue_of_a_session_that_has_come_loses_nothing() {
    let f = foreign(44_030, false);
    let config = CoreConfig { waiting_packets_a_flow: 2, ..CoreConfig::for_workers(1_000, 1) };
    let mut lab = Lab::with(1_000, config);
    let data = |n: u32| Packet::tcp(f.client, f.vip, ACK, 101 + n, 501).payload(&[n as u8]);
    let to = |n: u32| data(n).forwarded(f.local, f.backend).bytes();
    for n in 0..2 {
        assert_eq!(lab.one(&data(n).bytes()).0, Verdict::Parked);
    }
    assert_eq!(lab.one(&data(2).bytes()).0, Verdict::Drop(DropReason::WaitingFlowFull));
    lab.table.created(&f.record);
    assert_eq!(lab.one(&data(2).bytes()), (Verdict::Transmit, to(2)));
    lab.pass(1);
    assert_eq!(lab.poll(), [(Verdict::Transmit, to(0)), (Verdict::Transmit, to(1))]);
    lab.check_counters();
}

#[test]
fn packets_wait_for_the_answer_and_leave_in_order() {
    for reply in [false, true] {
        let f = foreign(44_000, false);
        let mut lab = Lab::new();
        let packets: Vec<Packet> = (0..5u8)
            .map(|n| {
                let (src, dst) = if reply { (f.backend, f.local) } else { (f.client, f.vip) };
                Packet::tcp(src, dst, ACK, 101 + u32::from(n), 501).payload(&[n])
            })
            .collect();
        for packet in &packets {
            assert_eq!(lab.one(&packet.bytes()).0, Verdict::Parked);
        }
        let questions = lab.questions();
        assert_eq!(questions.len(), 1, "one question a flow");
        assert_eq!(questions[0].kind, if reply { MissKind::LipReply } else { MissKind::Tcp });
        assert_eq!(questions[0].key, if reply { f.record.reply } else { f.record.key });
        let released = lab.answer(found(&questions[0], &f.record));
        let expected: Vec<_> = packets
            .iter()
            .map(|packet| match reply {
                true => packet.forwarded(f.vip, f.client).bytes(),
                false => packet.forwarded(f.local, f.backend).bytes(),
            })
            .map(|bytes| (Verdict::Transmit, bytes))
            .collect();
        assert_eq!(released, expected);
        assert_eq!(lab.core.parked(), 0);
        // From now on it is known, in both directions.
        let up = Packet::tcp(f.client, f.vip, ACK, 200, 600);
        assert_eq!(lab.sent(&up.bytes()), up.forwarded(f.local, f.backend).bytes());
        let down = Packet::tcp(f.backend, f.local, ACK, 600, 200);
        assert_eq!(lab.sent(&down.bytes()), down.forwarded(f.vip, f.client).bytes());
        let counters = lab.counters();
        assert_eq!(counters.count(Count::Parked), 5);
        assert_eq!(counters.count(Count::Released), 5);
        assert_eq!(counters.count(Count::AnswersFound), 1);
    }
}

#[test]
fn questions_are_repeated_until_the_time_is_over() {
    let mut lab = Lab::new();
    let packet = Packet::tcp(at(CLIENT, 44_001), at(VIP, WEB), ACK, 1, 1).bytes();
    assert_eq!(lab.one(&packet).0, Verdict::Parked);
    let first = lab.questions();
    assert_eq!(first.len(), 1);
    let mut repeated = Vec::new();
    for _ in 0..19 {
        lab.pass(1);
        assert_eq!(lab.poll(), []);
        repeated.extend(lab.questions());
    }
    assert_eq!(repeated, vec![first[0]; 3], "at 5, 10 and 15 ms");
    lab.pass(1);
    assert_eq!(lab.poll(), [(Verdict::Drop(DropReason::MissTimeout), packet)]);
    assert_eq!(lab.core.parked(), 0);
    assert!(lab.questions().is_empty());
    let counters = lab.counters();
    assert_eq!(counters.count(Count::Questions), 1);
    assert_eq!(counters.count(Count::QuestionsRepeated), 3);
}

#[test]
fn a_late_answer_is_of_use_all_the_same() {
    let f = foreign(44_002, false);
    let mut lab = Lab::new();
    let up = Packet::tcp(f.client, f.vip, ACK, 101, 501);
    lab.one(&up.bytes());
    let question = lab.questions()[0];
    lab.pass(20);
    lab.poll();
    assert_eq!(lab.answer(found(&question, &f.record)), []);
    assert_eq!(lab.counters().count(Count::AnswersLate), 1);
    assert_eq!(lab.sent(&up.bytes()), up.forwarded(f.local, f.backend).bytes());
}

/// A worker that was stopped finds answers that are as old as its packets. Others carry those sessions
/// by now, and a reset would end a living one.
#[test]
fn an_answer_after_a_stall_resets_nothing() {
    let f = foreign(44_020, false);
    let up = Packet::tcp(f.client, f.vip, ACK, 101, 501);
    let mut lab = Lab::new();
    let ask = |lab: &mut Lab| {
        assert_eq!(lab.one(&up.bytes()).0, Verdict::Parked);
        let question = lab.questions()[0];
        lab.pass(300);
        question
    };
    let expired = [(Verdict::Drop(DropReason::MissTimeout), up.bytes())];
    let id = ask(&mut lab).id;
    assert_eq!(lab.answer(MissAnswer::NoWithAuthority { id }), expired);
    let id = ask(&mut lab).id;
    assert_eq!(lab.answer(MissAnswer::DontKnow { id }), expired, "the denial was not remembered");
    let question = ask(&mut lab);
    assert_eq!(lab.answer(found(&question, &f.record)), expired);
    assert_eq!(lab.counters().count(Count::AnswersLate), 3);
    // The session itself is of use.
    assert_eq!(lab.sent(&up.bytes()), up.forwarded(f.local, f.backend).bytes());
}

#[test]
fn what_waits_through_a_stall_is_thrown_away() {
    let mut lab = Lab::new();
    for port in 1..4 {
        let packet = Packet::tcp(at(CLIENT, port), at(VIP, WEB), ACK, 1, 1).bytes();
        assert_eq!(lab.one(&packet).0, Verdict::Parked);
    }
    let asked = lab.questions();
    lab.core.discard_waiting(DropReason::Stale);
    lab.check_counters();
    assert_eq!((lab.core.parked(), lab.counters().dropped(DropReason::Stale)), (0, 3));
    assert_eq!(lab.answer(MissAnswer::NoWithAuthority { id: asked[0].id }), []);
}

/// Rounds come much more often than anything changes.
#[test]
fn waiting_flows_are_looked_for_once_a_millisecond() {
    let mut f = foreign(44_021, false);
    f.record.flags = SessionFlags::CLIENT_OPENED.with(SessionFlags::ESTABLISHED);
    let mut lab = Lab::new();
    let up = Packet::tcp(f.client, f.vip, ACK, 101, 501);
    lab.one(&up.bytes());
    assert_eq!(lab.poll(), []);
    lab.table.created(&f.record);
    lab.now_ns += MS - 1;
    assert_eq!(lab.poll(), []);
    lab.now_ns += 1;
    assert_eq!(lab.poll(), [(Verdict::Transmit, up.forwarded(f.local, f.backend).bytes())]);
}

#[test]
fn a_datagram_that_cannot_wait_is_scheduled() {
    let config = CoreConfig { waiting_bytes: 200, ..CoreConfig::for_workers(1_000, 1) };
    let mut lab = Lab::with(1_000, config);
    let game = |port, size| Packet::udp(at(CLIENT, port), at(VIP, GAME)).payload(&vec![1; size]);
    open(&mut lab, &game(1, 1_000));
    assert_eq!(lab.counters().count(Count::UdpScheduledUnasked), 1);
    // Not if it is asked about already: that session may be told any moment.
    assert_eq!(lab.one(&game(2, 10).bytes()).0, Verdict::Parked);
    let large = lab.one(&game(2, 1_000).bytes()).0;
    assert_eq!(large, Verdict::Drop(DropReason::ParkTooLarge));
}

#[test]
fn a_session_that_the_store_brings_releases_its_packets() {
    let mut f = foreign(44_003, false);
    f.record.flags = SessionFlags::CLIENT_OPENED.with(SessionFlags::ESTABLISHED);
    let mut lab = Lab::new();
    let up = Packet::tcp(f.client, f.vip, ACK, 101, 501);
    assert_eq!(lab.one(&up.bytes()).0, Verdict::Parked);
    lab.table.created(&f.record);
    // One that comes now does not overtake the one that waits.
    let second = Packet { id: 2, ..up.clone() };
    assert_eq!(lab.one(&second.bytes()).0, Verdict::Parked);
    let released = lab.poll();
    let expected =
        [up, second].map(|p| (Verdict::Transmit, p.forwarded(f.local, f.backend).bytes()));
    assert_eq!(released, expected);
}

/// What becomes of a packet that nobody here knows, when everybody denies its session.
pub(super) fn is_denied(lab: &mut Lab, packet: &[u8]) -> Vec<(Verdict, Vec<u8>)> {
    assert_eq!(lab.one(packet).0, Verdict::Parked);
    let id = lab.questions()[0].id;
    lab.answer(MissAnswer::NoWithAuthority { id })
}

/// What a denied TCP segment gets (RFC 9293 section 3.10.7.1).
#[test]
fn a_denied_session_is_reset_when_it_is_denied_again() {
    let (client, vip) = (at(CLIENT, 44_004), at(VIP, WEB));
    for (flags, seq, ack, payload, answer) in [
        (ACK, 1_000, 2_000, 0, Some((RST, 2_000, 0))),
        (ACK | PSH, 1_000, 2_000, 9, Some((RST, 2_000, 0))),
        (ACK | FIN, 1_000, 2_000, 0, Some((RST, 2_000, 0))),
        (SYN | ACK, 1_000, 2_000, 0, Some((RST, 2_000, 0))),
        (FIN, u32::MAX, 0, 3, Some((RST | ACK, 0, 3))),
        (0, 5, 0, 10, Some((RST | ACK, 0, 15))),
        (RST, 1_000, 0, 0, None),
        (RST | ACK, 1_000, 2_000, 0, None),
    ] {
        let mut lab = Lab::new();
        let packet = Packet::tcp(client, vip, flags, seq, ack).payload(&vec![5; payload]);
        let released = is_denied(&mut lab, &packet.bytes());
        assert_eq!(released.len(), 1);
        let direct = lab.one(&packet.bytes());
        match answer {
            Some((flags, seq, ack)) => {
                let once = (Verdict::Drop(DropReason::DeniedOnce), packet.bytes());
                assert_eq!((&released[0], &direct), (&once, &once), "the news may be on their way");
                lab.pass(200);
                let released = is_denied(&mut lab, &packet.bytes());
                let direct = lab.one(&packet.bytes());
                let reset = Packet {
                    src_mac: MAC_ME,
                    dst_mac: MAC_ROUTER,
                    ttl: 64,
                    id: 0,
                    window: 0,
                    ..Packet::tcp(vip, client, flags, seq, ack)
                };
                let expected = reset.bytes();
                assert_eq!(released[0], (Verdict::Transmit, expected.clone()));
                assert_eq!(direct, (Verdict::Transmit, expected), "remembered");
                assert_eq!(lab.counters().count(Count::AnsweredReset), 2);
            }
            None => {
                assert_eq!(released[0].0, Verdict::Drop(DropReason::SessionDenied));
                assert_eq!(direct.0, Verdict::Drop(DropReason::SessionDenied));
            }
        }
    }
}

#[test]
fn a_denial_is_remembered_for_100_ms_and_forgotten_for_a_new_session() {
    let (client, vip) = (at(CLIENT, 44_005), at(VIP, WEB));
    let packet = Packet::tcp(client, vip, ACK, 1, 1).bytes();
    let mut lab = Lab::new();
    is_denied(&mut lab, &packet);
    lab.pass(200);
    is_denied(&mut lab, &packet);
    lab.pass(99);
    lab.sent(&packet);
    lab.pass(1);
    assert_eq!(lab.one(&packet).0, Verdict::Parked, "asked again");
    let id = lab.questions()[0].id;
    lab.answer(MissAnswer::NoWithAuthority { id });
    // A SYN opens a session at once; its packets are not those of the denied one.
    let (local, backend) = open_answered(&mut lab, &Packet::tcp(client, vip, SYN, 9, 0), 0);
    let up = Packet::tcp(client, vip, ACK, 10, 1);
    assert_eq!(lab.sent(&up.bytes()), up.forwarded(local, backend).bytes());
}

#[test]
fn a_denial_is_forgotten_when_a_registration_comes() {
    let f = foreign(44_014, false);
    let packet = Packet::tcp(f.client, f.vip, ACK, 1, 1).bytes();
    let mut lab = Lab::new();
    is_denied(&mut lab, &packet);
    lab.pass(200);
    assert_eq!(is_denied(&mut lab, &packet)[0].0, Verdict::Transmit, "a reset");
    lab.pass(10);
    assert_eq!(lab.one(&packet).0, Verdict::Transmit, "remembered");
    lab.table.registered(std::slice::from_ref(&f.record));
    assert_eq!(lab.one(&packet).0, Verdict::Parked, "asked again");
    // So is one that was on its way while the registration came.
    let id = lab.questions()[0].id;
    lab.pass(1);
    lab.table.tick(lab.now_ns / MS);
    lab.table.registered(std::slice::from_ref(&f.record));
    let dropped = Verdict::Drop(DropReason::MissUnknown);
    assert_eq!(lab.answer(MissAnswer::NoWithAuthority { id }), [(dropped, packet.clone())]);
    lab.pass(1);
    assert_eq!(is_denied(&mut lab, &packet)[0].0, Verdict::Transmit);
}

/// A connection's first packets came here while its registration was on its way: everybody denied it.
#[test]
fn one_denial_resets_nobody() {
    let f = foreign(44_015, false);
    let up = Packet::tcp(f.client, f.vip, ACK, 101, 501).payload(b"one");
    let once = Verdict::Drop(DropReason::DeniedOnce);
    let mut lab = Lab::new();
    assert_eq!(is_denied(&mut lab, &up.bytes()), [(once, up.bytes())]);
    // Nor do others that come as fast, or that are denied again soon.
    for ms in [1, 98, 1, 49] {
        lab.pass(ms);
        let verdict = lab.one(&up.bytes()).0;
        if verdict == Verdict::Parked {
            let id = lab.questions()[0].id;
            let released = lab.answer(MissAnswer::NoWithAuthority { id });
            assert_eq!(released, [(once, up.bytes())]);
        } else {
            assert_eq!(verdict, once);
        }
    }
    assert_eq!(lab.counters().count(Count::AnswersDenied), 2);
    // The client tries again, and by now others know.
    lab.pass(100);
    assert_eq!(lab.one(&up.bytes()).0, Verdict::Parked);
    let question = lab.questions()[0];
    let to = up.forwarded(f.local, f.backend).bytes();
    assert_eq!(lab.answer(found(&question, &f.record)), [(Verdict::Transmit, to)]);
    assert_eq!(lab.counters().count(Count::AnsweredReset), 0);
    lab.check_counters();
}

/// A late segment of a connection that is over was denied, and then the first one of the port's next connection is.
#[test]
fn a_denial_of_one_connection_is_not_the_first_one_of_the_next() {
    let (client, vip) = (at(CLIENT, 44_016), at(VIP, WEB));
    let last = Packet::tcp(client, vip, ACK, 1_000, 1 << 30).bytes();
    let next = Packet::tcp(client, vip, ACK, 2_000, 1 << 31).bytes();
    let once = Verdict::Drop(DropReason::DeniedOnce);
    let mut lab = Lab::new();
    assert_eq!(is_denied(&mut lab, &last)[0].0, once);
    lab.pass(1_000);
    assert_eq!(is_denied(&mut lab, &next)[0].0, once);
    lab.pass(200);
    assert_eq!(is_denied(&mut lab, &next)[0].0, Verdict::Transmit);
}

#[test]
fn a_quiet_listener_and_replies_are_dropped_when_denied() {
    for (packet, reason) in [
        (Packet::tcp(at(CLIENT, 44_006), at(VIP, QUIET), ACK, 1, 1), DropReason::SessionDenied),
        (
            Packet::tcp(at(BACKENDS[0], 8080), at(OWN_LIPS[0], 2000), ACK, 1, 1),
            DropReason::ReplyDenied,
        ),
        (
            Packet::tcp(at(BACKENDS[0], 8080), at(FOREIGN_LIP, 2000), ACK, 1, 1),
            DropReason::ReplyDenied,
        ),
        (Packet::udp(at(BACKENDS[0], 8080), at(FOREIGN_LIP, 2000)), DropReason::ReplyDenied),
    ] {
        let mut lab = Lab::new();
        assert_eq!(lab.one(&packet.bytes()).0, Verdict::Parked);
        let id = lab.questions()[0].id;
        let released = lab.answer(MissAnswer::NoWithAuthority { id });
        assert_eq!(released, [(Verdict::Drop(reason), packet.bytes())]);
    }
}

#[test]
fn who_does_not_know_never_causes_a_reset() {
    let mut lab = Lab::new();
    let packet = Packet::tcp(at(CLIENT, 44_007), at(VIP, WEB), ACK, 1, 1).bytes();
    lab.one(&packet);
    let id = lab.questions()[0].id;
    let released = lab.answer(MissAnswer::DontKnow { id });
    assert_eq!(released, [(Verdict::Drop(DropReason::MissUnknown), packet.clone())]);
    assert_eq!(lab.one(&packet).0, Verdict::Parked, "nothing is remembered");
}

#[test]
fn udp_is_asked_about_where_the_listener_or_the_time_wants_it() {
    let mut lab = Lab::new();
    let dns = |port| Packet::udp(at(CLIENT, port), at(VIP, DNS));
    let game = |port| Packet::udp(at(CLIENT, port), at(VIP, GAME));
    open(&mut lab, &dns(1));
    assert_eq!(lab.one(&game(1).bytes()).0, Verdict::Parked);
    lab.core.set_udp_ask(true);
    assert_eq!(lab.one(&dns(2).bytes()).0, Verdict::Parked);
    let questions = lab.questions();
    assert_eq!(questions.len(), 2);
    for (question, packet) in questions.iter().zip([game(1), dns(2)]) {
        assert_eq!(question.kind, MissKind::Udp);
        let released = lab.answer(MissAnswer::NoWithAuthority { id: question.id });
        assert_eq!(released.len(), 1);
        let (local, backend) = verified_endpoints(&released[0].1);
        assert_eq!(released[0], (Verdict::Transmit, packet.forwarded(local, backend).bytes()));
    }
    assert_eq!(lab.counters().count(Count::SessionsOpenedUdp), 3);
    // Found elsewhere: goes where it went.
    let f = foreign(2, true);
    let packet = Packet::udp(f.client, f.vip);
    assert_eq!(lab.one(&packet.bytes()).0, Verdict::Parked);
    let question = lab.questions()[0];
    let released = lab.answer(found(&question, &f.record));
    assert_eq!(released, [(Verdict::Transmit, packet.forwarded(f.local, f.backend).bytes())]);
}

#[test]
fn the_asking_budget_bounds_questions_and_schedules_udp() {
    let config = CoreConfig {
        asks_per_second: 1_000,
        ask_burst: 10,
        prefix_asks_per_second: 100,
        prefix_ask_burst: 4,
        ..CoreConfig::for_workers(1_000, 1)
    };
    let mut lab = Lab::with(1_000, config);
    let ack = |host, port| {
        let ip = std::net::Ipv4Addr::new(198, 51, host, 9);
        Packet::tcp(at(ip, port), at(VIP, WEB), ACK, 1, 1).bytes()
    };
    let ends =
        |lab: &mut Lab, host| (0..12).map(|port| lab.one(&ack(host, port)).0).collect::<Vec<_>>();
    let first = ends(&mut lab, 1);
    assert_eq!(first[..4], [Verdict::Parked; 4]);
    assert_eq!(first[4..], [Verdict::Drop(DropReason::AskBudgetPrefix); 8]);
    let second = ends(&mut lab, 2);
    assert_eq!(second[..4], [Verdict::Parked; 4], "another prefix has its own share");
    let third = ends(&mut lab, 3);
    assert_eq!(third[..2], [Verdict::Parked; 2]);
    assert_eq!(third[2..4], [Verdict::Drop(DropReason::AskBudget); 2], "the whole is bounded, too");
    // More packets of a flow that is asked about cost nothing.
    assert_eq!(lab.one(&ack(1, 0)).0, Verdict::Parked);
    // Known sessions and new ones are untouched.
    open(&mut lab, &Packet::tcp(at(CLIENT, 1), at(VIP, WEB), SYN, 1, 0));
    // UDP is scheduled rather than dropped.
    open(&mut lab, &Packet::udp(at(CLIENT, 1), at(VIP, GAME)));
    assert_eq!(lab.counters().count(Count::UdpScheduledUnasked), 1);
    lab.pass(1);
    let reply = Packet::tcp(at(BACKENDS[0], 8080), at(OWN_LIPS[0], 2000), ACK, 1, 1);
    assert_eq!(lab.one(&reply.bytes()).0, Verdict::Parked, "a millisecond brings one question");
}

/// Another session here has a better claim to the local port that the answer tells: the packets ask
/// again, as one flow, until their time is over.
#[test]
fn a_refused_record_is_asked_about_again_within_the_same_time() {
    let config = CoreConfig { ask_burst: 2, ..CoreConfig::for_workers(1_000, 1) };
    let mut lab = Lab::with(1_000, config);
    let holder = Packet::tcp(at(CLIENT, 44_010), at(VIP, WEB), SYN, 1, 0);
    let (local, backend) = open(&mut lab, &holder);
    lab.sent(&Packet::tcp(backend, local, SYN | ACK, 1, 2).bytes());
    lab.sent(&Packet::tcp(at(CLIENT, 44_010), at(VIP, WEB), ACK, 2, 2).bytes());
    let mut record = foreign(44_011, false).record;
    record.reply = lab.table.session_of(at(CLIENT, 44_010), at(VIP, WEB)).reply;
    record.incarnation.stamp = 0;
    let packet = Packet::tcp(at(CLIENT, 44_011), at(VIP, WEB), ACK, 5, 5).bytes();
    for _ in 0..5 {
        assert_eq!(lab.one(&packet).0, Verdict::Parked);
    }
    let first = lab.questions()[0];
    lab.pass(12);
    assert_eq!(lab.answer(found(&first, &record)), [], "all wait again");
    assert_eq!(lab.core.parked(), 5);
    lab.pass(4);
    assert!(lab.questions().is_empty(), "not as fast as answers come");
    lab.pass(1);
    let again = lab.questions();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].id, first.id);
    lab.pass(3);
    assert_eq!(lab.poll(), vec![(Verdict::Drop(DropReason::MissTimeout), packet); 5]);
}

#[test]
fn the_waiting_room_is_bounded() {
    let config = CoreConfig {
        waiting_packets: 6,
        waiting_flows: 3,
        waiting_packets_a_flow: 3,
        waiting_bytes: 200,
        ..CoreConfig::for_workers(1_000, 1)
    };
    let mut lab = Lab::with(1_000, config);
    let ack = |port, payload: usize| {
        Packet::tcp(at(CLIENT, port), at(VIP, WEB), ACK, 1, 1).payload(&vec![0; payload]).bytes()
    };
    assert_eq!(lab.one(&ack(1, 200)).0, Verdict::Drop(DropReason::ParkTooLarge));
    for _ in 0..3 {
        assert_eq!(lab.one(&ack(1, 0)).0, Verdict::Parked);
    }
    assert_eq!(lab.one(&ack(1, 0)).0, Verdict::Drop(DropReason::WaitingFlowFull));
    assert_eq!(lab.one(&ack(2, 0)).0, Verdict::Parked);
    assert_eq!(lab.one(&ack(3, 0)).0, Verdict::Parked);
    assert_eq!(lab.one(&ack(4, 0)).0, Verdict::Drop(DropReason::WaitingRoomFull));
    assert_eq!(lab.one(&ack(3, 0)).0, Verdict::Parked);
    assert_eq!(lab.one(&ack(2, 0)).0, Verdict::Drop(DropReason::WaitingRoomFull));
    lab.pass(20);
    assert_eq!(lab.poll().len(), 6);
    assert_eq!(lab.core.parked(), 0);
}
