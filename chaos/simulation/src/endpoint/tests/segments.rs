//! Two connections face to face: what RFC 9293 and RFC 5961 ask for, segment by segment.

use std::net::SocketAddr;

use super::*;
use crate::endpoint::segment::{Flags, Segment};
use crate::endpoint::tcp::{Signal, State, Tcp};

type Packets = Vec<Vec<u8>>;

fn sockets() -> (SocketAddr, SocketAddr) {
    ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap())
}

fn parse(packet: &[u8]) -> Segment<'_> {
    Segment::parse(&Packet::parse(packet).unwrap()).unwrap()
}

/// Hands packets over; gives the answers.
fn hand(to: &mut Tcp, packets: &[Vec<u8>]) -> Packets {
    let mut out = Vec::new();
    for packet in packets {
        to.receive(1_000_000, &parse(packet), &mut out);
        to.flush(1_000_000, &mut out);
    }
    out
}

/// Hands packets to and fro until nobody says anything. The second gets them first.
fn settle(a: &mut Tcp, b: &mut Tcp, mut packets: Packets) {
    while !packets.is_empty() {
        packets = hand(b, &packets);
        packets = hand(a, &packets);
    }
}

fn flush(tcp: &mut Tcp) -> Packets {
    let mut out = Vec::new();
    tcp.flush(1_000_000, &mut out);
    out
}

fn signals(tcp: &mut Tcp) -> Vec<Signal> {
    std::iter::from_fn(|| tcp.signal()).collect()
}

/// An established connection; its numbers wrap after a few bytes.
fn pair() -> (Tcp, Tcp) {
    let config = TcpConfig::default();
    let mut out = Vec::new();
    let mut a = Tcp::connect(&config, sockets(), 0xffff_fffe, 0, &mut out);
    let syn = out.remove(0);
    let mut b = Tcp::accept(&config, &parse(&syn), 0xffff_ffff, 0, &mut out);
    let out = hand(&mut a, &out);
    settle(&mut b, &mut a, Vec::new());
    assert_eq!(hand(&mut b, &out), Packets::new());
    for tcp in [&mut a, &mut b] {
        assert_eq!((signals(tcp), tcp.state()), (vec![Signal::Connected], State::Established));
    }
    (a, b)
}

/// A segment to `to` with these bits and numbers beside those it expects.
fn forged(to: &Tcp, flags: Flags, seq_off: i32, ack_off: i32) -> Vec<u8> {
    let (local, remote) = to.sockets();
    let mut segment = Segment::bare(remote, local, flags);
    segment.seq = to.sequence_expected().wrapping_add_signed(seq_off);
    segment.ack = to.sequence_end().wrapping_add_signed(ack_off);
    segment.window = 65_535;
    segment.encode(&[])
}

/// Hands such a segment over; gives the answers.
fn poke(to: &mut Tcp, flags: Flags, seq_off: i32, ack_off: i32) -> Packets {
    let packet = forged(to, flags, seq_off, ack_off);
    hand(to, &[packet])
}

/// That it is a bare ACK with the exact numbers.
fn assert_exact(of: &Tcp, answers: &Packets) {
    let [answer] = answers.as_slice() else { panic!("{} answers", answers.len()) };
    let answer = parse(answer);
    assert_eq!((answer.flags, answer.payload.len()), (Flags::ACK, 0));
    assert_eq!((answer.seq, answer.ack), (of.sequence_end(), of.sequence_expected()));
}

#[test]
fn only_the_exact_reset_is_believed() {
    let (mut a, _) = pair();
    for (offset, challenged) in [(-1, false), (70_000, false), (-70_000, false), (1, true)] {
        let answers = poke(&mut a, Flags::RST, offset, 0);
        assert_eq!(signals(&mut a), [Signal::ResetIgnored], "{offset}");
        if challenged {
            assert_exact(&a, &answers);
        } else {
            assert_eq!(answers, Packets::new(), "{offset}");
        }
    }
    let (mut a, _) = pair();
    assert_eq!(poke(&mut a, Flags::RST, 0, 0), Packets::new());
    assert_eq!((signals(&mut a), a.state()), (vec![Signal::Reset], State::Closed));
}

#[test]
fn challenges_are_rate_limited() {
    let (mut a, _) = pair();
    let mut answered = Vec::new();
    for at_ms in (0..1_600).step_by(100) {
        let mut out = Vec::new();
        let reset = forged(&a, Flags::RST, 100, 0);
        a.receive(at_ms * 1_000, &parse(&reset), &mut out);
        if !out.is_empty() {
            answered.push(at_ms);
        }
    }
    assert_eq!(answered, [0, 500, 1_000, 1_500]);
}

