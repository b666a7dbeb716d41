//! Packets that may be of a later connection than the record that this director has of their key.

use std::net::SocketAddrV4;

use holdfast_director::core::{CoreConfig, Count, DropReason, MissAnswer, MissKind, Verdict};
use holdfast_director::session::{SweepPolicy, Sweeper};
use holdfast_schema::session::{
    HalfSeen, SessionChange, SessionFlags as F, SessionRecord, SessionSink,
};

use super::misses::{Foreign, foreign, found};
use super::support::packet::*;
use super::support::*;

/// An open session of another director, of which this one has only been told; and the next use of its
/// client's port, of which it has not.
struct Stale {
    lab: Lab,
    f: Foreign,
    new: SessionRecord,
    new_local: SocketAddrV4,
}

/// The numbers of both connections: the client's and the backend's next.
const OLD: (u32, u32) = (101, 501);
const NEW: (u32, u32) = (0x9000_0001, 0x5000_0001);

fn opened(record: &SessionRecord, (client, backend): (u32, u32)) -> SessionRecord {
    let flags = record.flags.with(F::BACKEND_ANSWERED).with(F::ESTABLISHED);
    let mut open = SessionRecord { flags, ..record.clone() };
    (open.client, open.backend_seen) = (seen(client, backend), seen(backend, client));
    open
}

fn seen(seq: u32, ack: u32) -> HalfSeen {
    HalfSeen { age_ms: 5_000, seq, ack }
}

impl Stale {
    fn new(port: u16) -> Stale {
        Stale::with(port, CoreConfig::for_workers(1_000, 1))
    }

    fn with(port: u16, config: CoreConfig) -> Stale {
        let mut f = foreign(port, false);
        let mut new = opened(&f.record, NEW);
        (new.incarnation.stamp, new.incarnation.isn) = (new.incarnation.stamp + 1, NEW.0 - 1);
        new.reply.dst_port ^= 64;
        f.record = opened(&f.record, OLD);
        let new_local = at(*f.local.ip(), new.reply.dst_port);
        let lab = Lab::with(1_000, config);
        lab.table.tick(lab.now_ns / MS);
        lab.table.created(&f.record);
        Stale { lab, f, new, new_local }
    }

    /// Data of the client with these numbers.
    fn data(&self, (seq, ack): (u32, u32)) -> Packet {
        Packet::tcp(self.f.client, self.f.vip, ACK, seq, ack).payload(b"data")
    }

    /// What asks the old connection's backend for its numbers.
    fn probe(&self) -> Vec<u8> {
        let old = (OLD.0.wrapping_sub(1), OLD.1);
        Packet::tcp(self.f.local, self.f.backend, ACK, old.0, old.1).own(false).bytes()
    }

    /// What a pass of the sweep has to tell.
    fn updates(&mut self) -> Vec<SessionChange> {
        let policy = SweepPolicy::CALM;
        let mut told = Vec::new();
        let mut sweeper = Sweeper::new(&self.lab.table);
        sweeper.step(
            &self.lab.table,
            &self.lab.tables,
            self.lab.now_ns / MS,
            &policy,
            10_000,
            &mut told,
        );
        told.into_iter().map(|(_, change)| change).collect()
    }

    /// It goes to the old connection's backend at once.
    #[track_caller]
    fn goes_on(&mut self, packet: &Packet) {
        let sent = self.lab.sent(&packet.bytes());
        assert_eq!(sent, packet.forwarded(self.f.local, self.f.backend).bytes());
    }

    /// Data of the next connection is asked about, and goes the way that its director tells.
    #[track_caller]
    fn begins_anew(&mut self) {
        let data = self.data(NEW);
        assert_eq!(self.lab.one(&data.bytes()).0, Verdict::Parked);
        let question = self.lab.questions()[0];
        let to = data.forwarded(self.new_local, self.f.backend).bytes();
        assert_eq!(self.lab.answer(found(&question, &self.new)), [(Verdict::Transmit, to)]);
    }

