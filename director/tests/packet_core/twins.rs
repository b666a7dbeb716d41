//! A SYN came twice, and two directors have opened a session for it.

use std::net::SocketAddrV4;

use holdfast_director::core::Count;
use holdfast_schema::session::{SessionFlags, SessionRecord, SessionSink};

use super::full_nat::open;
use super::misses::{Foreign, foreign};
use super::support::packet::*;
use super::support::*;

/// The initial sequence number of this director's backend, and of the first director's.
const OWN_ISN: u32 = 5_000;
const FIRST_ISN: u32 = 9_000;

/// A director that got the repeated SYN.
struct Second {
    lab: Lab,
    first: Foreign,
    local: SocketAddrV4,
    backend: SocketAddrV4,
}

impl Second {
    fn new(port: u16) -> Second {
        let (mut first, mut lab) = (foreign(port, false), Lab::new());
        (first.record.incarnation.creator, first.record.owner) = (OTHER, OTHER);
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

    /// A segment of the client that acknowledges this number of its backend.
    fn ack(&self, isn: u32) -> Packet {
        Packet::tcp(self.first.client, self.first.vip, ACK, 101, isn + 1)
    }

    fn record(&self) -> SessionRecord {
        self.lab.table.session_of(self.first.client, self.first.vip)
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
    // The client's packets go where the first director sends them.
    let ack = second.ack(FIRST_ISN);
    let to = ack.forwarded(second.first.local, second.first.backend);
    assert_eq!(second.lab.sent(&ack.bytes()), to.bytes());
    assert_eq!((second.lab.table.stats().twins_adopted, second.says_again()), (1, false));
    assert_eq!(second.lab.table.stats().half_open, 0, "the pool is for its own");
    // Told once more, it has nothing to do.
    second.lab.table.twin(&second.first.record);
    assert!(second.resets().is_empty());
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
