use std::collections::HashMap;

use holdfast_schema::cluster::ControlCommand;
use holdfast_schema::flow::FlowKey;
use proptest::prelude::*;

use super::super::young::tests::record;
use super::*;
use crate::control::tests::Cluster;

const ME: DirectorId = DirectorId(1);

fn cluster(members: u8) -> ClusterState {
    Cluster::of(members).record.cluster
}

fn saying(cluster: &ClusterState, limit: usize) -> Saying {
    let mut saying = Saying::new(ME, 1, limit);
    saying.membership(0, cluster);
    saying
}

/// Tells everybody everything there is: nothing.
fn settle(saying: &mut Saying, now_ms: u64) {
    assert!(saying.wants_walk(now_ms));
    saying.begin_walk(now_ms);
    saying.end_walk();
    assert!(saying.tick(now_ms).iter().all(|(_, batch)| batch.told == Some(batch.number)));
}

fn homes_of(cluster: &ClusterState, record: &SessionRecord) -> Vec<DirectorId> {
    HomeTable::of(cluster).homes(record.bucket(&cluster.bucket_key), ME).collect()
}

#[test]
fn a_new_session_goes_to_its_two_homes_with_the_next_batch() {
    let cluster = cluster(5);
    let mut saying = saying(&cluster, 1_000);
    settle(&mut saying, 0);
    let one = record(1, 1, 1, 1);
    saying.opened(3, &one);
    let batches = saying.tick(3);
    let to: Vec<DirectorId> = batches.iter().map(|(home, _)| *home).collect();
    let mut homes = homes_of(&cluster, &one);
    homes.sort();
    assert_eq!(to, homes);
    for (_, batch) in &batches {
        assert_eq!(batch.records, std::slice::from_ref(&one));
        assert_eq!((batch.number, batch.told, batch.incarnation), (1, Some(0), 1));
        assert_eq!(batch.epoch, cluster.membership_epoch);
    }
    saying.opened(4, &record(2, 1, 2, 2));
    assert!(saying.tick(4).len() < 2 || homes_of(&cluster, &record(2, 1, 2, 2)) != homes);
    assert!(!saying.tick(5).is_empty() || saying.stats().queued == 0);
}

#[test]
fn everybody_hears_something_now_and_then() {
    let mut saying = saying(&cluster(3), 1_000);
    settle(&mut saying, 0);
    assert!(saying.tick(BEAT_MS - 1).is_empty());
    let beats = saying.tick(BEAT_MS);
    assert_eq!(beats.iter().map(|(home, _)| home.0).collect::<Vec<_>>(), [2, 3]);
    assert!(beats.iter().all(|(_, b)| b.records.is_empty() && b.told == Some(0)));
}

#[test]
fn a_telling_counts_when_its_last_record_has_left() {
    let cluster = cluster(2);
    let mut saying = saying(&cluster, 10_000);
    saying.begin_walk(0);
    assert_eq!(saying.room(), WALKED);
    for n in 0..600 {
        saying.tell(0, &record(n, 1, 1, 1));
    }
    let first = &saying.tick(0)[0].1;
    assert_eq!((first.records.len(), first.told), (BATCH, None), "the walk goes on");
    saying.end_walk();
    saying.opened(2, &record(700, 1, 1, 1));
    let second = &saying.tick(2)[0].1;
    assert_eq!((second.records.len(), second.told), (89, Some(0)));
    assert_eq!(saying.stats().tellings, 1);
}

#[test]
fn a_home_that_missed_something_and_no_other_is_told_everything() {
    let cluster = cluster(3);
    let mut saying = saying(&cluster, 1_000);
    settle(&mut saying, 0);
    let (b, c) = (DirectorId(2), DirectorId(3));
    saying.resync(10, b, 0);
    assert!(!saying.wants_walk(10), "an old complaint");
    saying.resync(10, b, 5);
    assert!(saying.wants_walk(10));
    saying.begin_walk(10);
    saying.tell(10, &record(1, 1, 1, 1));
    saying.resync(11, b, 5);
    assert!(saying.walking(), "it is being told already");
    saying.end_walk();
    let batches = saying.tick(BEAT_MS);
    let batch = |of| &batches.iter().find(|(home, _)| *home == of).unwrap().1;
    assert_eq!((batch(b).records.len(), batch(b).told), (1, Some(1)));
    assert_eq!((batch(c).records.len(), batch(c).told), (0, Some(0)));
}

