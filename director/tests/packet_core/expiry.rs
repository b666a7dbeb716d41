//! The ends of an expired connection: probes, their answers, resets, and signs of life.

use holdfast_director::core::{Count, DropReason, MissAnswer, Verdict};
use holdfast_director::session::{SweepPolicy, Sweeper};
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{SessionChange, SessionFlags, SessionRecord, SessionSink};

use super::full_nat::open;
use super::support::packet::*;
use super::support::*;

use std::net::SocketAddrV4;

const IDLE_MS: u64 = 900_000;

/// Every shard: whoever leads them probes for owners that have departed.
const ALL: [ShardId; 16] = {
    let mut all = [ShardId(0); 16];
    let mut at = 0;
    while at < 16 {
        all[at] = ShardId(at as u16);
        at += 1;
    }
    all
};

/// A director with a connection through it, and its sweep.
struct Case {
    lab: Lab,
    sweeper: Sweeper,
    departed: Vec<DirectorId>,
    client: SocketAddrV4,
    vip: SocketAddrV4,
    local: SocketAddrV4,
    backend: SocketAddrV4,
    /// What the ends send next.
    client_next: u32,
    backend_next: u32,
}

/// The sequence numbers at which a connection begins.
type Isns = (u32, u32);

impl Case {
    /// A connection on which both sides have sent something, and come to rest.
    fn new((client_isn, backend_isn): Isns) -> Case {
        let mut lab = Lab::new();
        let (client, vip) = (at(CLIENT, 44_000), at(VIP, WEB));
        let (local, backend) = open(&mut lab, &Packet::tcp(client, vip, SYN, client_isn, 0));
        let (c, b) = (client_isn.wrapping_add(1), backend_isn.wrapping_add(1));
        for (src, dst, bits, seq, ack, len) in [
            (backend, local, SYN | ACK, backend_isn, c, 0),
            (client, vip, ACK, c, b, 0),
            (client, vip, ACK | PSH, c, b, 30),
            (backend, local, ACK | PSH, b, c.wrapping_add(30), 1_000),
            (client, vip, ACK, c.wrapping_add(30), b.wrapping_add(1_000), 0),
        ] {
            lab.sent(&Packet::tcp(src, dst, bits, seq, ack).payload(&vec![7; len]).bytes());
        }
        let (client_next, backend_next) = (c.wrapping_add(30), b.wrapping_add(1_000));
        Case::around(lab, client, vip, local, backend, (client_next, backend_next))
    }

    fn around(
        lab: Lab,
        client: SocketAddrV4,
        vip: SocketAddrV4,
        local: SocketAddrV4,
        backend: SocketAddrV4,
        (client_next, backend_next): (u32, u32),
    ) -> Case {
        let sweeper = Sweeper::new(&lab.table);
        let mut case = Case {
            lab,
            sweeper,
            departed: Vec::new(),
            client,
            vip,
            local,
            backend,
            client_next,
            backend_next,
        };
        case.sweep();
        case
    }

    fn record(&self) -> SessionRecord {
        self.lab.table.session_of(self.client, self.vip)
    }

    /// One pass of the sweep; the frames of the probes that it wants.
    fn sweep(&mut self) -> Vec<Vec<u8>> {
        let policy = SweepPolicy { departed: &self.departed, leads: &ALL, ..SweepPolicy::CALM };
        let lab = &mut self.lab;
        let mut changes = Vec::new();
        let now_ms = lab.now_ns / MS;
        self.sweeper.step(&lab.table, &lab.tables, now_ms, &policy, 100_000, &mut changes);
        for (_, change) in changes {
            match change {
                SessionChange::Create(record) => lab.table.created(&record),
                SessionChange::Update(update) => lab.table.updated(&update),
                SessionChange::Expire { .. } => panic!("the shard's leader says that"),
            }
        }
        let mut frames = Vec::new();
        for probe in self.sweeper.take_probes() {
            lab.core.probe(&lab.tables, lab.now_ns, &probe, &mut |frame, verdict| {
                assert_eq!(verdict, Verdict::Transmit);
                frames.push(frame.packet().to_vec());
            });
        }
        lab.check_counters();
        frames
    }

    /// The idle timeout passes, and the store lets the session expire.
    fn expire(&mut self) {
        let (key, incarnation) = (self.key(), self.record().incarnation);
        self.lab.pass(4_000);
        self.sweep();
        self.lab.pass(IDLE_MS);
        self.sweep();
        self.lab.table.expired(&key, &incarnation);
    }

