//! The end of open connections that were idle for their whole timeout: who is told what, and when.

use holdfast_schema::bucket::ShardId;
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::{Known, SessionFlags, SessionSink};

use super::super::{Probe, SweepPolicy};
use super::sweeping::{ALONE, Bench, CALM, FLUSH, OTHER_GONE};
use super::*;

/// The idle timeout of the sessions here, and a moment at which it is over.
const IDLE: u64 = 900_000;
const END: u64 = IDLE + 10_000;

impl Bench {
    /// A pass; which ends it wants probed.
    fn probes(&mut self, now_ms: u64, policy: SweepPolicy<'_>) -> Vec<Probe> {
        assert_eq!(self.pass(now_ms, policy), [], "the store has nothing to learn");
        self.sweeper.take_probes().collect()
    }

    /// A replicated session of this director, never used, that the store expires at `END`.
    fn expired(&mut self, n: u32) -> Slot {
        let slot = self.replicated(n);
        self.expire(slot, END);
        slot
    }

    fn expire(&self, slot: Slot, now_ms: u64) {
        let session = self.table.session(slot);
        let (key, incarnation) = (session.key(), session.incarnation());
        self.table.tick(now_ms);
        self.table.expired(&key, &incarnation);
    }
}

#[test]
fn its_ends_are_probed_after_a_while_for_vetoes_and_given_up_after_three_seconds() {
    let mut bench = Bench::new();
    bench.expired(1);
    let table = bench.table.clone();
    for now in [END, END + 1_999] {
        assert_eq!(bench.probes(now, FLUSH), []);
        let stats = table.stats();
        assert_eq!((stats.sessions, stats.expired, stats.unreplicated), (1, 1, 0));
        assert_eq!((stats.pass.expiring, stats.pass.established, stats.pass.owned_open), (1, 0, 0));
    }
    for probe in 0..3 {
        let now = END + 2_000 + probe * 1_000;
        let probes = bench.probes(now, CALM);
        assert_eq!(probes.len(), 1);
        assert!(probes[0].client && probes[0].backend);
        assert!(table.probed(&probes[0]).is_some());
        assert_eq!(bench.probes(now + 999, CALM), []);
    }
    assert_eq!(table.stats().sessions, 1);
    assert_eq!(bench.probes(END + 5_000, CALM), []);
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.ends_given_up, stats.ends_unprobed), (0, 2, 0));
    bench.worker.quiescent();
    assert_eq!(table.reclaim(8), 1);
}

#[test]
fn what_is_told_is_not_probed_again() {
    let mut bench = Bench::new();
    let slot = bench.expired(1);
    let table = bench.table.clone();
    let first = bench.probes(END + 2_000, CALM);
    table.session(slot).note_reset(Side::Backend);
    let again = bench.probes(END + 3_000, CALM);
    assert_eq!((again[0].client, again[0].backend), (true, false));
    table.session(slot).note_reset(Side::Client);
    assert_eq!(bench.probes(END + 4_000, CALM), []);
    assert_eq!((table.sessions(), table.stats().ends_given_up), (0, 0));
    assert!(table.probed(&first[0]).is_none(), "a probe that comes late finds nothing");
}

#[test]
fn the_owner_probes_or_whoever_leads_when_it_has_departed() {
    let mut bench = Bench::new();
    bench.pass(1_000, CALM);
    bench.table.created(&record(1, 1, 1_000, established()));
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.expire(slot, END);
    let shard = bench.forwarding.shard(Bucket::of_local_port(reply(1).dst_port));
    let (mine, others) = ([shard], [ShardId(shard.0 + 1)]);
    let leads = |leads| SweepPolicy { leads, ..CALM };
    let heir = |leads| SweepPolicy { leads, ..OTHER_GONE };
    assert_eq!(bench.probes(END + 2_000, leads(&mine)), [], "the owner does");
    assert_eq!(bench.probes(END + 3_000, heir(&others)), [], "the leader does");
    // The owner dies in between; so might the leader.
    assert_eq!(bench.probes(END + 4_000, heir(&mine)).len(), 1);
    assert_eq!(bench.table.stats().expired, 1);
}

/// It comes back without a record of what expired meanwhile.
#[test]
fn an_owner_that_was_gone_meanwhile_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.pass(1_000, CALM);
    bench.table.created(&record(1, 1, 1_000, established()));
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.expire(slot, END);
    let shard = [bench.forwarding.shard(Bucket::of_local_port(reply(1).dst_port))];
    let leads = SweepPolicy { leads: &shard, ..CALM };
    assert_eq!(bench.probes(END + 1_000, OTHER_GONE), []);
    assert_eq!(bench.probes(END + 2_000, CALM), [], "the leader does");
    assert_eq!(bench.probes(END + 3_000, leads).len(), 1);
    // At its next end it may be there.
    bench.table.session(slot).revive();
    bench.table.created(&record(1, 1, 1_000, established()));
    bench.expire(slot, END + 2 * IDLE);
    assert_eq!(bench.probes(END + 2 * IDLE + 2_000, leads), []);
}

