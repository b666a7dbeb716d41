//! A SYN came twice, and two directors have opened a session for it.

mod agreement;

use std::net::SocketAddrV4;

use holdfast_director::core::{Count, DropReason, MissAnswer, MissQuestion, Verdict};
use holdfast_schema::session::{HalfSeen, SessionFlags, SessionRecord, SessionSink};

use super::full_nat::open;
use super::misses::{Foreign, half_open};
use super::support::packet::*;
use super::support::*;

/// The initial sequence number of this director's backend, and of the first director's.
const OWN_ISN: u32 = 5_000;
const FIRST_ISN: u32 = 0x9000_0000;

/// A director that got the repeated SYN.
struct Second {
    lab: Lab,
    first: Foreign,
    local: SocketAddrV4,
    backend: SocketAddrV4,
}

impl Second {
    fn new(port: u16) -> Second {
        let (mut first, mut lab) = (half_open(port), Lab::new());
        (first.record.incarnation.creator, first.record.owner) = (OTHER, OTHER);
        first.record.incarnation.stamp -= 1_000;
        let syn = Packet::tcp(first.client, first.vip, SYN, 100, 0);
        let (local, backend) = open(&mut lab, &syn);
        assert_ne!(local, first.local);
        Second { lab, first, local, backend }
    }

    fn answered(port: u16) -> Second {
        let mut second = Second::new(port);
        let syn_ack = Packet::tcp(second.backend, second.local, SYN | ACK, OWN_ISN, 101);
        second.lab.sent(&syn_ack.bytes());
        second
    }

    /// What becomes of a segment when nobody knows more.
    fn asked_in_vain(&mut self, segment: &Packet) -> Vec<(Verdict, Vec<u8>)> {
        let sent = self.lab.one(&segment.bytes());
        if sent.0 != Verdict::Parked {
            return vec![sent];
        }
        let id = self.lab.questions().last().expect("it is asked about").id;
        let mut left = self.lab.answer(MissAnswer::DontKnow { id });
        self.lab.pass(20);
        left.extend(self.lab.poll());
        left
    }

    /// What comes of the question to the own backend.
    fn hears(&mut self, shown: &str) {
        let reply = match shown {
            // It has sent something since.
            "number" => reply_of(self, ACK, FIRST_ISN + 1 + 700, 101),
            // Its port is in TIME_WAIT.
            "earlier" => reply_of(self, ACK, 0x3000_0000, 0x4000_0000),
            // With the number that the client expects of the other backend.
            "reset" => reply_of(self, RST, FIRST_ISN + 1, 0),
            _ => return,
        };
        let to_client = reply.forwarded(self.first.vip, self.first.client).bytes();
        let [(verdict, sent)] = &self.asked_in_vain(&reply)[..] else { panic!("{shown}") };
        match shown {
            "reset" => assert_eq!(*verdict, Verdict::Drop(DropReason::OtherBackend)),
            _ => assert_eq!((verdict, sent), (&Verdict::Transmit, &to_client)),
        }
    }

    /// A segment of the client that acknowledges this number of its backend.
    fn ack(&self, isn: u32) -> Packet {
        Packet::tcp(self.first.client, self.first.vip, ACK, 101, isn + 1)
    }

    fn record(&self) -> SessionRecord {
        self.lab.table.session_of(self.first.client, self.first.vip)
    }

    /// The first director's record since its backend has answered.
    fn first_answered(&self) -> SessionRecord {
        let mut first = self.first.record.clone();
        first.flags = first.flags.with(SessionFlags::BACKEND_ANSWERED);
        first.backend_seen = HalfSeen { age_ms: 0, seq: FIRST_ISN + 1, ack: 101 };
        first
    }

    fn resets(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        core.reset_half_open(tables, *now_ns, &mut |frame, _| sent.push(frame.packet().to_vec()));
        sent
    }

