//! What a client acknowledges of a backend whose number nobody knows: that one is asked.

use holdfast_director::core::{DropReason, MissAnswer, Verdict};
use holdfast_schema::session::{SessionFlags, SessionRecord};

use super::super::support::Lab;
use super::super::support::packet::*;
use super::{FIRST_ISN, OWN_ISN, Second, reply_of};

/// The SYN was lost on its way to the own backend, or its answer went by another director.
#[test]
fn an_answer_to_a_backend_whose_number_is_not_known_asks_for_it() {
    for answer in ["own", "no", "unknown", "nothing"] {
        for shown in ["number", "earlier", "reset", "nothing"] {
            let mut second = Second::new(46_008);
            let data = second.ack(FIRST_ISN).payload(b"data");
            let (own, id) = (second.record(), second.is_asked_about(&data).id);
            let mut left = match answer {
                "own" => second.lab.answer(MissAnswer::Found { id, record: own.clone() }),
                "no" => second.lab.answer(MissAnswer::NoWithAuthority { id }),
                "unknown" => second.lab.answer(MissAnswer::DontKnow { id }),
                _ => vec![],
            };
            second.lab.pass(20);
            left.extend(second.lab.poll());
            // Linux looks at the acknowledgement of a handshake's end before it looks at the window.
            let probe = Packet::tcp(second.local, second.backend, ACK, 100, FIRST_ISN + 1);
            let probe = vec![(Verdict::Transmit, probe.own(false).bytes())];
            assert_eq!(left, probe, "{answer}");
            second.hears(shown);
            let agreed = shown == "number";
            let bare = second.ack(FIRST_ISN);
            let to_nobody = vec![(Verdict::Drop(DropReason::OtherBackend), bare.bytes())];
            let left = second.asked_in_vain(&bare);
            assert_eq!(left, if agreed { second.to_own(&bare) } else { to_nobody }, "{shown}");
            assert_eq!(second.record().flags.has(SessionFlags::ESTABLISHED), agreed, "{shown}");
            if shown == "reset" {
                // Its own SYN-ACK may still be on its way: whom the client has agreed with, it will say.
                let syn_ack = reply_of(&second, SYN | ACK, OWN_ISN, 101);
                let to_client = syn_ack.forwarded(second.first.vip, second.first.client).bytes();
                assert_eq!(second.lab.sent(&syn_ack.bytes()), to_client);
                let own = second.ack(OWN_ISN);
                assert_eq!(second.lab.sent(&own.bytes()), second.to_own(&own)[0].1);
            }
            second.lab.check_counters();
        }
    }
}

/// By then its backend would have repeated the SYN-ACK, had the client not answered it: most likely all that it
/// says comes through another director. But one that denies the connection never gets the client's data.
#[test]
fn a_backend_that_was_asked_twice_is_believed_to_be_the_right_one_unless_it_denies() {
    for (early, late) in [
        ("nothing", "nothing"),
        ("earlier", "nothing"),
        ("nothing", "reset"),
        ("reset", "nothing"),
        ("reset", "reset"),
    ] {
        let mut second = Second::new(46_017);
        let data = second.ack(FIRST_ISN).payload(b"data");
        let probe = Packet::tcp(second.local, second.backend, ACK, 100, FIRST_ISN + 1);
        let probe = vec![(Verdict::Transmit, probe.own(false).bytes())];
        assert_eq!(second.asked_in_vain(&data), probe);
        second.hears(early);
        second.lab.pass(7_500);
        assert_eq!(second.asked_in_vain(&data), probe, "once more, now that it says something");
        assert_eq!(second.asked_in_vain(&data), probe, "its answer may be on its way");
        second.hears(late);
        second.lab.pass(600);
        let denied = [early, late].contains(&"reset");
        for _ in 0..2 {
            let left = second.asked_in_vain(&data);
            let to_own = second.to_own(&data);
            assert_eq!(left, if denied { probe.clone() } else { to_own }, "{early}, {late}");
        }
        assert!(!second.record().flags.closing(), "anybody can make up what is denied");
        second.lab.check_counters();
    }
}

/// It has repeated its data since it began, each time farther apart: no more time is lost.
#[test]
fn a_backend_that_was_asked_from_the_beginning_is_believed_as_soon_as_it_can_be() {
    let mut second = Second::new(46_026);
    let data = second.ack(FIRST_ISN).payload(b"data");
    for pause in [200, 400, 800, 1_600, 3_200] {
        assert_ne!(second.asked_in_vain(&data), second.to_own(&data));
        second.lab.pass(pause);
    }
    second.lab.pass(1_300);
    assert_eq!(second.asked_in_vain(&data), second.to_own(&data));
    second.lab.check_counters();
}

