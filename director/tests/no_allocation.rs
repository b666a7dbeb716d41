//! In the path of a packet nothing is allocated after start (DESIGN rule 4): not for known sessions,
//! not for new ones, not for what waits, not for what is dropped, and not for the ends of expired ones.

mod counting {
    #![allow(unsafe_code)] // a global allocator cannot be written otherwise

    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    /// How often this thread allocated so far.
    pub fn count() -> u64 {
        COUNT.with(Cell::get)
    }

    struct Counting;

    // SAFETY: every call is handed to the system's allocator as it is.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // The counter may be gone while its thread ends; then nobody asks for it.
            let _ = COUNT.try_with(|count| count.set(count.get() + 1));
            // SAFETY: the caller keeps GlobalAlloc's contract, which is System's as well.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static COUNTING: Counting = Counting;
}

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;

use holdfast_director::core::{CoreConfig, Count, Frame, MissAnswer, MissQuestion, Verdict};
use holdfast_director::session::{SessionTable, Slot, SweepPolicy, Sweeper};
use holdfast_schema::session::{SessionFlags, SessionRecord, SessionSink};
use support::packet::*;
use support::*;

const CHUNK: usize = 2048;
const FLOWS: u16 = 400;

/// What another director has opened: flows that this one is told of, and flows that it opens as well.
fn sessions_of_another() -> Vec<SessionRecord> {
    let mut other = Lab::new();
    let mut cluster = cluster();
    for (ip, lip) in &mut cluster.lips {
        lip.owner = Some(if *ip == std::net::IpAddr::V4(FOREIGN_LIP) { ME } else { OTHER });
    }
    other.tables = tables_of(&cluster);
    let syn = |port| Packet::tcp(at(CLIENT, port), at(VIP, WEB), SYN, 100, 0).bytes();
    let ports = (0..FLOWS).flat_map(|n| [30_000 + n, 40_000 + n]);
    ports.for_each(|port| drop(other.sent(&syn(port))));
    let mut all = Vec::new();
    other.table.for_each(other.now_ns / MS, |record, _| {
        let mut record = record.clone();
        (record.incarnation.creator, record.owner) = (OTHER, OTHER);
        if record.key.src_port < 40_000 {
            let answered = record.flags.with(SessionFlags::BACKEND_ANSWERED);
            record.flags = answered.with(SessionFlags::ESTABLISHED);
        }
        all.push(record);
    });
    all
}

struct Bench {
    lab: Lab,
    chunks: Vec<Vec<u8>>,
    verdicts: Vec<Verdict>,
    questions: Vec<MissQuestion>,
    /// Allocations inside the core so far.
    allocated: u64,
}

impl Bench {
    fn new() -> Bench {
        let table = Arc::new(SessionTable::new(4_000, 1_000, ME, 1));
        let lab = Lab::on(table, tables_of(&cluster()), CoreConfig::for_workers(2_000, 1));
        Bench {
            lab,
            chunks: Vec::new(),
            verdicts: Vec::new(),
            questions: Vec::with_capacity(4_096),
            allocated: 0,
        }
    }

    /// Processes packets and returns what was sent; counts only what the core allocates.
    fn process(&mut self, packets: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        self.chunks = packets
            .iter()
            .map(|packet| {
                let mut chunk = vec![0; CHUNK];
                chunk[..packet.len()].copy_from_slice(packet);
                chunk
            })
            .collect();
        self.verdicts = vec![Verdict::Parked; packets.len()];
        let mut frames: Vec<Frame<'_>> = self
            .chunks
            .iter_mut()
            .zip(packets)
            .map(|(chunk, packet)| Frame::new(chunk, 0, packet.len()))
            .collect();
        let before = counting::count();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        core.process(tables, *now_ns, &mut frames, &mut self.verdicts);
        self.allocated += counting::count() - before;
        frames
            .iter()
            .zip(&self.verdicts)
            .map(|(frame, v)| (*v == Verdict::Transmit).then(|| frame.packet().to_vec()))
            .collect()
    }

    fn ask(&mut self) -> usize {
        self.questions.clear();
        let before = counting::count();
        self.lab.core.take_questions(self.lab.now_ns, &mut self.questions);
        self.allocated += counting::count() - before;
        self.questions.len()
    }

    /// Answers every question with the record of its flow.
    fn tell_all(&mut self, known: &[SessionRecord]) -> usize {
        let answers: Vec<MissAnswer> = self
            .questions
            .iter()
            .map(|question| {
                let record = known.iter().find(|r| r.key == question.key).expect("it is known");
                MissAnswer::Found { id: question.id, record: record.clone() }
            })
            .collect();
        let mut released = 0;
        let before = counting::count();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        // As a worker takes them from its queue: by value.
        for answer in answers {
            core.answer(tables, *now_ns, &answer, &mut |_, _| released += 1);
        }
        // The vector itself is the test's.
        self.allocated += counting::count() - before;
        released
    }

