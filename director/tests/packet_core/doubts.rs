//! Packets that may be of a later connection than the record that this director has of their key.

use std::net::SocketAddrV4;

use holdfast_director::core::{CoreConfig, Count, DropReason, MissAnswer, MissKind, Verdict};
use holdfast_schema::session::{HalfSeen, SessionFlags as F, SessionRecord, SessionSink};

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

    /// It goes to the old connection's backend at once.
    #[track_caller]
    fn goes_on(&mut self, packet: &Packet) {
        let sent = self.lab.sent(&packet.bytes());
        assert_eq!(sent, packet.forwarded(self.f.local, self.f.backend).bytes());
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
        // Who is cut off from those who know goes on serving.
        let local = if n == 0 { stale.new_local } else { stale.f.local };
        let to = data.forwarded(local, stale.f.backend).bytes();
        assert_eq!(released, [(Verdict::Transmit, to)], "{n}");
        assert_eq!(stale.lab.core.parked(), 0);
        // Those behind it need not ask.
        let more = stale.data((NEW.0 + 4, NEW.1));
        let to = more.forwarded(local, stale.f.backend).bytes();
        assert_eq!(stale.lab.sent(&more.bytes()), to);
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
    let (f, forget) = (&stale.f, |id| MissAnswer::DontKnow { id });
    let syn = Packet::tcp(f.client, f.vip, SYN, NEW.0 - 1, 0);
    let syn_ack = Packet::tcp(f.backend, f.local, SYN | ACK, NEW.1 - 1, NEW.0);
    let ack = Packet::tcp(f.client, f.vip, ACK, NEW.0, NEW.1);
    let (there, back) =
        (syn.forwarded(f.local, f.backend).bytes(), syn_ack.forwarded(f.vip, f.client).bytes());
    for (packet, to) in [(&syn, there), (&syn_ack, back)] {
        assert_eq!(stale.lab.one(&packet.bytes()).0, Verdict::Parked);
        let id = stale.lab.questions()[0].id;
        assert_eq!(stale.lab.answer(forget(id)), [(Verdict::Transmit, to)]);
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
    assert_eq!(young.len(), 2, "its homes are told that it is there, and that it is established");
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
fn without_means_to_ask_an_open_session_goes_on() {
    let config = CoreConfig { ask_burst: 4, ..CoreConfig::for_workers(1_000, 1) };
    let mut stale = Stale::with(44_206, config);
    for port in 1..4 {
        let miss = Packet::tcp(at(CLIENT, port), stale.f.vip, ACK, 1, 1).bytes();
        assert_eq!(stale.lab.one(&miss).0, Verdict::Parked);
    }
    stale.goes_on(&stale.data(NEW));
    // Nor does one that cannot wait.
    let config = CoreConfig { waiting_bytes: 200, ..CoreConfig::for_workers(1_000, 1) };
    let mut stale = Stale::with(44_206, config);
    stale.goes_on(&Packet { payload: vec![1; 1_000], ..stale.data(NEW) });
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
    let new_local = at(*f.local.ip(), new.reply.dst_port);
    for (told, local) in [(&new, new_local), (&old, f.local)] {
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
        assert_eq!(released, [(Verdict::Transmit, data.forwarded(local, f.backend).bytes())]);
        // Those behind it need not ask.
        let more = Packet::tcp(f.client, f.vip, ACK, NEW.0 + 3, NEW.1).payload(b"more");
        assert_eq!(lab.sent(&more.bytes()), more.forwarded(local, f.backend).bytes());
    }
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
