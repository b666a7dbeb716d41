//! Young sessions between real stores (raft-rs, RocksDB) over a network in memory.

mod lab;

use std::time::Duration;

use holdfast_schema::cluster::{ControlCommand, DirectorId, MemberState};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::homes::HomeTable;
use holdfast_schema::session::{SessionFlags, SessionRecord};
use holdfast_state_store::{MissVerdict, Store};
use lab::{Lab, Owner, PATIENCE, key, record};

const BRIEF: Duration = Duration::from_millis(500);

/// A session that this director has just begun.
fn opened(n: u16, owner: &Owner) -> SessionRecord {
    let mut record = record(n, owner.store.me().unwrap());
    record.flags = SessionFlags::CLIENT_OPENED;
    record
}

async fn found(store: &Store, key: FlowKey) -> bool {
    matches!(store.ask(key, None, BRIEF).await, MissVerdict::Found(r) if r.key == key || r.reply == key)
}

async fn find(store: &Store, key: FlowKey) {
    let begun = std::time::Instant::now();
    while !found(store, key).await {
        assert!(begun.elapsed() < PATIENCE, "never found");
    }
}

fn homes_of(store: &Store, record: &SessionRecord) -> Vec<DirectorId> {
    let cluster = store.cluster().borrow().clone().unwrap();
    let bucket = record.bucket(&cluster.bucket_key);
    HomeTable::of(&cluster).homes(bucket, record.owner).collect()
}