    /// It expires, others had their time for a veto, and the probes are sent.
    fn probed(&mut self) -> Vec<Vec<u8>> {
        self.expire();
        self.lab.pass(1_999);
        assert_eq!(self.sweep(), Vec::<Vec<u8>>::new());
        self.lab.pass(1);
        self.sweep()
    }

    fn key(&self) -> FlowKey {
        FlowKey::new(Protocol::Tcp, self.client.into(), self.vip.into())
    }

    /// What an end at rest answers to an old segment.
    fn answers(&self) -> [Packet; 2] {
        let (c, b) = (self.client_next, self.backend_next);
        [
            Packet::tcp(self.client, self.vip, ACK, c, b),
            Packet::tcp(self.backend, self.local, ACK, b, c),
        ]
    }

    /// The first answer of an end at rest ends here.
    #[track_caller]
    fn keeps_to_itself(&mut self, answer: &Packet) {
        let verdict = self.lab.one(&answer.bytes()).0;
        assert_eq!(verdict, Verdict::Drop(DropReason::EndAtRest));
    }

    /// Resets that clients and backends were sent.
    fn resets(&self) -> (u64, u64) {
        let count = |count| self.lab.counters().count(count);
        (count(Count::ExpiredClientsReset), count(Count::ExpiredBackendsReset))
    }

    fn exists(&self) -> bool {
        self.lab.table.sessions() == 1
    }

    fn expiring(&mut self) -> bool {
        self.lab.pass(1);
        self.sweep();
        self.lab.table.stats().pass.expiring == 1
    }
}

#[test]
fn both_ends_are_probed_and_reset_with_the_number_they_accept() {
    // Numbers anywhere, and numbers that wrap between the handshake and the end.
    for isns in [(100, 5_000), (u32::MAX - 20, u32::MAX - 500), (u32::MAX, u32::MAX - 1_001)] {
        let mut case = Case::new(isns);
        let (c, b) = (case.client_next, case.backend_next);
        let (client, vip, local, backend) = (case.client, case.vip, case.local, case.backend);
        let probes = case.probed();
        let old = |next: u32| next.wrapping_sub(1);
        let expected = [
            Packet::tcp(vip, client, ACK, old(b), c).own(true).bytes(),
            Packet::tcp(local, backend, ACK, old(c), b).own(false).bytes(),
        ];
        assert_eq!(probes, expected, "{isns:?}");
        let [from_client, from_backend] = case.answers();
        case.keeps_to_itself(&from_client);
        let reset = Packet::tcp(local, backend, RST, c, 0).own(false);
        assert_eq!(case.lab.sent(&from_backend.bytes()), reset.bytes(), "{isns:?}");
        // The first one is asked again, and only that.
        case.lab.pass(1_000);
        assert_eq!(case.sweep(), expected[..1], "{isns:?}");
        let reset = Packet::tcp(vip, client, RST, b, 0).own(true);
        assert_eq!(case.lab.sent(&from_client.bytes()), reset.bytes(), "{isns:?}");
        let counters = case.lab.counters();
        for (count, times) in [
            (Count::ProbesToClient, 2),
            (Count::ProbesToBackend, 1),
            (Count::ExpiredClientsReset, 1),
            (Count::ExpiredBackendsReset, 1),
        ] {
            assert_eq!(counters.count(count), times, "{}", count.label());
        }
        case.lab.pass(1_000);
        assert_eq!(case.sweep(), Vec::<Vec<u8>>::new());
        assert!(!case.exists());
        assert_eq!(case.lab.table.stats().ends_given_up, 0);
    }
}

/// It says that it is at rest before the other says that it lives: that one has sent something that is
/// lost, or on its way, or went over a director that this one knew nothing of.
#[test]
fn who_answers_first_is_not_reset_before_the_other_is_heard() {
    for backend_first in [true, false] {
        let mut case = Case::new((100, 5_000));
        assert_eq!(case.probed().len(), 2);
        let [mut rests, mut lives] = case.answers();
        if backend_first {
            std::mem::swap(&mut rests, &mut lives);
        }
        case.keeps_to_itself(&rests);
        // What the network repeats is no second answer.
        case.lab.pass(300);
        case.keeps_to_itself(&rests);
        let lives = with_numbers(lives, 582, 0);
        let (src, dst) = match backend_first {
            true => (case.local, case.backend),
            false => (case.vip, case.client),
        };
        assert_eq!(case.lab.sent(&lives.bytes()), lives.forwarded(src, dst).bytes());
        assert!(!case.expiring());
        case.lab.pass(1_000);
        assert_eq!(case.sweep(), Vec::<Vec<u8>>::new());
        assert_eq!(case.resets(), (0, 0));
    }
}