    /// What waits is released because nobody knows about it.
    fn nobody_knows(&mut self) -> Vec<(Verdict, Vec<u8>)> {
        let id = self.lab.questions()[0].id;
        self.lab.answer(MissAnswer::DontKnow { id })
    }
}

#[test]
fn an_open_session_keeps_what_fits_it() {
    const WINDOW: u32 = 1 << 24;
    for (seq, ack) in [
        OLD,
        (OLD.0 - 1, OLD.1),
        (OLD.0 + WINDOW, OLD.1 + WINDOW),
        (OLD.0.wrapping_sub(WINDOW), OLD.1.wrapping_sub(WINDOW)),
    ] {
        let mut stale = Stale::new(44_200);
        stale.goes_on(&stale.data((seq, ack)));
    }
    for numbers in [NEW, (OLD.0, NEW.1), (NEW.0, OLD.1), (OLD.0 + WINDOW + 1, OLD.1)] {
        let mut stale = Stale::new(44_200);
        let data = stale.data(numbers).bytes();
        assert_eq!(stale.lab.one(&data).0, Verdict::Parked, "{numbers:?}");
    }
}

/// A director that was out of touch still has the last connection of this port, open.
#[test]
fn what_does_not_fit_an_open_session_is_asked_about() {
    type Answer = fn(u64) -> MissAnswer;
    let nobody: [Option<Answer>; 3] = [
        Some(|id| MissAnswer::DontKnow { id }),
        Some(|id| MissAnswer::NoWithAuthority { id }),
        None,
    ];
    let later = |stale: &Stale| stale.new.clone();
    let same = |stale: &Stale| stale.f.record.clone();
    let told = [Some(later as fn(&Stale) -> SessionRecord), Some(same), None, None, None];
    for (n, told) in told.into_iter().enumerate() {
        let mut stale = Stale::new(44_201);
        let data = stale.data(NEW);
        assert_eq!(stale.lab.one(&data.bytes()).0, Verdict::Parked);
        let question = stale.lab.questions()[0];
        assert_eq!(question.known, Some(stale.f.record.incarnation));
        assert_eq!((question.key, question.kind), (stale.f.record.key, MissKind::Tcp));
        stale.lab.pass(2);
        assert_eq!(stale.lab.poll(), [], "the old record answers nothing");
        let released = match (told, n.checked_sub(2).and_then(|n| nobody[n])) {
            (Some(told), _) => stale.lab.answer(found(&question, &told(&stale))),
            (None, Some(answer)) => stale.lab.answer(answer(question.id)),
            (None, None) => {
                stale.lab.pass(18);
                stale.lab.poll()
            }
        };
        if n == 0 {
            let to = data.forwarded(stale.new_local, stale.f.backend).bytes();
            assert_eq!(released, [(Verdict::Transmit, to)]);
            // Those behind it need not ask.
            let more = stale.data((NEW.0 + 4, NEW.1));
            let to = more.forwarded(stale.new_local, stale.f.backend).bytes();
            assert_eq!(stale.lab.sent(&more.bytes()), to);
        } else {
            // The old backend would reset the connection: it is asked for its numbers. The client tries again,
            // and is asked about again.
            assert_eq!(released, [(Verdict::Transmit, stale.probe())], "{n}");
            assert_eq!(stale.lab.one(&data.bytes()).0, Verdict::Parked);
            // Whoever has seen more of the connection shows that the segment fits.
            let id = stale.lab.questions()[0].id;
            let mut fresh = stale.f.record.clone();
            (fresh.client, fresh.backend_seen) = (seen(NEW.0, NEW.1), seen(NEW.1, NEW.0));
            (fresh.client.age_ms, fresh.backend_seen.age_ms) = (0, 0);
            let to = data.forwarded(stale.f.local, stale.f.backend).bytes();
            let released = stale.lab.answer(MissAnswer::Found { id, record: fresh });
            assert_eq!(released, [(Verdict::Transmit, to)], "{n}");
        }
        assert_eq!(stale.lab.core.parked(), 0);
        stale.lab.check_counters();
    }
}