    /// The own backend is told that its half-open connection is over, and nobody else anything.
    fn own_backend_is_reset(&mut self) {
        let resets = self.resets();
        assert_eq!(resets.len(), 1);
        assert_eq!(verified_endpoints(&resets[0]), (self.local, self.backend));
        let expected = Packet {
            ttl: 65,
            id: 0,
            window: 0,
            ..Packet::tcp(self.local, self.backend, RST, 101, 0)
        };
        assert_eq!(resets[0], expected.forwarded(self.local, self.backend).bytes());
        assert_eq!(self.lab.counters().count(Count::TwinsReset), 1);
        self.lab.check_counters();
    }

    /// The client's segment waits, and one question about it is on its way.
    fn is_asked_about(&mut self, segment: &Packet) -> MissQuestion {
        assert_eq!(self.lab.one(&segment.bytes()).0, Verdict::Parked);
        let questions = self.lab.questions();
        assert_eq!(questions.len(), 1);
        assert_eq!(questions[0].key, self.first.record.key);
        questions[0]
    }

    fn found(
        &mut self,
        question: &MissQuestion,
        record: &SessionRecord,
    ) -> Vec<(Verdict, Vec<u8>)> {
        self.lab.answer(MissAnswer::Found { id: question.id, record: record.clone() })
    }

    fn to_first(&self, segment: &Packet) -> Vec<(Verdict, Vec<u8>)> {
        let forwarded = segment.forwarded(self.first.local, self.first.backend);
        vec![(Verdict::Transmit, forwarded.bytes())]
    }

    fn to_own(&self, segment: &Packet) -> Vec<(Verdict, Vec<u8>)> {
        vec![(Verdict::Transmit, segment.forwarded(self.local, self.backend).bytes())]
    }

    fn says_again(&self) -> bool {
        self.lab.table.next_said_again().is_some()
    }
}

#[test]
fn one_whose_backend_is_silent_gives_way_at_once() {
    let mut second = Second::new(46_000);
    second.lab.table.twin(&second.first.record);
    assert_eq!(second.record().incarnation, second.first.record.incarnation);
    second.own_backend_is_reset();
    // The client's packets go where the first director sends them, if they are its backend's.
    let ack = second.ack(FIRST_ISN);
    let id = second.is_asked_about(&ack).id;
    let answered = second.first_answered();
    let sent = second.lab.answer(MissAnswer::Found { id, record: answered });
    assert_eq!(sent, second.to_first(&ack));
    let to = ack.forwarded(second.first.local, second.first.backend);
    assert_eq!(second.lab.sent(&ack.bytes()), to.bytes());
    assert_eq!((second.lab.table.stats().twins_adopted, second.says_again()), (1, false));
    assert_eq!(second.lab.table.stats().half_open, 0, "the pool is for its own");
    // Told once more, it has nothing to do.
    second.lab.table.twin(&second.first.record);
    assert!(second.resets().is_empty());
}

/// Both would be gone at the next look, and the client's next segment would find nothing.
#[test]
fn one_that_has_expired_takes_nobodys_place() {
    let mut second = Second::new(46_020);
    let own = second.record().incarnation;
    let mut expired = second.first.record.clone();
    expired.client.age_ms = expired.idle_limit_ms();
    expired.backend_seen.age_ms = expired.idle_limit_ms();
    second.lab.table.twin(&expired);
    second.lab.table.learn(&expired, second.lab.now_ns / 1_000_000);
    assert_eq!(second.record().incarnation, own);
    assert!(second.resets().is_empty());
    // Its half-open limit counts, and its last packet of either side.
    expired.client.age_ms -= 1;
    second.lab.table.twin(&expired);
    assert_eq!(second.record().incarnation, expired.incarnation);
    second.own_backend_is_reset();
}

/// Nor is it kept for the client to decide.
#[test]
fn one_that_has_expired_is_no_choice() {
    let mut second = Second::answered(46_021);
    let own = second.record().incarnation;
    let mut expired = second.first.record.clone();
    expired.client.age_ms = expired.idle_limit_ms();
    expired.backend_seen.age_ms = expired.idle_limit_ms();
    second.lab.table.twin(&expired);
    let ack = second.ack(OWN_ISN);
    let to = second.to_own(&ack);
    assert_eq!(vec![(Verdict::Transmit, second.lab.sent(&ack.bytes()))], to);
    assert_eq!(second.record().incarnation, own);
    assert_eq!((second.lab.table.stats().twins_kept, second.says_again()), (0, false));
}