    /// Puts the new sessions into the ring to their homes, and the questions into theirs.
    fn put_down(&mut self, opened: &mut rtrb::Producer<Slot>) {
        let before = counting::count();
        self.lab.core.take_young(|slot| opened.push(slot).is_ok());
        self.allocated += counting::count() - before;
    }

    /// Sessions give way to twins, whose backends' connections are reset.
    fn reset_half_open(&mut self) -> usize {
        let mut sent = 0;
        let before = counting::count();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        for _ in 0..FLOWS {
            core.reset_half_open(tables, *now_ns, &mut |_, _| sent += 1);
        }
        self.allocated += counting::count() - before;
        sent
    }

    fn deny_all(&mut self) -> usize {
        let mut released = 0;
        let before = counting::count();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        for question in &self.questions {
            let answer = MissAnswer::NoWithAuthority { id: question.id };
            core.answer(tables, *now_ns, &answer, &mut |_, _| released += 1);
        }
        self.allocated += counting::count() - before;
        released
    }

    fn poll(&mut self) -> usize {
        let mut released = 0;
        let before = counting::count();
        let Lab { core, tables, now_ns, .. } = &mut self.lab;
        core.poll(tables, *now_ns, &mut |_, _| released += 1);
        self.allocated += counting::count() - before;
        released
    }
}

#[test]
fn the_packet_path_allocates_nothing() {
    let mut bench = Bench::new();
    let (mut opened_ring, mut homes) = rtrb::RingBuffer::new(600);
    let known = sessions_of_another();
    let flows = |make: &dyn Fn(u16) -> Packet| -> Vec<Vec<u8>> {
        (0..FLOWS).map(|n| make(20_000 + n).bytes()).collect()
    };
    for round in 0..3u32 {
        bench.lab.pass(1_000);
        let isn = round * 1_000;
        // New sessions, established ones, and ones that are opened again after a reset.
        let syn = |port| Packet::tcp(at(CLIENT, port), at(VIP, WEB), SYN, isn, 0);
        let opened = bench.process(&flows(&syn));
        let replies: Vec<Vec<u8>> = opened
            .iter()
            .map(|sent| {
                let (local, backend) = verified_endpoints(sent.as_ref().expect("it was opened"));
                Packet::tcp(backend, local, SYN | ACK, 9, isn + 1).bytes()
            })
            .collect();
        assert!(bench.process(&replies).iter().all(Option::is_some));
        for flags in [ACK, RST] {
            let next = |port| Packet::tcp(at(CLIENT, port), at(VIP, WEB), flags, isn + 1, 10);
            assert!(bench.process(&flows(&next)).iter().all(Option::is_some));
        }
        bench.put_down(&mut opened_ring);
        // Those of another director: they wait, are asked about, and go on with what is told.
        let moved = |port| Packet::tcp(at(CLIENT, port + 10_000), at(VIP, WEB), ACK, 1, 1);
        if round == 0 {
            bench.process(&flows(&moved));
            assert_eq!(bench.ask(), usize::from(FLOWS));
            assert_eq!(bench.tell_all(&known), usize::from(FLOWS));
        }
        assert!(bench.process(&flows(&moved)).iter().all(Option::is_some));
        // Unknown ones: they wait, are asked about, and are reset when they are denied again, or dropped for their
        // time.
        let denied = |port| Packet::tcp(at(CLIENT, port + 30_000), at(VIP, WEB), ACK, 1, 1);
        for _ in 0..2 {
            bench.process(&flows(&denied));
            assert_eq!(bench.ask(), usize::from(FLOWS));
            assert_eq!(bench.deny_all(), usize::from(FLOWS));
            bench.lab.pass(200);
        }
        assert!(bench.lab.counters().count(Count::AnsweredReset) > 0);
        let unknown = |port| Packet::tcp(at(CLIENT, port), at(VIP, QUIET), ACK, 1, 1);
        bench.process(&flows(&unknown));
        assert_eq!(bench.ask(), usize::from(FLOWS));
        assert_eq!(bench.deny_all(), usize::from(FLOWS));
        bench.lab.pass(200);
        bench.process(&flows(&unknown));
        bench.lab.pass(25);
        assert_eq!(bench.poll(), usize::from(FLOWS));
        // Refused ones, and noise.
        let nowhere = |port| Packet::tcp(at(CLIENT, port), at(VIP, 9), SYN, 1, 0);
        assert!(bench.process(&flows(&nowhere)).iter().all(Option::is_none));
        assert!(bench.process(&[vec![], vec![0; 60], vec![0xff; 200]]).iter().all(Option::is_none));
    }
    // What does not fit a session waits, is asked about, and goes on, or makes its backend be asked; a SYN-ACK makes
    // it another one.
    let of_known =
        |port, ack| Packet::tcp(at(CLIENT, port + 10_000), at(VIP, WEB), ACK, 1 << 30, ack);
    let far = |port| of_known(port, 1);
    let refuted = |port| of_known(port, 1 << 30).payload(b"data");
    let of_another: Vec<Vec<u8>> = known
        .iter()
        .filter(|record| record.key.src_port < 40_000)
        .map(|record| {
            let v4 = |address| match address {
                std::net::SocketAddr::V4(address) => address,
                other => panic!("{other} is not IPv4"),
            };
            let (from, to) = (v4(record.reply.source()), v4(record.reply.destination()));
            Packet::tcp(from, to, SYN | ACK, 9, 1 << 20).bytes()
        })
        .collect();
    for packets in [flows(&refuted), flows(&far), of_another] {
        bench.lab.pass(1_000);
        assert!(bench.process(&packets).iter().all(Option::is_none));
        assert_eq!(bench.ask(), usize::from(FLOWS));
        assert_eq!(bench.deny_all(), usize::from(FLOWS));
    }
    assert_eq!(bench.lab.counters().count(Count::AnsweredProbe), u64::from(FLOWS));
    bench.put_down(&mut opened_ring);
    // A twin takes the place of each of these, when the client shows that it is meant.
    let twin = |port| Packet::tcp(at(CLIENT, port + 20_000), at(VIP, WEB), SYN, 100, 0);
    let opened = bench.process(&flows(&twin));
    bench.put_down(&mut opened_ring);
    let replies: Vec<Vec<u8>> = opened
        .iter()
        .map(|sent| {
            let (local, backend) = verified_endpoints(sent.as_ref().expect("it was opened"));
            Packet::tcp(backend, local, SYN | ACK, 9, 101).bytes()
        })
        .collect();
    bench.process(&replies);
    bench.put_down(&mut opened_ring);
    // Half of them are told before, half only when that is asked.
    known.iter().skip(known.len() / 2).for_each(|first| bench.lab.table.twin(first));
    let acked = |port| Packet::tcp(at(CLIENT, port + 20_000), at(VIP, WEB), ACK, 101, 1 << 30);
    let half = usize::from(FLOWS / 2);
    assert_eq!(bench.process(&flows(&acked)).iter().flatten().count(), half);
    assert_eq!(bench.ask(), half);
    assert_eq!(bench.tell_all(&known), half);
    assert_eq!(bench.lab.table.stats().twins_adopted, u64::from(FLOWS));
    assert_eq!(bench.reset_half_open(), usize::from(FLOWS));
    let mut told = 0;
    while homes.pop().is_ok() {
        told += 1;
    }
    assert_eq!(told, 600, "as many as the ring holds");
    let lost = bench.lab.counters().count(Count::RegistrationsDropped);
    // Three times with a whole handshake, and twice without its end.
    assert_eq!(lost, u64::from(FLOWS) * (3 * 3 + 2 * 2) - 600);
    assert_eq!(bench.lab.table.stats().opened, u64::from(FLOWS) * 5);
    assert_eq!(bench.allocated, 0);
    assert!(counting::count() > 0, "the allocator counts");
}