#[test]
fn a_change_of_membership_makes_new_homes_and_the_old_ones_hear_for_a_while() {
    let mut clusters = Cluster::of(4);
    let four = clusters.record.cluster.clone();
    let mut saying = saying(&four, 1_000);
    settle(&mut saying, 0);
    saying.begin_walk(REPEAT_MS);
    for n in 5..=8 {
        clusters.issue(n);
        clusters.join(n).unwrap();
    }
    let eight = clusters.record.cluster.clone();
    saying.membership(REPEAT_MS, &eight);
    assert!(!saying.walking(), "the walk was for another epoch");
    assert!(saying.tick(REPEAT_MS).iter().all(|(_, b)| b.told.is_none()));
    let moved = (0..500).map(|n| record(n, 1, 1, 1));
    let moved = moved.filter(|r| homes_of(&four, r) != homes_of(&eight, r)).take(20);
    for (at, until) in [(REPEAT_MS + 10, true), (REPEAT_MS + BEFORE_MS, false)] {
        for one in moved.clone() {
            saying.opened(at, &one);
            let batches = saying.tick(at + 2);
            let told = |home: &DirectorId| {
                batches.iter().any(|(to, b)| to == home && b.records.contains(&one))
            };
            assert!(homes_of(&eight, &one).iter().all(told));
            let old = homes_of(&four, &one);
            let gone = old.iter().filter(|id| !homes_of(&eight, &one).contains(id));
            assert!(gone.clone().all(|home| told(home) == until), "at {at}");
            saying.queues.values_mut().for_each(|q| q.last_ms = None);
        }
    }
}

#[test]
fn an_overflow_is_counted_and_made_up_for_later() {
    let cluster = cluster(2);
    let mut saying = saying(&cluster, BATCH);
    settle(&mut saying, 0);
    for n in 0..(BATCH as u16 + 5) {
        saying.opened(1, &record(n, 1, 1, 1));
    }
    let stats = saying.stats();
    assert_eq!((stats.dropped, stats.queued, stats.limit), (5, BATCH as u64, BATCH as u64));
    assert_eq!(saying.tick(2)[0].1.told, None, "it must not deny");
    assert!(!saying.wants_walk(2), "not while it lasts");
    assert!(saying.wants_walk(1 + RECOVERY_MS));
    settle(&mut saying, 1 + RECOVERY_MS);
    // So is what was lost before it came here.
    saying.missed(2_000);
    assert!(!saying.wants_walk(2_000) && saying.wants_walk(2_000 + RECOVERY_MS));
}

#[test]
fn what_stays_young_is_repeated() {
    let mut saying = saying(&cluster(2), 1_000);
    settle(&mut saying, 0);
    assert!(!saying.wants_walk(REPEAT_MS - 1));
    assert!(saying.wants_walk(REPEAT_MS));
    saying.begin_walk(REPEAT_MS);
    saying.tell(REPEAT_MS, &record(1, 1, 1, 1));
    let batch = &saying.tick(REPEAT_MS)[0].1;
    assert_eq!((batch.records.len(), batch.told), (1, Some(0)), "it keeps its authority");
    saying.end_walk();
    assert!(!saying.wants_walk(REPEAT_MS + 1));
}

#[test]
fn a_home_that_is_back_hears_numbers_that_it_has_not_heard() {
    use crate::homes::{Confirmed, Heading};

    let mut clusters = Cluster::of(3);
    let mut saying = saying(&clusters.record.cluster, 1_000);
    let mut home = Confirmed::default();
    let b = DirectorId(2);
    let mut turn = |saying: &mut Saying, now: u64, listens: bool| {
        if saying.wants_walk(now) {
            saying.begin_walk(now);
            saying.end_walk();
        }
        for (_, said) in saying.tick(now).into_iter().filter(|(to, _)| listens && *to == b) {
            let Register { incarnation, epoch, number, told, .. } = said;
            if let Some(before) = home.batch(now, ME, &Heading { incarnation, epoch, number, told })
            {
                saying.resync(now, b, before);
            }
        }
        home.has_authority(now, saying.epoch, [(ME, 1)])
    };
    for now in (0..1_000).step_by(50) {
        turn(&mut saying, now, true);
    }
    assert!(turn(&mut saying, 1_000, true));
    // It is declared down and up again, by the same life, and the last words before were lost.
    turn(&mut saying, 1_050, false);
    clusters.down(b.0);
    saying.membership(1_100, &clusters.record.cluster);
    turn(&mut saying, 1_100, true);
    let incarnation = clusters.record.cluster.members[&b].incarnation;
    let up = ControlCommand::SetDown { director: b, incarnation, down: false };
    clusters.done(up);
    saying.membership(1_150, &clusters.record.cluster);
    assert!(!turn(&mut saying, 1_150, true));
    let sure = (1_200..1_400).step_by(50).any(|now| turn(&mut saying, now, true));
    assert!(sure, "it takes what it hears for stragglers");
}

#[test]
fn nobody_is_told_that_he_knows_everything_while_something_waits_for_him() {
    let mut saying = saying(&cluster(2), 2_000);
    settle(&mut saying, 0);
    for n in 0..(BATCH as u16 + 1) {
        saying.opened(1, &record(n, 1, 1, 1));
    }
    let first = &saying.tick(2)[0].1;
    assert_eq!((first.records.len(), first.told), (BATCH, None), "one waits");
    let second = &saying.tick(4)[0].1;
    assert_eq!((second.records.len(), second.told), (1, Some(0)));
}