#[test]
fn when_both_backends_have_answered_the_client_decides() {
    for own in [true, false] {
        let mut second = Second::answered(46_001);
        let before = second.record().incarnation;
        second.lab.table.twin(&second.first.record);
        assert_eq!(second.record().incarnation, before, "not decided yet");
        // A repeated SYN decides nothing.
        let syn = Packet::tcp(second.first.client, second.first.vip, SYN, 100, 0);
        let to = syn.forwarded(second.local, second.backend);
        assert_eq!(second.lab.sent(&syn.bytes()), to.bytes());
        let ack = second.ack(if own { OWN_ISN } else { FIRST_ISN });
        let sent = second.lab.sent(&ack.bytes());
        if own {
            assert_eq!(sent, ack.forwarded(second.local, second.backend).bytes());
            assert!(second.record().flags.has(SessionFlags::ESTABLISHED));
            assert!(second.says_again(), "the others prefer the first as yet");
            assert!(second.resets().is_empty());
        } else {
            let to = ack.forwarded(second.first.local, second.first.backend);
            assert_eq!(sent, to.bytes(), "not a packet to the wrong backend");
            assert_eq!(second.record().incarnation, second.first.record.incarnation);
            second.own_backend_is_reset();
        }
        let stats = second.lab.table.stats();
        assert_eq!((stats.twins_kept, stats.twins_adopted), (u64::from(own), u64::from(!own)));
    }
}

/// There may be a third one.
#[test]
fn a_twin_whose_backend_denies_the_client_is_not_chosen_because_the_other_is_not_either() {
    let mut second = Second::answered(46_028);
    let own = second.record().incarnation;
    let mut denied = second.first.record.clone();
    denied.flags = denied.flags.with(SessionFlags::DENIED);
    second.lab.table.twin(&denied);
    let ack = second.ack(FIRST_ISN);
    let dropped = vec![(Verdict::Drop(DropReason::MissUnknown), ack.bytes())];
    assert_eq!(second.asked_in_vain(&ack), dropped);
    assert_eq!(second.record().incarnation, own);
    let ack = second.ack(OWN_ISN);
    assert_eq!(second.lab.sent(&ack.bytes()), second.to_own(&ack)[0].1);
    second.lab.check_counters();
}

/// A client sends its request right behind its ACK: both come in one batch.
#[test]
fn what_comes_right_behind_the_deciding_segment_goes_the_same_way() {
    let mut second = Second::answered(46_013);
    second.lab.table.twin(&second.first.record);
    let ack = second.ack(FIRST_ISN);
    let request = Packet { payload: b"GET /".to_vec(), ..second.ack(FIRST_ISN) };
    let sent = second.lab.batch(&[ack.bytes(), request.bytes()]);
    assert_eq!(sent, [second.to_first(&ack), second.to_first(&request)].concat());
    second.own_backend_is_reset();
}

#[test]
fn an_established_one_stays_and_is_said_again() {
    let mut second = Second::answered(46_002);
    second.lab.sent(&second.ack(OWN_ISN).bytes());
    let mine = second.record().incarnation;
    second.lab.table.twin(&second.first.record);
    assert_eq!(second.record().incarnation, mine);
    assert!(second.says_again() && second.resets().is_empty());
}

#[test]
fn a_half_open_one_gives_way_to_what_the_client_has_agreed_on_elsewhere() {
    let mut second = Second::answered(46_003);
    let mut agreed = second.first.record.clone();
    agreed.flags =
        agreed.flags.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED);
    second.lab.table.twin(&agreed);
    assert_eq!(second.record().incarnation, agreed.incarnation);
    second.own_backend_is_reset();
}