/// The client has sent much at once: what comes behind the segment that made its backend be asked.
#[test]
fn a_backend_has_time_to_deny_before_anything_goes_to_it() {
    let mut second = Second::new(46_022);
    second.lab.pass(7_500);
    let data = [b"more", b"data"].map(|bytes| second.ack(FIRST_ISN).payload(bytes));
    for verdict in second.lab.batch(&[data[0].bytes(), data[1].bytes()]) {
        assert_eq!(verdict.0, Verdict::Parked);
    }
    let id = second.lab.questions().last().expect("it is asked about").id;
    let mut left = second.lab.answer(MissAnswer::DontKnow { id });
    second.lab.pass(20);
    left.extend(second.lab.poll());
    let probe = Packet::tcp(second.local, second.backend, ACK, 100, FIRST_ISN + 1);
    let probe = (Verdict::Transmit, probe.own(false).bytes());
    assert_eq!(left, [probe.clone(), probe]);
    // Both may have been lost, as one.
    second.lab.pass(600);
    assert_ne!(second.asked_in_vain(&data[0]), second.to_own(&data[0]));
    second.hears("reset");
    assert!(!second.record().flags.has(SessionFlags::RESET));
    second.lab.check_counters();
}

/// The one that denies was sent data all the same: it was silent for too long.
#[test]
fn a_denial_never_reaches_the_client() {
    let mut second = Second::new(46_023);
    let data = second.ack(FIRST_ISN).payload(b"data");
    second.lab.pass(7_500);
    for _ in 0..2 {
        assert_ne!(second.asked_in_vain(&data), second.to_own(&data));
        second.lab.pass(200);
    }
    second.lab.pass(600);
    assert_eq!(second.asked_in_vain(&data), second.to_own(&data));
    second.hears("reset");
    assert!(!second.record().flags.has(SessionFlags::RESET));
    let asked = second.asked_in_vain(&data);
    assert_ne!(asked, second.to_own(&data), "not a byte more");
    second.lab.check_counters();
}

/// The client waits for its backend's first words, and only acknowledges its SYN-ACKs.
#[test]
fn a_backend_is_asked_once_for_what_only_acknowledges() {
    for (shown, then_ms, to_own) in
        [("nothing", 7_500, true), ("nothing", 6_000, false), ("reset", 7_500, false)]
    {
        let mut second = Second::new(46_024);
        let ack = second.ack(FIRST_ISN);
        let probe = Packet::tcp(second.local, second.backend, ACK, 100, FIRST_ISN + 1);
        let probe = vec![(Verdict::Transmit, probe.own(false).bytes())];
        assert_eq!(second.asked_in_vain(&ack), probe);
        second.hears(shown);
        let to_nobody = vec![(Verdict::Drop(DropReason::OtherBackend), ack.bytes())];
        assert_eq!(second.asked_in_vain(&ack), to_nobody, "its answer would be answered");
        second.lab.pass(then_ms);
        let left = second.asked_in_vain(&ack);
        assert_eq!(left, if to_own { second.to_own(&ack) } else { to_nobody }, "{shown}");
        second.lab.check_counters();
    }
}

/// The router sends the client's packets to a third director, and the replies still to the one that opened the
/// session: that one hears the denial of what the other has asked.
#[test]
fn what_a_backend_denies_to_one_director_it_denies_to_all() {
    for bare in [false, true] {
        for told in [false, true] {
            let mut second = Second::new(46_027);
            let ack = second.ack(FIRST_ISN);
            let segment = if bare { ack } else { ack.payload(b"data") };
            let early = second.record();
            second.asked_in_vain(&segment);
            second.hears("reset");
            let denied = second.record();
            assert!(denied.flags.has(SessionFlags::DENIED));
            let mut registered = 0;
            second.lab.core.take_young(|_| {
                registered += 1;
                true
            });
            assert_eq!(registered, 2, "when it began, and now that others have to know this of it");

            second.lab = Lab::new();
            let ask = |second: &mut Second, known: &SessionRecord| {
                let question = second.is_asked_about(&segment);
                let mut left = second.found(&question, known);
                second.lab.pass(20);
                left.extend(second.lab.poll());
                left
            };
            let probe = Packet::tcp(second.local, second.backend, ACK, 100, FIRST_ISN + 1);
            let probe = vec![(Verdict::Transmit, probe.own(false).bytes())];
            assert_eq!(ask(&mut second, &early), probe);
            second.lab.pass(7_500);
            if !bare {
                assert_eq!(ask(&mut second, &early), probe);
                second.lab.pass(600);
            }
            let left = ask(&mut second, if told { &denied } else { &early });
            let to_nobody = vec![(Verdict::Drop(DropReason::OtherBackend), segment.bytes())];
            match (told, bare) {
                (false, _) => assert_eq!(left, second.to_own(&segment), "nobody heard of a denial"),
                (true, false) => assert_eq!(left, probe),
                (true, true) => assert_eq!(left, to_nobody),
            }
            second.lab.check_counters();
        }
    }
}

/// A backend that is known only by what it was asked ends its connection.
#[test]
fn a_reset_with_the_number_that_was_shown_ends_the_session() {
    let mut second = Second::new(46_025);
    let data = second.ack(FIRST_ISN).payload(b"data");
    second.asked_in_vain(&data);
    second.hears("number");
    let reset = reply_of(&second, RST, FIRST_ISN + 1 + 700, 0);
    let to_client = reset.forwarded(second.first.vip, second.first.client).bytes();
    assert_eq!(second.lab.sent(&reset.bytes()), to_client);
    assert!(second.record().flags.has(SessionFlags::RESET));
    second.lab.check_counters();
}