/// It is dead, or another director gets its answers.
#[test]
fn an_end_whose_other_one_is_silent_is_reset_at_its_second_answer() {
    for of_client in [true, false] {
        for lost in [false, true] {
            let mut case = Case::new((100, 5_000));
            case.probed();
            let [from_client, from_backend] = case.answers();
            let answer = if of_client { from_client } else { from_backend };
            if lost {
                case.lab.pass(1_000);
                assert_eq!(case.sweep().len(), 2);
            }
            case.keeps_to_itself(&answer);
            case.lab.pass(1_000);
            assert_eq!(case.sweep().len(), 2);
            let number = if of_client { case.backend_next } else { case.client_next };
            let (src, dst) = (answer.dst, answer.src);
            let reset = Packet::tcp(src, dst, RST, number, 0).own(of_client);
            assert_eq!(case.lab.sent(&answer.bytes()), reset.bytes());
            assert_eq!(case.resets(), if of_client { (1, 0) } else { (0, 1) });
            // The other one is probed in vain, three times in all.
            if !lost {
                case.lab.pass(1_000);
                assert_eq!(case.sweep().len(), 1);
            }
            assert!(case.exists());
            case.lab.pass(1_000);
            assert_eq!(case.sweep(), Vec::<Vec<u8>>::new());
            assert!(!case.exists());
            assert_eq!(case.lab.table.stats().ends_given_up, 1);
        }
    }
}

/// What an end showed once says nothing when the session's time is over again.
#[test]
fn what_was_shown_before_a_sign_of_life_does_not_count() {
    let mut case = Case::new((100, 5_000));
    case.probed();
    let [from_client, from_backend] = case.answers();
    case.keeps_to_itself(&from_client);
    case.lab.sent(&with_flags(from_backend.clone().payload(b"still here"), ACK | PSH).bytes());
    let acked = with_numbers(from_client, 0, 10);
    case.lab.sent(&acked.bytes());
    (case.client_next, case.backend_next) = (case.client_next, case.backend_next + 10);
    case.sweep();
    assert_eq!(case.probed().len(), 2);
    let [_, from_backend] = case.answers();
    case.keeps_to_itself(&from_backend);
    assert_eq!(case.resets(), (0, 0));
}

/// The director that created the session has died; this one knows of it by the store only. Its numbers
/// may be a packet old, as those of a refresh are.
#[test]
fn after_a_takeover_the_leader_tells_both_ends() {
    let mut case = Case::new((100, 5_000));
    let mut said = case.record();
    said.owner = OTHER;
    let mut other = Lab::new();
    let stats = other.table.stats();
    other.table.tick(other.now_ns / MS);
    other.table.created(&said);
    assert_eq!(stats.sessions, 0);
    let (c, b) = (case.client_next, case.backend_next);
    let ends = (case.client, case.vip, case.local, case.backend);
    other.pass(1);
    case = Case::around(other, ends.0, ends.1, ends.2, ends.3, (c, b));
    assert_eq!(case.probed(), Vec::<Vec<u8>>::new(), "its owner does");
    case.departed = vec![OTHER];
    case.lab.pass(1_000);
    assert_eq!(case.sweep().len(), 2);
    let [from_client, from_backend] = case.answers();
    case.keeps_to_itself(&from_client);
    for (answer, to_client) in [(from_backend, false), (from_client, true)] {
        let (src, dst) = (answer.dst, answer.src);
        let number = if to_client { b } else { c };
        let reset = Packet::tcp(src, dst, RST, number, 0).own(to_client);
        assert_eq!(case.lab.sent(&answer.bytes()), reset.bytes());
    }
}

#[test]
fn an_answer_at_another_director_is_good_as_well() {
    let mut case = Case::new((100, 5_000));
    case.probed();
    // This one knows the same, is not the owner, and has sent no probe.
    let mut other = Lab::new();
    let mut said = case.record_while_expiring();
    said.owner = OTHER;
    other.now_ns = case.lab.now_ns;
    other.table.tick(other.now_ns / MS - 2_000);
    other.table.created(&said);
    other.table.expired(&said.key, &said.incarnation);
    let [from_client, _] = case.answers();
    assert_eq!(other.one(&from_client.bytes()).0, Verdict::Drop(DropReason::EndAtRest));
    // The other end's answer came elsewhere, so it takes a second one of this end.
    other.pass(1_000);
    let reset = Packet::tcp(case.vip, case.client, RST, case.backend_next, 0).own(true);
    assert_eq!(other.sent(&from_client.bytes()), reset.bytes());
}