#[test]
fn who_is_behind_with_his_new_sessions_has_not_told_everything() {
    let mut saying = saying(&cluster(3), 1_000);
    settle(&mut saying, 0);
    saying.set_behind(true);
    assert!(
        saying.tick(2).iter().all(|(_, b)| b.told.is_none()),
        "at once, not with the next beat"
    );
    assert!(saying.tick(4).is_empty());
    saying.set_behind(false);
    let batches = saying.tick(6);
    assert_eq!(batches.iter().map(|(_, b)| b.told).collect::<Vec<_>>(), [Some(0), Some(0)]);
}

#[test]
fn a_home_whose_way_is_crowded_hears_later_and_keeps_nobody_else_waiting() {
    let mut saying = saying(&cluster(3), 1_000);
    settle(&mut saying, 0);
    let (b, c) = (DirectorId(2), DirectorId(3));
    saying.begin_walk(REPEAT_MS);
    let now = REPEAT_MS + 1;
    saying.hold(now, |home| home == b);
    saying.opened(now, &record(1, 1, 1, 1));
    assert_eq!(saying.tick(now).iter().map(|(home, _)| *home).collect::<Vec<_>>(), [c]);
    assert!(saying.walking() && saying.room() == WALKED, "the walk goes on for C");
    saying.hold(now, |home| home == b);
    assert_eq!((saying.stats().queued, saying.stats().held), (1, 1), "B's waits");
    saying.end_walk();
    saying.hold(now + 2, |_| false);
    let batches = saying.tick(now + 2);
    let [(home, batch)] = &batches[..] else { panic!("{batches:?}") };
    assert_eq!(
        (*home, batch.records.len(), batch.told),
        (b, 1, None),
        "it may have missed the walk"
    );
    assert!(saying.wants_walk(now + RECOVERY_MS));
}

#[test]
fn new_sessions_leave_with_the_next_batch_while_all_are_repeated() {
    let mut saying = saying(&cluster(2), 16_384);
    settle(&mut saying, 0);
    saying.begin_walk(REPEAT_MS);
    let (mut now, mut said) = (REPEAT_MS, 0);
    while said < 2_000 {
        let until = (said + saying.room()).min(2_000);
        (said..until).for_each(|n| saying.tell(now, &record(n as u16, 1, 1, 1)));
        said = until;
        let one = record(5_000, 1, now, 1);
        saying.opened(now, &one);
        now += INTERVAL_MS;
        let batch = &saying.tick(now)[0].1;
        assert!(batch.records.contains(&one), "it waits behind what was said before");
        assert_eq!(batch.told, Some(0), "it keeps its authority");
    }
    saying.end_walk();
}

proptest! {
    /// Whatever happens, a home that a batch says was told everything since a number has been sent every
    /// session of its own that is open, within the batches from that number on.
    #[test]
    fn who_is_told_that_he_knows_everything_does(
        steps in proptest::collection::vec((0u8..9, 0u16..40, 1u64..30), 1..120),
    ) {
        let mut clusters = Cluster::of(4);
        let mut saying = saying(&clusters.record.cluster, 2 * BATCH);
        let mut open: Vec<SessionRecord> = Vec::new();
        // The last batch that each session was in.
        let mut heard: BTreeMap<DirectorId, HashMap<(FlowKey, u64), u64>> = BTreeMap::new();
        let mut cursor: Option<usize> = None;
        let mut now = 0;
        for (step, n, later) in steps {
            now += later;
            let ports = match step {
                0 | 1 => n..n + 1,
                // More than a batch can take.
                8 if n < 8 => 100..700,
                _ => 0..0,
            };
            for port in ports {
                let one = record(port, 1, now, now as u32);
                open.retain(|r| r.key != one.key);
                // What a walk has not met yet may have moved: it begins anew.
                cursor = cursor.map(|_| 0);
                open.push(one.clone());
                saying.opened(now, &one);
            }
            match step {
                2 => saying.resync(now, DirectorId(2 + u32::from(n) % 3), u64::from(n)),
                3 if n < 4 => clusters.down(2 + u32::from(n) % 3),
                4 => saying.missed(now),
                _ => {}
            }
            saying.membership(now, &clusters.record.cluster);
            if saying.wants_walk(now) {
                saying.begin_walk(now);
                cursor = Some(0);
            }
            if saying.walking() && let Some(at) = &mut cursor {
                let most = saying.room().min(150);
                for one in open.iter().skip(*at).take(most) {
                    saying.tell(now, one);
                }
                *at += most;
                if *at >= open.len() {
                    saying.end_walk();
                    cursor = None;
                }
            }
            for (home, batch) in saying.tick(now) {
                let said = heard.entry(home).or_default();
                for one in &batch.records {
                    said.insert((one.key, one.incarnation.stamp), batch.number);
                }
                let Some(since) = batch.told else { continue };
                let cluster = &clusters.record.cluster;
                for one in &open {
                    let is_home = homes_of(cluster, one).contains(&home);
                    let last = said.get(&(one.key, one.incarnation.stamp));
                    let told = last.is_some_and(|at| *at >= since);
                    prop_assert!(!is_home || told, "{home} lacks one at {now}");
                }
            }
        }
    }
}