#[test]
fn telling_the_ends_of_expired_sessions_allocates_nothing() {
    let mut bench = Bench::new();
    let client = |n: usize| at(CLIENT, 20_000 + n as u16);
    let vip = at(VIP, WEB);
    let mut ends = Vec::new();
    for n in 0..usize::from(FLOWS) {
        let syn = Packet::tcp(client(n), vip, SYN, 1, 0).bytes();
        let sent = bench.process(&[syn]).remove(0).expect("it is opened");
        let (local, backend) = verified_endpoints(&sent);
        bench.process(&[Packet::tcp(backend, local, SYN | ACK, 9, 2).bytes()]);
        bench.process(&[Packet::tcp(client(n), vip, ACK, 2, 10).bytes()]);
        ends.push((local, backend));
    }
    let mut sweeper = Sweeper::new(&bench.lab.table);
    let policy = SweepPolicy::CALM;
    let mut probed = 0;
    for wait_ms in [900_000, 2_000] {
        bench.lab.pass(wait_ms);
        let Lab { core, table, tables, now_ns, .. } = &mut bench.lab;
        sweeper.step(table, tables, *now_ns / MS, &policy, 10_000, &mut Vec::new());
        for probe in sweeper.take_probes() {
            let before = counting::count();
            core.probe(tables, *now_ns, &probe, &mut |_, _| probed += 1);
            bench.allocated += counting::count() - before;
        }
    }
    assert_eq!(probed, 2 * FLOWS);
    let answers = ends.iter().enumerate().flat_map(|(n, (local, backend))| {
        let from_client = Packet::tcp(client(n), vip, ACK, 2, 10);
        [from_client.bytes(), Packet::tcp(*backend, *local, ACK, 10, 2).bytes()]
    });
    let answers: Vec<_> = answers.collect();
    bench.process(&answers);
    // The first of each connection waited for the second.
    bench.process(&answers);
    let reset = |count| bench.lab.counters().count(count);
    let told = (reset(Count::ExpiredClientsReset), reset(Count::ExpiredBackendsReset));
    assert_eq!(told, (u64::from(FLOWS), 2 * u64::from(FLOWS)));
    assert_eq!(bench.allocated, 0);
}