/// Much was sent since anybody told of the connection, which nobody needs to know.
#[test]
fn a_fast_session_goes_on_whoever_answers() {
    const FAR: u32 = 1 << 25;
    for (upload, other_way, goes_on) in [
        (true, 0, true),
        (true, 1 << 19, true),
        (true, 1 << 21, false),
        (true, u32::MAX, false),
        (false, 0, true),
        (false, 1 << 19, true),
        (false, 1 << 21, false),
        // It repeats what got lost.
        (false, u32::MAX - 1_000, true),
    ] {
        let mut stale = Stale::new(44_208);
        let (up, down) = if upload { (FAR, other_way) } else { (other_way, FAR) };
        let data = stale.data((OLD.0.wrapping_add(up), OLD.1.wrapping_add(down)));
        assert_eq!(stale.lab.one(&data.bytes()).0, Verdict::Parked);
        let released = stale.nobody_knows();
        let to = data.forwarded(stale.f.local, stale.f.backend).bytes();
        let expected = if goes_on { to } else { stale.probe() };
        assert_eq!(released, [(Verdict::Transmit, expected)], "{upload} {other_way}");
        if !goes_on {
            // The backend answers the probe with its numbers. It is never held to be refuted.
            let reply = (OLD.1.wrapping_add(down), OLD.0.wrapping_add(up));
            let reply = Packet::tcp(stale.f.backend, stale.f.local, ACK, reply.0, reply.1);
            assert_eq!(stale.lab.one(&reply.bytes()).0, Verdict::Parked);
            let released = stale.nobody_knows();
            let to = reply.forwarded(stale.f.vip, stale.f.client).bytes();
            assert_eq!(released, [(Verdict::Transmit, to)]);
            // All hear of it at once: the client's next try may come to another director.
            let told = stale.updates();
            let [SessionChange::Update(update)] = &told[..] else { panic!("{told:?}") };
            let half = update.backend_seen.as_ref().map(|half| (half.seq, half.ack));
            assert_eq!(half, Some((OLD.1.wrapping_add(down), OLD.0.wrapping_add(up))));
            assert_eq!(stale.updates(), [], "once");
            stale.goes_on(&data);
        }
        stale.lab.check_counters();
    }
}

#[test]
fn so_is_what_comes_from_the_backend() {
    let mut stale = Stale::new(44_202);
    let reply = Packet::tcp(stale.f.backend, stale.f.local, ACK, NEW.1, NEW.0).payload(b"reply");
    assert_eq!(stale.lab.one(&reply.bytes()).0, Verdict::Parked);
    let question = stale.lab.questions()[0];
    assert_eq!((question.key, question.kind), (stale.f.record.reply, MissKind::LipReply));
    // The local port was taken again for another client.
    let other = at(*stale.f.client.ip(), 999);
    let mut new = stale.new.clone();
    (new.key.src_port, new.reply) = (other.port(), stale.f.record.reply);
    let released = stale.lab.answer(found(&question, &new));
    assert_eq!(released, [(Verdict::Transmit, reply.forwarded(stale.f.vip, other).bytes())]);
}

#[test]
fn what_was_seen_here_is_not_asked_about() {
    let mut stale = Stale::new(44_203);
    stale.goes_on(&stale.data(OLD));
    // A jump, but too soon to have come from elsewhere; and at rest, the same again.
    stale.lab.pass(199);
    stale.goes_on(&stale.data(NEW));
    stale.lab.pass(5_000);
    stale.goes_on(&stale.data(NEW));
    // The last word is another director's.
    stale.lab.pass(5_000);
    assert_eq!(stale.lab.one(&stale.data(OLD).bytes()).0, Verdict::Transmit, "told before");
    stale.lab.pass(5_000);
    let far = (OLD.0 + (1 << 30), OLD.1 + (1 << 30));
    assert_eq!(stale.lab.one(&stale.data(far).bytes()).0, Verdict::Parked);
}