#[test]
fn another_opening_is_no_twin() {
    let mut second = Second::new(46_004);
    let mine = second.record().incarnation;
    let mut other = second.first.record.clone();
    other.incarnation.isn += 1;
    second.lab.table.twin(&other);
    assert_eq!(second.record().incarnation, mine);
    assert!(second.resets().is_empty() && !second.says_again());
}

#[test]
fn an_answer_to_another_backend_waits_until_its_session_is_told() {
    let mut second = Second::answered(46_005);
    let ack = second.ack(FIRST_ISN);
    let question = second.is_asked_about(&ack);
    let first = second.first.record.clone();
    assert_eq!(second.found(&question, &first), second.to_first(&ack));
    assert_eq!(second.record().incarnation, first.incarnation);
    second.own_backend_is_reset();
    assert_eq!(second.lab.core.parked(), 0);
    // Nobody is asked any more.
    assert_eq!(second.lab.sent(&ack.bytes()), second.to_first(&ack)[0].1);
    // The first director's is the newer one by its clock: the client has spoken all the same.
    let mut second = Second::answered(46_006);
    second.first.record.incarnation.stamp += 5_000;
    let ack = second.ack(FIRST_ISN);
    let question = second.is_asked_about(&ack);
    let first = second.first.record.clone();
    assert_eq!(second.found(&question, &first), second.to_first(&ack));
    second.own_backend_is_reset();
}

#[test]
fn an_answer_to_another_backend_never_goes_to_the_own() {
    for answer in ["own", "no", "unknown", "nothing"] {
        let mut second = Second::answered(46_007);
        let ack = second.ack(FIRST_ISN);
        let (own, id) = (second.record(), second.is_asked_about(&ack).id);
        let mut left = Vec::new();
        let mut asked = 0;
        for _ in 0..20 {
            left.extend(match (answer, asked) {
                (_, 1..) | ("nothing", _) => vec![],
                ("own", _) => second.lab.answer(MissAnswer::Found { id, record: own.clone() }),
                ("no", _) => second.lab.answer(MissAnswer::NoWithAuthority { id }),
                _ => second.lab.answer(MissAnswer::DontKnow { id }),
            });
            second.lab.pass(1);
            left.extend(second.lab.poll());
            asked += second.lab.questions().len();
        }
        let dropped = (Verdict::Drop(DropReason::OtherBackend), ack.bytes());
        assert_eq!(left, [dropped], "{answer}");
        assert!((1..=3).contains(&asked), "{answer}: again each 5 ms, not more: {asked}");
        assert_eq!(second.lab.core.parked(), 0);
        assert_eq!(second.record().incarnation, own.incarnation);
        // What belongs to the own session passes.
        let ack = second.ack(OWN_ISN);
        assert_eq!(second.lab.sent(&ack.bytes()), second.to_own(&ack)[0].1);
        assert!(second.record().flags.has(SessionFlags::ESTABLISHED));
        second.lab.check_counters();
    }
}

fn reply_of(second: &Second, bits: u8, seq: u32, ack: u32) -> Packet {
    Packet::tcp(second.backend, second.local, bits, seq, ack)
}

/// The handshake was completed at a director that died before it could tell.
#[test]
fn an_answer_a_little_further_on_is_of_the_own_backend_if_nobody_knows_another_session() {
    const SENT: u32 = 100_000;
    for (isn, own) in [(OWN_ISN + SENT, true), (OWN_ISN - 1, false), (OWN_ISN + (1 << 21), false)] {
        let mut second = Second::answered(46_014);
        let ack = second.ack(isn);
        let id = second.is_asked_about(&ack).id;
        let record = second.record();
        let mut left = second.lab.answer(MissAnswer::Found { id, record });
        second.lab.pass(20);
        left.extend(second.lab.poll());
        if own {
            assert_eq!(left, second.to_own(&ack));
            assert!(
                second.record().flags.has(SessionFlags::ESTABLISHED),
                "the client knows its number"
            );
            let more = second.ack(isn + 1_000);
            assert_eq!(second.lab.sent(&more.bytes()), second.to_own(&more)[0].1);
        } else {
            assert_eq!(left, [(Verdict::Drop(DropReason::OtherBackend), ack.bytes())]);
            assert!(!second.record().flags.has(SessionFlags::ESTABLISHED));
        }
    }
}

