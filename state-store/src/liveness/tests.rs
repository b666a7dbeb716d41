//! A cluster of cores in one thread: every 100 ms of simulated time each awake one sends a heartbeat
//! to each other one, through a network that drops what the test says.

use proptest::prelude::*;

use super::*;

const BEAT_MS: u64 = 100;

struct Cluster {
    now_ms: u64,
    sequence: u64,
    cores: Vec<Liveness>,
    incarnations: Vec<u64>,
    committed: Vec<Committed>,
    frozen: Vec<bool>,
}

fn id(index: usize) -> DirectorId {
    DirectorId(index as u32 + 1)
}

impl Cluster {
    fn new(count: usize) -> Cluster {
        let committed: Vec<Committed> = (0..count)
            .map(|i| Committed { director: id(i), incarnation: 1, down: false })
            .collect();
        let cores = (0..count)
            .map(|i| {
                let mut core = Liveness::new(id(i), Timing::default(), 0);
                core.set_members(0, committed.iter().copied());
                core
            })
            .collect();
        let (frozen, incarnations) = (vec![false; count], vec![1; count]);
        Cluster { now_ms: 0, sequence: 0, cores, incarnations, committed, frozen }
    }

    /// One beat of everybody; `passes(from, to)` says what arrives.
    fn beat(&mut self, passes: &dyn Fn(usize, usize) -> bool) {
        self.now_ms += BEAT_MS;
        self.sequence += 1;
        for from in (0..self.cores.len()).filter(|&i| !self.frozen[i]).collect::<Vec<_>>() {
            self.cores[from].advance(self.now_ms);
            let views = self.cores[from].views(self.now_ms);
            for to in (0..self.cores.len()).filter(|&to| to != from) {
                if !self.frozen[to] && passes(from, to) {
                    let incarnation = self.incarnations[from];
                    let sender = id(from);
                    self.cores[to].heard(self.now_ms, sender, incarnation, self.sequence, &views);
                }
            }
        }
    }

    /// Beats for this long; returns what `leader` judged, with the time, and commits it if told to.
    fn run(
        &mut self,
        for_ms: u64,
        leader: usize,
        commit: bool,
        passes: &dyn Fn(usize, usize) -> bool,
    ) -> Vec<(u64, Judgement)> {
        let (start, mut said) = (self.now_ms, Vec::new());
        while self.now_ms < start + for_ms {
            self.beat(passes);
            if self.frozen[leader] {
                continue;
            }
            for judgement in self.cores[leader].judge(self.now_ms) {
                said.push((self.now_ms - start, judgement));
                if commit {
                    self.commit(&judgement);
                }
            }
        }
        said
    }

    fn commit(&mut self, judgement: &Judgement) {
        for member in self.committed.iter_mut().filter(|m| m.director == judgement.director) {
            member.down = judgement.verdict == Verdict::Down;
        }
        for (core, _) in self.cores.iter_mut().zip(&self.frozen).filter(|(_, frozen)| !**frozen) {
            core.set_members(self.now_ms, self.committed.iter().copied());
        }
    }
}

fn verdicts(said: &[(u64, Judgement)]) -> Vec<(u32, Verdict)> {
    said.iter().map(|(_, j)| (j.director.0, j.verdict)).collect()
}

const ALL: &dyn Fn(usize, usize) -> bool = &|_, _| true;

#[test]
fn nobody_is_judged_while_all_is_well() {
    let mut cluster = Cluster::new(5);
    assert_eq!(cluster.run(10_000, 0, true, ALL), []);
}

#[test]
fn a_silent_member_is_down_after_a_second_and_up_when_it_is_back() {
    let mut cluster = Cluster::new(3);
    cluster.run(2_000, 0, true, ALL);
    cluster.frozen[2] = true;
    let said = cluster.run(2_000, 0, true, ALL);
    assert_eq!(verdicts(&said), [(3, Verdict::Down)]);
    assert!((1_000..=1_200).contains(&said[0].0), "{said:?}");
    cluster.frozen[2] = false;
    let said = cluster.run(2_000, 0, true, ALL);
    assert_eq!(verdicts(&said), [(3, Verdict::Up)]);
    assert!(said[0].0 <= 300, "{said:?}");
}