#[test]
fn a_syn_of_another_opening_is_asked_about_and_then_its_backends_business() {
    for told in [true, false] {
        let mut stale = Stale::new(44_204);
        let again = Packet::tcp(stale.f.client, stale.f.vip, SYN, OLD.0 - 1, 0);
        stale.goes_on(&again);
        let mut stale = Stale::new(44_204);
        let syn = Packet::tcp(stale.f.client, stale.f.vip, SYN, NEW.0 - 1, 0);
        assert_eq!(stale.lab.one(&syn.bytes()).0, Verdict::Parked);
        let question = stale.lab.questions()[0];
        let answer = match told {
            true => found(&question, &stale.new),
            false => MissAnswer::DontKnow { id: question.id },
        };
        let released = stale.lab.answer(answer);
        let local = if told { stale.new_local } else { stale.f.local };
        let to = syn.forwarded(local, stale.f.backend).bytes();
        assert_eq!(released, [(Verdict::Transmit, to)]);
    }
}

/// The old connection has ended at another director; its backend's end of it can take the next one.
#[test]
fn a_connection_that_the_old_backend_accepts_gets_a_record_of_its_own() {
    let mut stale = Stale::new(44_207);
    let f = &stale.f;
    let syn = Packet::tcp(f.client, f.vip, SYN, NEW.0 - 1, 0);
    let syn_ack = Packet::tcp(f.backend, f.local, SYN | ACK, NEW.1 - 1, NEW.0);
    let ack = Packet::tcp(f.client, f.vip, ACK, NEW.0, NEW.1);
    let (there, back) =
        (syn.forwarded(f.local, f.backend).bytes(), syn_ack.forwarded(f.vip, f.client).bytes());
    for (packet, to) in [(&syn, there), (&syn_ack, back)] {
        assert_eq!(stale.lab.one(&packet.bytes()).0, Verdict::Parked);
        assert_eq!(stale.nobody_knows(), [(Verdict::Transmit, to)]);
    }
    let record = |stale: &Stale| stale.lab.table.session_of(stale.f.client, stale.f.vip);
    let reborn = record(&stale);
    assert_eq!((reborn.incarnation.isn, reborn.reply), (NEW.0 - 1, stale.f.record.reply));
    assert!(reborn.incarnation > stale.f.record.incarnation && !reborn.flags.established());
    assert_eq!(stale.lab.table.stats().sessions, 1);
    stale.goes_on(&ack);
    assert!(record(&stale).flags.established());
    let mut young = Vec::new();
    stale.lab.core.take_young(|slot| {
        young.push(slot);
        true
    });
    assert_eq!(young.len(), 3, "its homes are told that it is there, answered, and established");
    // The same SYN has opened a session at the other director, before it was stopped.
    let mut twin = stale.new.clone();
    (twin.incarnation.stamp, twin.flags) = (reborn.incarnation.stamp + 1, F::CLIENT_OPENED);
    stale.lab.table.created(&twin);
    stale.goes_on(&stale.data(NEW));
    // Late news of the old connection is no news of this one.
    stale.lab.table.expired(&stale.f.record.key, &stale.f.record.incarnation);
    stale.goes_on(&stale.data(NEW));
    assert_eq!(stale.lab.table.class_used(&stale.f.record.reply), 1);
}