#[test]
fn a_syn_is_challenged_and_an_old_bare_ack_answered_exactly() {
    let (mut a, mut b) = pair();
    a.write(&[7; 5_000]);
    let packets = flush(&mut a);
    settle(&mut a, &mut b, packets);
    let answers = poke(&mut b, Flags::SYN, 500, 0);
    assert_exact(&b, &answers);
    assert_eq!(signals(&mut b).len(), 1);
    assert_eq!(b.state(), State::Established);
    let (mut a, _) = pair();
    let answers = poke(&mut a, Flags::ACK, -1, 0);
    assert_exact(&a, &answers);
    assert_eq!(signals(&mut a), []);
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_challenged() {
    for ack_off in [1, 5_000, -70_000] {
        let (mut a, _) = pair();
        let answers = poke(&mut a, Flags::ACK, 0, ack_off);
        assert_exact(&a, &answers);
    }
}

#[test]
fn segments_for_no_connection_get_the_reset_of_the_standard() {
    let (from, to) = sockets();
    let mut segment = Segment::bare(from, to, Flags::ACK);
    (segment.seq, segment.ack, segment.payload) = (10, 20, b"data");
    let reset = segment.refusal().unwrap();
    assert_eq!((reset.flags, reset.seq, reset.src), (Flags::RST, 20, to));
    segment.flags = Flags::SYN;
    let reset = segment.refusal().unwrap();
    assert_eq!((reset.flags, reset.seq, reset.ack), (Flags::RST.with(Flags::ACK), 0, 15));
    segment.flags = Flags::RST;
    assert_eq!(segment.refusal(), None);
}

#[test]
fn a_half_closed_connection_still_carries_data() {
    let (mut a, mut b) = pair();
    a.close();
    let packets = flush(&mut a);
    settle(&mut a, &mut b, packets);
    assert_eq!((a.state(), b.state()), (State::FinWait2, State::CloseWait));
    assert_eq!(signals(&mut b), [Signal::PeerClosed]);
    b.write(&[1; 9_000]);
    let packets = flush(&mut b);
    settle(&mut b, &mut a, packets);
    assert_eq!(a.read(), [1; 9_000]);
    b.close();
    let packets = flush(&mut b);
    settle(&mut b, &mut a, packets);
    assert_eq!((a.state(), b.state()), (State::TimeWait, State::Closed));
    assert_eq!(signals(&mut a), [Signal::PeerClosed, Signal::Closed]);
    assert_eq!(signals(&mut b), [Signal::Closed]);
}

#[test]
fn both_may_close_at_once() {
    let (mut a, mut b) = pair();
    a.close();
    b.close();
    let (from_a, from_b) = (flush(&mut a), flush(&mut b));
    let (from_a, from_b) = (hand(&mut a, &from_b), hand(&mut b, &from_a));
    assert_eq!((a.state(), b.state()), (State::Closing, State::Closing));
    hand(&mut a, &from_b);
    hand(&mut b, &from_a);
    for tcp in [&mut a, &mut b] {
        assert_eq!(tcp.state(), State::TimeWait);
        assert_eq!(signals(tcp), [Signal::PeerClosed, Signal::Closed]);
        let mut out = Vec::new();
        tcp.tick(61_000_000, &mut out);
        assert_eq!((tcp.state(), out), (State::Closed, Packets::new()));
    }
}

#[test]
fn time_wait_takes_a_syn_beyond_its_numbers_only() {
    let (mut a, mut b) = pair();
    b.close();
    let packets = flush(&mut b);
    settle(&mut b, &mut a, packets);
    a.close();
    let packets = flush(&mut a);
    settle(&mut a, &mut b, packets);
    assert_eq!(b.state(), State::TimeWait);
    assert!(b.reopens(&parse(&forged(&b, Flags::SYN, 0, 0))));
    assert!(!b.reopens(&parse(&forged(&b, Flags::SYN, -1, 0))));
    assert!(!b.reopens(&parse(&forged(&b, Flags::SYN.with(Flags::ACK), 5, 0))));
    signals(&mut b);
    let answers = poke(&mut b, Flags::SYN, -1, 0);
    assert_exact(&b, &answers);
    assert_eq!(signals(&mut b), []);
    // The client's FIN again: its ACK was lost.
    let answers = poke(&mut b, Flags::FIN.with(Flags::ACK), -1, 0);
    assert_exact(&b, &answers);
}

#[test]
fn a_lost_segment_is_sent_again_at_once_after_three_duplicate_acks() {
    let (mut a, mut b) = pair();
    a.write(&vec![3; 1_460 * 6]);
    let mut packets = flush(&mut a);
    assert_eq!(packets.len(), 6);
    packets.remove(1);
    let acks = hand(&mut b, &packets);
    let again = hand(&mut a, &acks);
    assert_eq!(again.len(), 1);
    settle(&mut a, &mut b, again);
    assert_eq!(b.read(), vec![3; 1_460 * 6]);
    assert!(a.all_acknowledged());
}

#[test]
fn a_syn_sent_into_another_connection_resets_nothing_but_itself() {
    // The backend still has a connection of which the client knows nothing.
    let (_, mut b) = pair();
    let mut syn = Vec::new();
    let mut a = Tcp::connect(&TcpConfig::default(), sockets(), 77_777, 0, &mut syn);
    let challenge = hand(&mut b, &syn);
    assert_exact(&b, &challenge);
    let reset = hand(&mut a, &challenge);
    assert!(parse(&reset[0]).flags.has(Flags::RST));
    assert_eq!(a.state(), State::SynSent);
    hand(&mut b, &reset);
    assert_eq!(b.state(), State::Closed);
}