#[test]
fn one_way_silence_declares_nobody_dead() {
    let mut cluster = Cluster::new(3);
    cluster.run(2_000, 0, true, ALL);
    // The leader does not hear the third; the second hears both.
    assert_eq!(cluster.run(10_000, 0, true, &|from, to| (from, to) != (2, 0)), []);
    // Nobody hears the third although it hears all: that is dead enough.
    let said = cluster.run(2_000, 0, true, &|from, _| from != 2);
    assert_eq!(verdicts(&said), [(3, Verdict::Down)]);
    // Only one of two hears it again: no majority.
    assert_eq!(cluster.run(3_000, 0, true, &|from, to| (from, to) != (2, 0)), []);
    assert_eq!(verdicts(&cluster.run(3_000, 0, true, ALL)), [(3, Verdict::Up)]);
}

#[test]
fn an_observer_that_slept_accuses_nobody() {
    for sleeper in [0, 1] {
        let mut cluster = Cluster::new(3);
        cluster.run(2_000, 0, false, ALL);
        cluster.frozen[sleeper] = true;
        cluster.run(10_000, 0, false, ALL);
        cluster.frozen[sleeper] = false;
        // The first judgement right after the thaw, before any heartbeat came.
        let now_ms = cluster.now_ms + 50;
        let said = cluster.cores[sleeper].judge(now_ms);
        assert_eq!(said, [], "sleeper {sleeper}");
        cluster.now_ms = now_ms;
        let said = cluster.run(3_000, sleeper, false, ALL);
        assert_eq!(said, [], "sleeper {sleeper}");
    }
}

#[test]
fn who_died_while_we_slept_is_down_a_second_after_we_woke() {
    let mut cluster = Cluster::new(2);
    cluster.run(2_000, 0, true, ALL);
    cluster.frozen = vec![true, true];
    cluster.run(5_000, 0, true, ALL);
    cluster.frozen[0] = false;
    let said = cluster.run(3_000, 0, true, ALL);
    assert_eq!(verdicts(&said), [(2, Verdict::Down)]);
    assert!((500..=1_300).contains(&said[0].0), "{said:?}");
}

#[test]
fn who_was_down_before_we_slept_does_not_look_alive_after() {
    let mut cluster = Cluster::new(2);
    cluster.run(1_000, 0, true, ALL);
    cluster.frozen[1] = true;
    assert_eq!(verdicts(&cluster.run(3_000, 0, true, ALL)), [(2, Verdict::Down)]);
    cluster.frozen[0] = true;
    cluster.run(5_000, 0, true, ALL);
    cluster.frozen[0] = false;
    assert_eq!(cluster.run(5_000, 0, true, ALL), []);
}

#[test]
fn two_of_three_die_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.run(2_000, 0, true, ALL);
    cluster.frozen = vec![false, true, true];
    let mut said = verdicts(&cluster.run(3_000, 0, true, ALL));
    said.sort_by_key(|(director, _)| *director);
    assert_eq!(said, [(2, Verdict::Down), (3, Verdict::Down)]);
}

#[test]
fn of_two_the_other_one_decides() {
    let mut cluster = Cluster::new(2);
    cluster.run(2_000, 0, true, ALL);
    let said = cluster.run(3_000, 0, true, &|from, to| (from, to) != (1, 0));
    assert_eq!(verdicts(&said), [(2, Verdict::Down)]);
    assert_eq!(verdicts(&cluster.run(2_000, 0, true, ALL)), [(2, Verdict::Up)]);
}

#[test]
fn a_leader_that_was_declared_down_rises_by_the_word_of_others() {
    let mut cluster = Cluster::new(3);
    cluster.run(1_000, 0, true, ALL);
    cluster.committed[0].down = true;
    let committed = cluster.committed.clone();
    cluster.cores[0].set_members(cluster.now_ms, committed.iter().copied());
    assert_eq!(verdicts(&cluster.run(1_000, 0, true, ALL)), [(1, Verdict::Up)]);
    // Alone there is nobody to ask.
    let mut alone = Cluster::new(1);
    alone.committed[0].down = true;
    let committed = alone.committed.clone();
    alone.cores[0].set_members(0, committed.iter().copied());
    assert_eq!(verdicts(&alone.run(1_000, 0, true, ALL)), [(1, Verdict::Up)]);
}

#[test]
fn a_member_never_heard_gets_time_for_its_first_contact() {
    let mut cluster = Cluster::new(3);
    cluster.frozen[2] = true;
    let said = cluster.run(4_000, 0, true, ALL);
    assert_eq!(verdicts(&said), [(3, Verdict::Down)]);
    assert!((3_000..=3_200).contains(&said[0].0), "{said:?}");
}