/// What a backend's SYN-ACK of another opening makes of the session it comes over.
#[test]
fn a_backends_answer_to_another_opening_is_no_stray_one() {
    let closed = [F::CLIENT_FIN, F::BACKEND_FIN];
    for (flags, seen_here, foreign_syn, reborn) in [
        (&[][..], true, false, false),
        (&[][..], true, true, true),
        (&[][..], false, false, true),
        (&[F::BACKEND_FIN][..], true, false, true),
        (&closed[..], true, false, true),
        (&[F::RESET][..], true, false, true),
    ] {
        let mut stale = Stale::new(44_209);
        let f = &stale.f;
        let reply = Packet::tcp(f.backend, f.local, ACK, OLD.1, OLD.0);
        let syn = Packet::tcp(f.client, f.vip, SYN, NEW.0 - 1, 0);
        let syn_ack = Packet::tcp(f.backend, f.local, SYN | ACK, NEW.1 - 1, NEW.0);
        let (to, there) = (syn_ack.forwarded(f.vip, f.client), syn.forwarded(f.local, f.backend));
        if seen_here {
            let to = reply.forwarded(f.vip, f.client).bytes();
            assert_eq!(stale.lab.sent(&reply.bytes()), to);
        }
        if foreign_syn {
            assert_eq!(stale.lab.one(&syn.bytes()).0, Verdict::Parked);
            let released = stale.nobody_knows();
            assert_eq!(released, [(Verdict::Transmit, there.bytes())]);
        }
        let mut now = stale.f.record.clone();
        now.flags = flags.iter().fold(now.flags, |all, flag| all.with(*flag));
        stale.lab.table.created(&now);
        let case = format!("{flags:?} {seen_here} {foreign_syn}");
        match stale.lab.one(&syn_ack.bytes()) {
            (Verdict::Parked, _) => {
                let released = stale.nobody_knows();
                assert_eq!(released, [(Verdict::Transmit, to.bytes())], "{case}");
            }
            sent => assert_eq!(sent, (Verdict::Transmit, to.bytes()), "{case}"),
        }
        let record = stale.lab.table.session_of(stale.f.client, stale.f.vip);
        assert_eq!(record.incarnation != now.incarnation, reborn, "{case}");
        if !reborn {
            assert_eq!(record.backend_seen.seq, OLD.1, "nothing is noted of it");
        }
    }
}

/// The SYN-ACK to a SYN with data (RFC 7413) acknowledges these as well.
#[test]
fn the_answer_to_an_opening_with_data_is_of_that_opening() {
    let mut lab = Lab::new();
    let syn = Packet::tcp(at(CLIENT, 44_210), at(VIP, WEB), SYN, 100, 0).payload(b"early");
    let (local, backend) = super::full_nat::open(&mut lab, &syn);
    let before = lab.table.session_of(at(CLIENT, 44_210), at(VIP, WEB)).incarnation;
    for acknowledged in [101, 106] {
        let syn_ack = Packet::tcp(backend, local, SYN | ACK, 500, acknowledged);
        let to = syn_ack.forwarded(at(VIP, WEB), at(CLIENT, 44_210));
        assert_eq!(lab.sent(&syn_ack.bytes()), to.bytes());
        let now = lab.table.session_of(at(CLIENT, 44_210), at(VIP, WEB)).incarnation;
        assert_eq!(now, before);
    }
    lab.check_counters();
}

#[test]
fn a_later_use_that_finds_no_place_does_not_go_by_the_earlier() {
    let mut stale = Stale::new(44_205);
    let mut cluster = cluster();
    let backends = &mut cluster.groups.get_mut("web").unwrap().backends;
    let removed = backends.values().map(|b| b.id).find(|id| *id != stale.f.record.backend).unwrap();
    backends.retain(|_, backend| backend.id != removed);
    stale.lab.install(&cluster);
    stale.new.backend = removed;
    let data = stale.data(NEW).bytes();
    stale.lab.one(&data);
    let question = stale.lab.questions()[0];
    let dropped = [(Verdict::Drop(DropReason::MissUnknown), data)];
    assert_eq!(stale.lab.answer(found(&question, &stale.new)), dropped);
}