/// One that was away when it expired has to ask, and judges what it asked about like those who knew it.
#[test]
fn who_is_told_of_an_expiring_session_judges_its_packets() {
    for lives in [true, false] {
        let mut case = Case::new((100, 5_000));
        case.expire();
        case.lab.pass(1_000);
        case.sweep();
        let record = case.lab.table.find(&case.key()).session().expect("it is told");
        let mut other = Lab::new();
        other.now_ns = case.lab.now_ns;
        let [mut packet, _] = case.answers();
        if lives {
            packet = packet.payload(b"still here");
        }
        assert_eq!(other.one(&packet.bytes()).0, Verdict::Parked);
        let id = other.questions()[0].id;
        let released = other.answer(MissAnswer::Found { id, record });
        if lives {
            let forwarded = packet.forwarded(case.local, case.backend).bytes();
            assert_eq!(released, [(Verdict::Transmit, forwarded)]);
            assert_eq!(other.table.unreplicated(), 1, "to be proposed again");
            continue;
        }
        assert_eq!(released[0].0, Verdict::Drop(DropReason::EndAtRest));
        // An answer to a later probe.
        other.pass(1_000);
        let reset = Packet::tcp(case.vip, case.client, RST, case.backend_next, 0).own(true);
        assert_eq!(other.sent(&packet.bytes()), reset.bytes());
    }
}

impl Case {
    fn record_while_expiring(&self) -> SessionRecord {
        let mut found = None;
        self.lab.table.for_each(self.lab.now_ns / MS, |record, _| found = Some(record.clone()));
        found.expect("it is there")
    }
}

/// A packet of an end that is alive.
type Sign = fn(&Case) -> Packet;

/// Whatever shows that something was sent since the last packet known here, or that an end speaks by
/// itself, is life: over another director that was cut off, perhaps.
#[test]
fn a_sign_of_life_is_forwarded_and_the_session_goes_on() {
    for isns in [(100, 5_000), (u32::MAX - 20, u32::MAX - 500)] {
        let signs: [(&str, Sign); 8] = [
            ("the client sent something since", |case| {
                let [answer, _] = case.answers();
                with_numbers(answer, 1, 0)
            }),
            ("the client got something since", |case| {
                let [answer, _] = case.answers();
                with_numbers(answer, 0, 1)
            }),
            ("the backend sent something since", |case| {
                let [_, answer] = case.answers();
                with_numbers(answer, 400, 0)
            }),
            ("the backend got something since", |case| {
                let [_, answer] = case.answers();
                with_numbers(answer, 0, 90)
            }),
            ("data of the client", |case| {
                let [answer, _] = case.answers();
                answer.payload(b"still here")
            }),
            ("data of the backend", |case| {
                let [_, answer] = case.answers();
                answer.payload(b"still here")
            }),
            ("a keep-alive of the client", |case| {
                let [answer, _] = case.answers();
                with_numbers(answer, u32::MAX, 0)
            }),
            ("the client closes", |case| {
                let [answer, _] = case.answers();
                with_flags(answer, ACK | FIN)
            }),
        ];
        for (name, sign) in signs {
            let mut case = Case::new(isns);
            case.probed();
            let packet = sign(&case);
            let (src, dst) = match packet.src == case.client {
                true => (case.local, case.backend),
                false => (case.vip, case.client),
            };
            assert_eq!(
                case.lab.sent(&packet.bytes()),
                packet.forwarded(src, dst).bytes(),
                "{name}"
            );
            assert_eq!(case.lab.counters().count(Count::ExpiriesRefuted), 1, "{name}");
            assert!(!case.expiring(), "{name}");
            assert_eq!(case.lab.table.stats().vetoed, 1, "{name}");
            // It is proposed to the store again.
            let slot = case.lab.table.lookup(&case.key());
            let holdfast_director::session::Lookup::Found(slot, _) = slot else { panic!("{name}") };
            assert!(case.lab.table.session(slot).replicated(), "{name}");
            // And the other end's answer, which may be that of a connection at rest, goes its way.
            let [from_client, from_backend] = case.answers();
            let late = if packet.src == case.client { from_backend } else { from_client };
            let (src, dst) = match late.src == case.client {
                true => (case.local, case.backend),
                false => (case.vip, case.client),
            };
            assert_eq!(case.lab.sent(&late.bytes()), late.forwarded(src, dst).bytes(), "{name}");
            assert_eq!(case.resets(), (0, 0), "{name}");
        }
    }
}