/// One blind segment must not decide which of two connections goes on.
#[test]
fn a_segment_that_fits_neither_twin_decides_nothing() {
    let mut second = Second::answered(46_015);
    let mine = second.record().incarnation;
    second.lab.table.twin(&second.first_answered());
    let stray = second.ack(0x7000_0000);
    second.is_asked_about(&stray);
    assert_eq!(second.record().incarnation, mine);
    assert!(second.resets().is_empty());
    second.lab.pass(20);
    assert_eq!(second.lab.poll(), [(Verdict::Drop(DropReason::OtherBackend), stray.bytes())]);
    let ack = second.ack(FIRST_ISN);
    assert_eq!(second.lab.sent(&ack.bytes()), second.to_first(&ack)[0].1);
}

/// Numbers of two backends are near each other once in 4,096 times.
#[test]
fn the_exact_number_of_the_other_backend_decides_if_the_own_one_is_near() {
    let mut second = Second::answered(46_018);
    let mut first = second.first_answered();
    first.backend_seen.seq = OWN_ISN + 500;
    second.lab.table.twin(&first);
    let ack = second.ack(OWN_ISN + 499);
    assert_eq!(second.lab.sent(&ack.bytes()), second.to_first(&ack)[0].1);
}

/// The client's answer to the own SYN-ACK was lost, and it has got the backend's first words.
#[test]
fn what_is_a_little_further_on_than_the_own_number_is_not_its_twins() {
    let mut second = Second::answered(46_016);
    second.lab.table.twin(&second.first.record);
    let later = second.ack(OWN_ISN + 500);
    second.is_asked_about(&later);
    second.lab.pass(1);
    assert_eq!(second.lab.poll(), second.to_own(&later));
    assert!(second.resets().is_empty());
}

#[test]
fn the_number_of_the_others_backend_may_be_told_before_the_own_one_is_known() {
    let mut second = Second::new(46_009);
    let ack = second.ack(FIRST_ISN);
    let question = second.is_asked_about(&ack);
    let first = second.first_answered();
    assert_eq!(second.found(&question, &first), second.to_first(&ack));
    second.own_backend_is_reset();
}

#[test]
fn a_notice_of_the_twin_ends_the_waiting() {
    let mut second = Second::answered(46_010);
    let ack = second.ack(FIRST_ISN);
    second.is_asked_about(&ack);
    second.lab.table.twin(&second.first.record);
    second.lab.pass(1);
    assert_eq!(second.lab.poll(), second.to_first(&ack));
    second.own_backend_is_reset();
}

/// Two directors that tell each other at the same time must not take each other's session.
#[test]
fn the_older_one_does_not_give_way_before_the_client_has_spoken() {
    for answered in [false, true] {
        let mut older = if answered { Second::answered(46_011) } else { Second::new(46_011) };
        older.first.record.incarnation.stamp += 5_000;
        let mine = older.record().incarnation;
        older.lab.table.twin(&older.first.record);
        assert_eq!(older.record().incarnation, mine);
        assert!(older.resets().is_empty());
        if !answered {
            let syn_ack = Packet::tcp(older.backend, older.local, SYN | ACK, OWN_ISN, 101);
            older.lab.sent(&syn_ack.bytes());
        }
        let ack = older.ack(FIRST_ISN);
        assert_eq!(older.lab.sent(&ack.bytes()), older.to_first(&ack)[0].1);
        older.own_backend_is_reset();
    }
}

#[test]
fn the_number_of_the_other_backend_decides_if_the_own_one_is_silent() {
    let mut older = Second::new(46_012);
    older.first.record.incarnation.stamp += 5_000;
    older.lab.table.twin(&older.first_answered());
    let ack = older.ack(FIRST_ISN);
    assert_eq!(older.lab.sent(&ack.bytes()), older.to_first(&ack)[0].1);
    older.own_backend_is_reset();
}