/// Those whose session is not known at all need the questions more.
#[test]
fn without_means_to_ask_an_open_session_goes_on_by_what_does_not_refute_it() {
    let config = CoreConfig { ask_burst: 4, ..CoreConfig::for_workers(1_000, 1) };
    let mut stale = Stale::with(44_206, config);
    for port in 1..4 {
        let miss = Packet::tcp(at(CLIENT, port), stale.f.vip, ACK, 1, 1).bytes();
        assert_eq!(stale.lab.one(&miss).0, Verdict::Parked);
    }
    let refuted = stale.data(NEW).bytes();
    assert_eq!(stale.lab.sent(&refuted), stale.probe());
    stale.lab.check_counters();
    stale.goes_on(&stale.data((NEW.0, OLD.1)));
    // Nor does one that cannot wait.
    let config = CoreConfig { waiting_bytes: 200, ..CoreConfig::for_workers(1_000, 1) };
    let mut stale = Stale::with(44_206, config);
    stale.goes_on(&Packet { payload: vec![1; 1_000], ..stale.data((NEW.0, OLD.1)) });
    assert_eq!(stale.lab.counters().count(Count::Parked), 0);
}

/// The client took its port again at another director, which died before it could tell: by the record
/// of the old connection the packets of the new one would go to a backend that resets it.
#[test]
fn packets_of_a_later_connection_do_not_go_by_the_record_of_an_earlier_one() {
    let f = foreign(44_100, false);
    let mut old = f.record.clone();
    for flag in [F::BACKEND_ANSWERED, F::ESTABLISHED, F::CLIENT_FIN, F::BACKEND_FIN] {
        old.flags = old.flags.with(flag);
    }
    let mut new = f.record.clone();
    (new.incarnation.stamp, new.incarnation.isn) = (old.incarnation.stamp + 1, 9_000);
    new.reply.dst_port ^= 64;
    new.flags = f.record.flags.with(F::BACKEND_ANSWERED).with(F::ESTABLISHED);
    (old.client, old.backend_seen) = (seen(OLD.0, OLD.1), seen(OLD.1, OLD.0));
    (new.client, new.backend_seen) = (seen(NEW.0, NEW.1), seen(NEW.1, NEW.0));
    let new_local = at(*f.local.ip(), new.reply.dst_port);
    for told in [&new, &old] {
        let mut lab = Lab::new();
        lab.table.tick(lab.now_ns / MS);
        lab.table.created(&old);
        let data = Packet::tcp(f.client, f.vip, ACK, NEW.0, NEW.1).payload(b"new");
        assert_eq!(lab.one(&data.bytes()).0, Verdict::Parked);
        let question = lab.questions()[0];
        assert_eq!(question.known, Some(old.incarnation), "asked for is a later one");
        lab.pass(2);
        assert_eq!(lab.poll(), [], "the old record answers nothing");
        let released = lab.answer(found(&question, told));
        if told == &old {
            // That others have the same record proves nothing.
            assert_eq!(released, [(Verdict::Drop(DropReason::MissUnknown), data.bytes())]);
            continue;
        }
        assert_eq!(released, [(Verdict::Transmit, data.forwarded(new_local, f.backend).bytes())]);
        // Those behind it need not ask.
        let more = Packet::tcp(f.client, f.vip, ACK, NEW.0 + 3, NEW.1).payload(b"more");
        assert_eq!(lab.sent(&more.bytes()), more.forwarded(new_local, f.backend).bytes());
    }
}

/// A client takes its port again within milliseconds, at another director, and comes back here.
#[test]
fn what_comes_right_behind_the_end_of_a_connection_may_be_of_the_next_one() {
    let mut stale = Stale::new(44_211);
    stale.goes_on(&stale.data(OLD));
    let mut over = stale.f.record.clone();
    over.flags = over.flags.with(F::CLIENT_FIN).with(F::BACKEND_FIN);
    stale.lab.table.created(&over);
    stale.goes_on(&stale.data((OLD.0 + 4, OLD.1)));
    stale.begins_anew();
}