fn with_numbers(packet: Packet, more_seq: u32, more_ack: u32) -> Packet {
    let L4::Tcp { flags, seq, ack, options } = packet.l4 else { panic!("TCP") };
    let (seq, ack) = (seq.wrapping_add(more_seq), ack.wrapping_add(more_ack));
    Packet { l4: L4::Tcp { flags, seq, ack, options }, ..packet }
}

fn with_flags(packet: Packet, flags: u8) -> Packet {
    let L4::Tcp { seq, ack, options, .. } = packet.l4 else { panic!("TCP") };
    Packet { l4: L4::Tcp { flags, seq, ack, options }, ..packet }
}

#[test]
fn nobody_is_reset_before_others_had_time_for_a_veto() {
    let mut case = Case::new((100, 5_000));
    case.expire();
    case.lab.pass(500);
    // An ACK like that comes by itself when an application reads after a long time.
    let [from_client, _] = case.answers();
    let forwarded = from_client.forwarded(case.local, case.backend).bytes();
    assert_eq!(case.lab.sent(&from_client.bytes()), forwarded);
    assert!(!case.expiring());
}

#[test]
fn a_packet_within_the_timeout_keeps_the_session() {
    let mut case = Case::new((100, 5_000));
    let (key, incarnation) = (case.key(), case.record().incarnation);
    case.lab.pass(4_000);
    case.sweep();
    // Almost at the end of its time, and the store does not hear of it before it decides.
    case.lab.pass(IDLE_MS - 4_001);
    let [from_client, _] = case.answers();
    case.lab.sent(&from_client.bytes());
    case.lab.pass(IDLE_MS - 1);
    case.sweep();
    case.lab.table.expired(&key, &incarnation);
    case.sweep();
    case.lab.pass(3_000);
    assert_eq!(case.sweep(), Vec::<Vec<u8>>::new());
    assert_eq!(case.lab.table.stats().vetoed, 1);
    assert!(case.record().flags.established());
}

/// The machine of one end forgot the connection: it answers the probe with a reset, which is what the
/// other end needs to hear.
#[test]
fn an_end_that_is_gone_resets_the_other() {
    let mut case = Case::new((100, 5_000));
    case.probed();
    // The number of a reset is the acknowledgement of what it answers (RFC 9293 section 3.10.7.1).
    let reset = Packet::tcp(case.client, case.vip, RST, case.client_next, 0);
    let forwarded = reset.forwarded(case.local, case.backend).bytes();
    assert_eq!(case.lab.sent(&reset.bytes()), forwarded);
    assert!(!case.expiring());
    assert_eq!(case.lab.table.stats().pass.closing, 1);
    assert!(case.record().flags.has(SessionFlags::RESET));
    assert_eq!(case.lab.table.stats().vetoed, 0);
}

#[test]
fn a_syn_begins_a_new_connection_in_place_of_an_expired_one() {
    let mut case = Case::new((100, 5_000));
    case.expire();
    let first = case.record_while_expiring().incarnation;
    let syn = Packet::tcp(case.client, case.vip, SYN, 900_000, 0);
    let (local, backend) = verified_endpoints(&case.lab.sent(&syn.bytes()));
    assert!(case.record().incarnation > first);
    assert_eq!(case.lab.table.sessions(), 1);
    let answer = Packet::tcp(backend, local, SYN | ACK, 1, 900_001);
    assert_eq!(case.lab.sent(&answer.bytes()), answer.forwarded(case.vip, case.client).bytes());
}

/// Of a direction that nobody saw, only the other end's acknowledgements tell.
#[test]
fn ends_whose_numbers_nobody_knows_are_not_probed() {
    let mut case = Case::new((100, 5_000));
    let mut said = case.record();
    let unseen = |mut record: SessionRecord, client: bool| {
        let half = if client { &mut record.client } else { &mut record.backend_seen };
        (half.seq, half.ack) = (0, 0);
        record
    };
    let probes_with = |said: &SessionRecord, case: &Case| {
        let mut other = Lab::new();
        other.table.tick(other.now_ns / MS);
        other.table.created(said);
        other.pass(1);
        let ends = (case.client, case.vip, case.local, case.backend);
        let next = (case.client_next, case.backend_next);
        let mut case = Case::around(other, ends.0, ends.1, ends.2, ends.3, next);
        case.departed = vec![OTHER];
        case.probed()
    };
    said.owner = OTHER;
    case.departed = vec![OTHER];
    let all = probes_with(&said, &case);
    assert_eq!(all.len(), 2);
    assert_eq!(probes_with(&unseen(said.clone(), false), &case), all);
    let neither = unseen(unseen(said.clone(), false), true);
    assert_eq!(probes_with(&neither, &case), Vec::<Vec<u8>>::new());
}