#[test]
fn heartbeats_of_an_earlier_life_prove_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.run(1_000, 0, true, ALL);
    // The third has begun its second life (committed), but only the first is heard.
    cluster.committed[2].incarnation = 2;
    cluster.committed[2].down = true;
    let committed = cluster.committed.clone();
    for core in &mut cluster.cores {
        core.set_members(cluster.now_ms, committed.iter().copied());
    }
    assert_eq!(cluster.run(2_000, 0, true, ALL), []);
    cluster.incarnations[2] = 2;
    let said = cluster.run(1_000, 0, true, ALL);
    assert_eq!(verdicts(&said), [(3, Verdict::Up)]);
    assert_eq!(said[0].1.incarnation, 2);
    // A late heartbeat of the first life does not take that back.
    let now_ms = cluster.now_ms;
    cluster.cores[0].heard(now_ms, id(2), 1, 1 << 40, &[]);
    assert_eq!(cluster.cores[0].last_heard(now_ms, id(2)), Some((0, 2)));
}

#[test]
fn an_uncommitted_judgement_is_repeated_but_not_every_time() {
    let mut cluster = Cluster::new(2);
    cluster.run(1_000, 0, false, ALL);
    cluster.frozen[1] = true;
    let said = cluster.run(3_000, 0, false, ALL);
    assert!((3..=5).contains(&said.len()), "{said:?}");
}

#[test]
fn strangers_are_not_heard() {
    let mut core = Liveness::new(id(0), Timing::default(), 0);
    assert!(!core.heard(10, id(1), 1, 1, &[]));
    assert_eq!(core.last_heard(10, id(1)), None);
}

#[test]
fn an_older_heartbeat_does_not_replace_what_a_newer_one_said() {
    let mut core = Liveness::new(id(0), Timing::default(), 0);
    let committed = |i| Committed { director: id(i), incarnation: 1, down: false };
    core.set_members(0, (0..3).map(committed));
    let view = |seen| [View { subject: id(2), incarnation: 1, seen }];
    core.heard(100, id(1), 1, 2, &view(Seen::Missed));
    core.heard(110, id(1), 1, 1, &view(Seen::Heard(0)));
    let subject = &core.members[&id(2)];
    assert_eq!(core.seen(110, id(1), id(2), subject), Seen::Missed);
    core.reconnected(id(1));
    core.heard(120, id(1), 1, 1, &view(Seen::Heard(0)));
    let subject = &core.members[&id(2)];
    assert_eq!(core.seen(130, id(1), id(2), subject), Seen::Heard(10));
}

proptest! {
    /// Whoever sleeps, for however long: those who are awake and heard by all are never accused.
    #[test]
    fn sleepers_never_accuse_the_living(
        count in 2usize..6,
        naps in proptest::collection::vec((0usize..6, 1u64..40, 1u64..40), 1..6),
    ) {
        let mut cluster = Cluster::new(count);
        cluster.run(2_000, 0, false, ALL);
        for (who, asleep, awake) in naps {
            let who = who % count;
            let judge = (who + 1) % count;
            cluster.frozen[who] = true;
            let said = cluster.run(asleep * BEAT_MS, judge, false, ALL);
            prop_assert!(said.iter().all(|(_, j)| j.director == id(who)), "{said:?}");
            cluster.frozen[who] = false;
            let said = cluster.run(awake * BEAT_MS, who, false, ALL);
            prop_assert!(said.is_empty(), "{said:?}");
        }
    }

    /// Whoever falls silent is down between 1.0 and 1.3 s later, if a majority of the others lives,
    /// whatever single link among the others is cut.
    #[test]
    fn the_silent_one_is_found_in_time(count in 3usize..6, silent in 1usize..6, cut in (0usize..6, 0usize..6)) {
        let silent = 1 + silent % (count - 1);
        let cut = (cut.0 % count, cut.1 % count);
        let mut cluster = Cluster::new(count);
        let passes = move |from: usize, to: usize| (from, to) != cut;
        let early = cluster.run(3_500, 0, true, &passes);
        // With three, a cut towards the leader leaves a tie, and a tie is no majority.
        prop_assert!(early.is_empty(), "{early:?}");
        cluster.frozen[silent] = true;
        let said = cluster.run(1_500, 0, true, &passes);
        let of_silent: Vec<_> = said.iter().filter(|(_, j)| j.director == id(silent)).collect();
        prop_assert_eq!(of_silent.len(), 1, "{:?}", said);
        prop_assert_eq!(of_silent[0].1.verdict, Verdict::Down);
        prop_assert!(of_silent[0].0 <= 1_300, "{said:?}");
    }
}