/// It was not missed, so nobody took it for gone; but what expired while it was away it does not know.
#[test]
fn who_leads_probes_if_an_owner_that_has_started_again_may_not_know_it() {
    // (The cluster says that all live their first life.)
    for (life, probed) in [(0, true), (1, false), (2, true)] {
        let mut bench = Bench::new();
        bench.pass(1_000, CALM);
        let mut said = record(1, 1, 1_000, established());
        said.incarnation.counter = life << 32 | 7;
        bench.table.created(&said);
        let (slot, _) = found(&bench.table, &key(1)).unwrap();
        bench.expire(slot, END);
        let shard = bench.forwarding.shard(Bucket::of_local_port(reply(1).dst_port));
        let (mine, others) = ([shard], [ShardId(shard.0 + 1)]);
        let leads = |leads| SweepPolicy { leads, ..CALM };
        for now in [END + 2_000, END + 3_000, END + 3_999] {
            assert_eq!(bench.probes(now, leads(&mine)), [], "the owner's turn");
        }
        assert_eq!(bench.probes(END + 4_000, leads(&others)), [], "the leader does");
        for now in [END + 5_000, END + 6_000, END + 7_000] {
            let probes = bench.probes(now, leads(&mine));
            assert_eq!(probes.len(), usize::from(probed), "{life}");
        }
        assert_eq!(bench.probes(END + 8_000, leads(&mine)), []);
        let stats = bench.table.stats();
        let given_up = if probed { (0, 2) } else { (1, 0) };
        assert_eq!((stats.sessions, stats.ends_given_up), given_up);
    }
    // What somebody else took over from the one who made it, he may have taken over in an earlier life.
    let mut bench = Bench::new();
    bench.pass(1_000, CALM);
    let mut said = record(1, 1, 1_000, established());
    said.incarnation.creator = DirectorId(3);
    said.incarnation.counter = 1 << 32;
    bench.table.created(&said);
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.expire(slot, END);
    let shard = [bench.forwarding.shard(Bucket::of_local_port(reply(1).dst_port))];
    let leads = SweepPolicy { leads: &shard, ..CALM };
    assert_eq!(bench.probes(END + 4_000, leads).len(), 1);
    // What came of it is the owner's to count, who most likely has told the ends.
    for now in [END + 5_000, END + 6_000, END + 7_000] {
        bench.probes(now, leads);
    }
    let stats = bench.table.stats();
    assert_eq!((stats.sessions, stats.ends_given_up, stats.ends_unprobed), (0, 0, 0));
}

#[test]
fn who_asks_is_told_that_it_is_expiring_when_others_could_have_spoken() {
    let mut bench = Bench::new();
    let slot = bench.expired(1);
    let told = |bench: &Bench, now_ms| {
        bench.table.tick(now_ms);
        bench.table.find(&key(1))
    };
    for now in [END, END + 999] {
        assert_eq!(told(&bench, now), Known::Unsure);
    }
    let said = told(&bench, END + 1_000).session().unwrap();
    assert_eq!(bench.table.find(&reply(1)).session(), Some(said.clone()));
    let known = bench.table.session(slot).describe(END + 1_000);
    assert_eq!((said.client.seq, said.flags), (known.client.seq, known.flags));
    // Idle beyond any timeout.
    assert_eq!(said.idle_ms(), u32::MAX);

    // There it is what it is here, and judged at once.
    let (other, worker) = table(256);
    let mut asker = Bench { table: other, worker, ..Bench::new() };
    asker.sweeper = super::super::Sweeper::new(&asker.table);
    asker.pass(1_000, CALM);
    assert!(asker.table.learn(&said, END + 1_000));
    let (slot, _) = found(&asker.table, &reply(1)).unwrap();
    let table = asker.table.clone();
    let session = table.session(slot);
    assert_eq!(session.standing(), (established(), true));
    assert!(session.may_be_answered(END + 1_000));
    assert_eq!(session.numbers(Side::Client), Some((said.client.seq, said.client.ack)));
    assert_eq!((table.unreplicated(), table.stats().expired), (0, 1));
    // It is the owner's, who had forgotten it.
    assert_eq!(asker.probes(END + 1_999, CALM), []);
    assert_eq!(asker.probes(END + 2_000, CALM).len(), 1);
    // A sign of life brings it back, with ages that can be.
    session.revive();
    session.touch(Side::Client, END + 2_100, 9, 9);
    let said = asker.creates(END + 2_100, FLUSH);
    assert_eq!((said[0].client.age_ms, said[0].backend_seen.age_ms), (0, IDLE as u32 + 1_100));
}