fn has_authority(owner: &Owner) -> bool {
    owner.store.young_stats().is_some_and(|(_, keeping)| keeping.authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_young_session_outlives_its_director() {
    let mut lab = Lab::new(4).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    for n in 0..200 {
        owners[0].open(opened(n, &owners[0]));
    }
    let kept = || -> u64 { owners.iter().map(|o| o.store.young_stats().unwrap().1.kept).sum() };
    lab.until("registered", || kept() >= 400).await;
    let dead = lab.kill(0).await;
    // At once, long before anybody has declared it down.
    for n in 0..200 {
        assert!(found(&owners[1 + usize::from(n) % 3].store, key(n)).await, "{n}");
    }
    drop(dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn established_sessions_of_a_dead_director_are_replicated_by_their_homes() {
    let mut lab = Lab::new(4).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    for n in 0..50 {
        owners[0].open(record(n, owners[0].store.me().unwrap()));
    }
    let kept = || -> u64 { owners.iter().map(|o| o.store.young_stats().unwrap().1.kept).sum() };
    lab.until("registered", || kept() >= 100).await;
    drop(lab.kill(0).await);
    lab.until("replicated", || lab.nodes.iter().all(|n| n.sessions() >= 50)).await;
    let kept =
        || -> u64 { owners[1..].iter().map(|o| o.store.young_stats().unwrap().1.kept).sum() };
    lab.until("forgotten by homes", || kept() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_registers_a_connection_second_is_told_of_the_first() {
    let lab = Lab::new(3).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    let first = opened(1, &owners[0]);
    owners[0].open(first.clone());
    let kept = |owner: &Owner| owner.store.young_stats().unwrap().1.kept == 1;
    lab.until("registered", || owners[1..].iter().all(kept)).await;
    let mut second = opened(1, &owners[1]);
    second.incarnation.stamp = 9;
    owners[1].open(second);
    let twins = || owners.iter().any(|o| o.store.young_stats().unwrap().1.twins > 0);
    lab.until("recognised", twins).await;
    let own = || lab.nodes[1].table.sessions.lock()[&key(1)].incarnation;
    lab.until("adopted", || own() == first.incarnation).await;
    let verdict = owners[2].store.ask(key(1), None, BRIEF).await;
    assert!(matches!(verdict, MissVerdict::Found(r) if r.incarnation == first.incarnation));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_become_homes_and_are_told_what_is_young() {
    let mut lab = Lab::new(3).await;
    let mut owners = Owner::all(&lab);
    for n in 0..100 {
        owners[0].open(opened(n, &owners[0]));
    }
    for number in [4, 5] {
        lab.add(number, |_| {}).await;
        owners.push(Owner::of(lab.nodes.last().unwrap()));
    }
    lab.settled().await;
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    let (four, five) = (lab.nodes[3].id(), lab.nodes[4].id());
    let moved = (0..100).find(|n| {
        let homes = homes_of(&owners[0].store, &opened(*n, &owners[0]));
        homes.contains(&four) && homes.contains(&five)
    });
    let n = moved.expect("a session with two new homes");
    // Its director and all who were its homes before are gone.
    for _ in 0..3 {
        drop(lab.kill(0).await);
    }
    assert!(found(&owners[3].store, key(n)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_denies_only_what_everybody_has_told_it_of() {
    let lab = Lab::new(3).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    let begun = std::time::Instant::now();
    while owners[0].store.ask(key(1), None, BRIEF).await != MissVerdict::NoWithAuthority {
        assert!(begun.elapsed() < PATIENCE, "never sure");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One that says nothing may have sessions that nobody was told of.
    owners[2].silence();
    lab.until("withheld", || !owners[..2].iter().any(has_authority)).await;
    assert_eq!(owners[0].store.ask(key(1), None, BRIEF).await, MissVerdict::Nobody);
    let speaks = Owner::of(&lab.nodes[2]);
    lab.until("told again", || owners[..2].iter().all(has_authority)).await;
    // After a change of membership everything has to be said again.
    speaks.silence();
    let director = lab.nodes[1].id();
    let draining = ControlCommand::SetState { director, state: MemberState::Draining, force: None };
    lab.control(draining).await;
    lab.until("withheld", || !owners[..2].iter().any(has_authority)).await;
    let verdict = owners[0].store.ask(key(1), None, BRIEF).await;
    assert_eq!(verdict, MissVerdict::Nobody, "nothing that a session could be ended by");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_that_are_lost_are_made_up_for() {
    let lab = Lab::new(3).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    lab.network.lose(40);
    for n in 0..300 {
        owners[0].open(opened(n, &owners[0]));
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    lab.network.heal();
    let kept = |owner: &Owner| owner.store.young_stats().unwrap().1.kept;
    lab.until("all there", || kept(&owners[1]) == 300 && kept(&owners[2]) == 300).await;
    lab.until("sure again", || owners.iter().all(has_authority)).await;
    let missed = |owner: &Owner| {
        owner.store.metrics().registrations_missed.load(std::sync::atomic::Ordering::Relaxed)
    };
    assert!(missed(&owners[1]) + missed(&owners[2]) > 0, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_is_full_says_that_it_cannot_be_sure() {
    let small = |c: &mut holdfast_state_store::StoreConfig| c.limits.young_sessions = 10;
    let lab = Lab::with(2, small).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    // Their own director has forgotten them.
    for n in 0..200 {
        owners[0].store.registrar().unwrap().opened(&[record(n, lab.nodes[0].id())]);
    }
    let stats = || owners[1].store.young_stats().unwrap().1;
    lab.until("turned away", || stats().turned_away >= 190).await;
    assert_eq!((stats().kept, stats().capacity), (10, 10));
    assert!(stats().unsure_buckets > 0);
    let mut unsure = 0;
    for n in 0..200 {
        let verdict = owners[1].store.ask(key(n), None, BRIEF).await;
        unsure += usize::from(verdict == MissVerdict::DontKnow);
        assert!(matches!(verdict, MissVerdict::Found(_) | MissVerdict::DontKnow), "{verdict:?}");
    }
    assert_eq!(unsure, 190, "none of them is denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_has_applied_homes_need_not_keep() {
    let lab = Lab::new(3).await;
    let owners = Owner::all(&lab);
    lab.until("everything is told", || owners.iter().all(has_authority)).await;
    let kept = || -> u64 { owners.iter().map(|o| o.store.young_stats().unwrap().1.kept).sum() };
    for n in 0..50 {
        // As old as they get: the record that is proposed is the one that was registered.
        owners[0].store.registrar().unwrap().opened(&[record(n, lab.nodes[0].id())]);
    }
    lab.until("registered", || kept() >= 100).await;
    (0..50).for_each(|n| lab.create(0, n));
    lab.until("applied", || lab.nodes.iter().all(|n| n.sessions() == 50)).await;
    lab.until("forgotten", || kept() == 0).await;
    find(&owners[1].store, key(7)).await;
}