/// One end of a connection is seen to close here, the other one elsewhere.
#[test]
fn what_comes_right_behind_one_end_of_a_connection_may_be_of_the_next_one() {
    for client_closes in [true, false] {
        let half_closed = |port| {
            let mut stale = Stale::new(port);
            stale.goes_on(&stale.data(OLD));
            let (f, next) = (&stale.f, OLD.0 + 4);
            let (client, vip, local, backend) = (f.client, f.vip, f.local, f.backend);
            if client_closes {
                stale.goes_on(&Packet::tcp(client, vip, FIN | ACK, next, OLD.1));
            } else {
                let fin = Packet::tcp(backend, local, FIN | ACK, OLD.1, next);
                assert_eq!(stale.lab.sent(&fin.bytes()), fin.forwarded(vip, client).bytes());
            }
            stale
        };
        let mut stale = half_closed(44_212);
        stale.begins_anew();
        // Nor does it go to the old backend if nobody knows.
        let mut stale = half_closed(44_213);
        assert_eq!(stale.lab.one(&stale.data(NEW).bytes()).0, Verdict::Parked);
        let released = stale.nobody_knows();
        assert_eq!(released.len(), 1);
        assert_ne!(verified_endpoints(&released[0].1).1, stale.f.client);
        assert!(released[0].1.len() < stale.data(NEW).bytes().len(), "no data");
        stale.lab.check_counters();
    }
}

/// A connection lives on for as long as one end still sends.
#[test]
fn a_half_closed_connection_goes_on() {
    const FAR: u32 = (1 << 24) + 1;
    let mut stale = Stale::new(44_214);
    let (client, vip) = (stale.f.client, stale.f.vip);
    stale.goes_on(&stale.data(OLD));
    stale.goes_on(&Packet::tcp(client, vip, FIN | ACK, OLD.0 + 4, OLD.1));
    let acked = |ack| Packet::tcp(client, vip, ACK, OLD.0 + 5, ack);
    // What its backend sends is forwarded at once, whatever came by other directors meanwhile.
    let (local, backend) = (stale.f.local, stale.f.backend);
    for seq in [OLD.1, OLD.1 + 1_000, OLD.1 + 1_000 + FAR] {
        let down = Packet::tcp(backend, local, ACK, seq, OLD.0 + 5).payload(b"more");
        assert_eq!(stale.lab.sent(&down.bytes()), down.forwarded(vip, client).bytes());
        stale.goes_on(&acked(seq + 4));
    }
    // Its client acknowledges what nobody told of: that is asked about once, and goes on.
    let far = acked(OLD.1 + 1_000 + 3 * FAR);
    assert_eq!(stale.lab.one(&far.bytes()).0, Verdict::Parked);
    let to = far.forwarded(local, backend).bytes();
    assert_eq!(stale.nobody_knows(), [(Verdict::Transmit, to)]);
    stale.goes_on(&far);
    stale.lab.check_counters();
}

/// A client acknowledges late what came with the backend's FIN; a director that nobody answers forwards it.
#[test]
fn the_last_segments_of_a_connection_are_not_asked_about() {
    let f = foreign(44_101, false);
    let mut over = opened(&f.record, OLD);
    over.flags = over.flags.with(F::CLIENT_FIN).with(F::BACKEND_FIN);
    let mut lab = Lab::new();
    lab.table.tick(lab.now_ns / MS);
    lab.table.created(&over);
    let last = Packet::tcp(f.client, f.vip, ACK, OLD.0 + 1, OLD.1 + 1_000);
    assert_eq!(lab.sent(&last.bytes()), last.forwarded(f.local, f.backend).bytes());
    // Without numbers nobody can tell.
    (over.client, over.backend_seen) = (seen(0, 0), seen(0, 0));
    over.flags = f.record.flags.with(F::CLIENT_FIN).with(F::BACKEND_FIN);
    let mut lab = Lab::new();
    lab.table.tick(lab.now_ns / MS);
    lab.table.created(&over);
    assert_eq!(lab.one(&last.bytes()).0, Verdict::Parked);
}