#[test]
fn an_expiring_session_changes_nothing_where_it_is_known_and_takes_no_scarce_room() {
    let mut bench = Bench::new();
    bench.expired(1);
    bench.table.tick(END + 1_000);
    let said = bench.table.find(&key(1)).session().unwrap();
    // Who has it, goes by what its own store says.
    let (other, _worker) = table(256);
    other.tick(END);
    other.created(&SessionRecord { client: HalfSeen { age_ms: 5, ..said.client }, ..said.clone() });
    other.tick(END + 1_000);
    assert!(other.learn(&said, END + 1_000));
    let known = other.find(&key(1)).session().unwrap();
    assert_eq!((known.client.age_ms, other.stats().expired), (1_005, 0));
    let (crowded, _worker) = table(8);
    for n in 2..9 {
        crowded.open(new_session(n, n, established()), END).unwrap();
    }
    assert!(!crowded.learn(&said, END + 1_000));
    assert_eq!(crowded.sessions(), 7);
    // One that closes meanwhile is neither open nor over yet.
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.table.session(slot).set_flags(SessionFlags::RESET);
    assert_eq!(bench.table.find(&key(1)), Known::Unsure);
}

#[test]
fn those_that_others_probe_do_not_stay_for_ever() {
    let mut bench = Bench::new();
    bench.pass(1_000, CALM);
    bench.table.created(&record(1, 1, 1_000, established()));
    let (slot, _) = found(&bench.table, &key(1)).unwrap();
    bench.expire(slot, END);
    assert_eq!(bench.probes(END + 34_000, CALM), []);
    assert_eq!(bench.table.sessions(), 1, "the owner may have many");
    assert_eq!(bench.probes(END + 35_000, CALM), []);
    let stats = bench.table.stats();
    assert_eq!((stats.sessions, stats.ends_unprobed, stats.ends_given_up), (0, 0, 0));
}

/// Another director forwarded it while it was cut off.
#[test]
fn the_veto_of_another_brings_it_back() {
    let mut bench = Bench::new();
    let slot = bench.expired(1);
    let table = bench.table.clone();
    let session = table.session(slot);
    assert_eq!(bench.probes(END + 2_000, CALM).len(), 1);
    assert!(!session.shows_rest(Side::Backend, END + 2_100));
    session.note_reset(Side::Client);
    let mut veto = session.describe(END + 2_500);
    veto.client = HalfSeen { age_ms: 100, seq: 9, ack: 9 };
    table.created(&veto);
    assert!(session.replicated());
    assert_eq!(bench.probes(END + 3_000, CALM), []);
    assert_eq!((table.stats().pass.expiring, table.stats().pass.established), (0, 1));
    // Its next end begins anew.
    let end = END + 2 * IDLE;
    bench.expire(slot, end);
    assert_eq!(bench.probes(end + 1_999, CALM), []);
    let again = bench.probes(end + 2_000, CALM);
    assert!(again[0].client && again[0].backend);
    assert!(!session.shows_rest(Side::Client, end + 2_100), "what the backend showed is forgotten");
}

#[test]
fn an_end_at_rest_waits_for_the_other_or_for_its_own_second_answer() {
    for (side, other) in [(Side::Client, Side::Backend), (Side::Backend, Side::Client)] {
        let mut bench = Bench::new();
        let first = bench.expired(1);
        let second = bench.expired(2);
        let third = bench.expired(3);
        bench.probes(END + 2_000, CALM);
        let session = bench.table.session(first);
        let said = session.describe(END).flags;
        assert!(!session.shows_rest(side, END + 2_001));
        assert!(session.shows_rest(other, END + 2_002));
        session.note_reset(other);
        assert!(session.shows_rest(side, END + 3_001));
        assert_eq!(session.describe(END).flags, said);
        // Copies of an answer are none to a later probe, nor is one that another worker's clock puts
        // before it; Linux answers every half a second at the most.
        let session = bench.table.session(second);
        for now in [2_001, 2_001, 2_380, 1_900, 2_200] {
            assert!(!session.shows_rest(side, END + now), "{now}");
        }
        assert!(session.shows_rest(side, END + 2_500));
        // Without a quorum it may take any time.
        let session = bench.table.session(third);
        for late in [2_500_000, 4_194_000, 4_194_500, 5_000_000, 9_000_000, 90_000_000] {
            let mut again = [late, late + 1_000].map(|now| session.shows_rest(side, END + now));
            again[0] = false;
            assert_eq!(again, [false, true], "{late}");
        }
    }
}

#[test]
fn a_sign_of_life_brings_it_back() {
    let mut bench = Bench::new();
    let slot = bench.expired(1);
    let table = bench.table.clone();
    let session = table.session(slot);
    let probe = bench.probes(END + 2_000, CALM);
    session.revive();
    session.touch(Side::Client, END + 2_100, 9, 9);
    assert!(table.probed(&probe[0]).is_none());
    assert_eq!((table.stats().vetoed, table.unreplicated()), (1, 1));
    let said = bench.creates(END + 2_200, CALM);
    assert_eq!((said.len(), said[0].client.age_ms), (1, 100));
    table.created(&said[0]);
    assert!(session.replicated());
}

#[test]
fn an_end_that_closes_makes_it_an_ordinary_closing() {
    let mut bench = Bench::new();
    let slot = bench.expired(1);
    let table = bench.table.clone();
    bench.probes(END + 2_000, CALM);
    table.session(slot).touch(Side::Client, END + 2_100, 9, 9);
    table.session(slot).set_flags(SessionFlags::RESET);
    for now in [END + 2_500, END + 3_000, END + 7_099] {
        assert_eq!(bench.probes(now, CALM), []);
        assert_eq!(table.sessions(), 1);
    }
    bench.probes(END + 7_100, CALM);
    assert_eq!(table.sessions(), 0);
}

#[test]
fn without_a_quorum_nobody_is_told() {
    let mut bench = Bench::new();
    bench.expired(1);
    let back = END + 500_000;
    for now in [END + 2_000, END + 40_000, back - 1] {
        assert_eq!(bench.probes(now, ALONE), []);
    }
    // Vetoes of that time come first.
    assert_eq!(bench.probes(back, CALM), []);
    assert_eq!(bench.probes(back + 1_999, CALM), []);
    assert_eq!(bench.probes(back + 2_000, CALM).len(), 1);
}

#[test]
fn sessions_that_only_this_director_has_end_by_its_own_clock() {
    let mut bench = Bench::new();
    let never = ReplicateAfter::Never;
    let private = NewSession { replicate_after: never, ..new_session(1, 1, established()) };
    bench.table.open(private, 0).unwrap();
    bench.open(2, established(), 0);
    assert_eq!(bench.probes(IDLE, ALONE), []);
    // The other one waits for a quorum: perhaps somebody carries it on.
    assert_eq!(bench.table.stats().expired, 1);
    assert_eq!(bench.probes(IDLE + 2_000, ALONE).len(), 1);
    assert_eq!(bench.table.find(&key(1)), Known::Unsure);
}

#[test]
fn what_is_not_an_open_connection_ends_in_silence() {
    let (table, _handle) = table(64);
    let mut datagrams = record(3, 3, 1_000, established());
    datagrams.key.protocol = Protocol::Udp;
    datagrams.reply.protocol = Protocol::Udp;
    let closed = established().with(SessionFlags::RESET);
    let all = [record(1, 1, 1_000, OPENED), record(2, 2, 1_000, closed), datagrams];
    for said in &all {
        table.created(said);
        table.expired(&said.key, &said.incarnation);
    }
    assert_eq!((table.sessions(), table.stats().expired), (0, 0));
}

#[test]
fn a_wave_is_spread_and_gives_way_to_new_sessions() {
    let (table, worker) = table(10_000);
    let mut bench = Bench { table, worker, ..Bench::new() };
    bench.sweeper = super::super::Sweeper::new(&bench.table);
    for n in 0..9_000 {
        bench.table.tick(1_000);
        bench.table.created(&SessionRecord { owner: ME, ..record(n, n, 1_000, established()) });
    }
    let policy = CALM;
    let mut out = Vec::new();
    bench.sweeper.step(&bench.table, &bench.forwarding, END, &policy, 20_000, &mut out);
    for n in 0..9_000 {
        bench.table.expired(&key(n), &record(n, n, 1_000, established()).incarnation);
    }
    // A table with little room keeps nobody who could go.
    let stats = bench.table.stats();
    assert_eq!((stats.sessions, stats.expired, stats.ends_unprobed), (8_749, 8_749, 502));
    let (mut probed, mut most) = (0, 0);
    for step in 0..100 {
        let now = END + 2_000 + step * 10;
        bench.sweeper.step(&bench.table, &bench.forwarding, now, &policy, 20_000, &mut out);
        let ends: usize = bench
            .sweeper
            .take_probes()
            .map(|p| usize::from(p.client) + usize::from(p.backend))
            .sum();
        most = most.max(if step == 0 { 0 } else { ends });
        probed += ends;
    }
    assert!(most <= 100, "{most} in 10 ms");
    assert!((10_000..=11_000).contains(&probed), "{probed} in a second");
    assert_eq!(out, []);
}
