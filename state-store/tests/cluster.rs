//! Real stores (raft-rs, RocksDB) over a network in memory.

mod lab;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{ControlCommand, ControlOutcome, MemberState};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionSink, SessionUpdate};
use holdfast_state_store::memory::MemoryNetwork;
use holdfast_state_store::{MissVerdict, Phase, Store, StoreError};
use lab::{Lab, Node, Owner, PATIENCE, key, record};
use parking_lot::Mutex;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_works_and_survives_restarts() {
    let mut lab = Lab::new(1).await;
    (0..100).for_each(|n| lab.create(0, n));
    lab.until("100 sessions", || lab.nodes[0].sessions() == 100).await;
    let node = lab.nodes.pop().unwrap();
    assert_eq!(node.store.incarnation(), 1);
    let again = node.store.init_cluster(4).await.unwrap_err();
    assert!(matches!(again, StoreError::AlreadyMember { .. }), "{again}");
    node.store.shutdown().await;
    let node = lab.start(node.dir, node.config, node.echo).await.unwrap();
    assert_eq!((node.store.phase(), node.store.incarnation()), (Phase::Member, 2));
    lab.nodes.push(node);
    lab.until("everything back", || lab.nodes[0].sessions() == 100).await;
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_reach_every_director_whoever_proposes() {
    let lab = Lab::new(3).await;
    for n in 0..300 {
        lab.create(usize::from(n) % 3, n);
    }
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 300)).await;
    let indexes = lab.nodes[1].store.barrier(PATIENCE).await.unwrap();
    assert!(indexes.iter().all(|i| *i > 1), "{indexes:?}");
    lab.nodes[2].store.wait_applied_everywhere(&indexes, PATIENCE).await.unwrap();
    for node in &lab.nodes {
        let applied = node.store.applied();
        assert!(applied.iter().zip(&indexes).all(|(a, i)| a >= i), "{applied:?} {indexes:?}");
    }
    let beyond = vec![u64::MAX; indexes.len()];
    let never =
        lab.nodes[0].store.wait_applied_everywhere(&beyond, Duration::from_millis(50)).await;
    assert!(matches!(never, Err(StoreError::Deadline { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_broadcasts_reach_the_other_nodes() {
    let lab = Lab::new(2).await;
    let (a, b) = (&lab.nodes[0], &lab.nodes[1]);
    let answer = a.store.call(b.id(), vec![9], PATIENCE).await.unwrap();
    assert_eq!(answer, [9, a.id().0 as u8]);
    b.store.broadcast(vec![5]);
    lab.until("heard", || a.echo.messages.lock().contains(&(b.id(), vec![5]))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_followed_and_its_vote_goes_to_a_learner() {
    let mut lab = Lab::new(4).await;
    (0..50).for_each(|n| lab.create(0, n));
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 50)).await;
    let dead = lab.kill(lab.leader()).await;
    let begun = std::time::Instant::now();
    lab.until("a new leader", || {
        lab.nodes.iter().any(|n| n.leads_control())
            && lab.nodes.iter().all(|n| n.store.has_quorum())
    })
    .await;
    // Elections take 0.5 to 1.5 s; the rest is for busy machines.
    assert!(begun.elapsed() < Duration::from_secs(15), "took {:?}", begun.elapsed());
    lab.create_all(1, 50..100, 100).await;
    // Declared down, and its votes are somebody else's now.
    let id = dead.id();
    lab.until("replaced", || {
        lab.nodes.iter().all(|n| {
            n.store.cluster().borrow().as_ref().unwrap().members[&id].down
                && n.store.groups().iter().all(|g| g.voters.len() == 3 && !g.voters.contains(&id))
        })
    })
    .await;
    // It comes back as a learner and catches up.
    lab.network.heal();
    lab.nodes.push(dead);
    lab.settled().await;
    lab.until("caught up", || lab.nodes.iter().all(|n| n.sessions() == 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_director_catches_up() {
    let mut lab = Lab::new(3).await;
    (0..50).for_each(|n| lab.create(0, n));
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 50)).await;
    let node = lab.nodes.pop().unwrap();
    node.store.shutdown().await;
    (50..120).for_each(|n| lab.create(0, n));
    lab.until("the others", || lab.nodes.iter().all(|n| n.sessions() == 120)).await;
    let node = lab.start(node.dir, node.config, node.echo).await.unwrap();
    assert_eq!(node.store.incarnation(), 2);
    lab.nodes.push(node);
    lab.until("caught up", || lab.nodes.iter().all(|n| n.sessions() == 120)).await;
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_behind_the_log_gets_snapshots_and_becomes_a_voter() {
    // A log so short that it is compacted all the time.
    let short = |c: &mut holdfast_state_store::StoreConfig| c.limits.log_bytes = 2_000;
    let mut lab = Lab::with(2, short).await;
    for n in 0..2_000 {
        lab.create(0, n);
    }
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 2_000)).await;
    lab.until("compacted", || {
        let metrics = lab.nodes[0].store.metrics();
        metrics.checkpoints.load(std::sync::atomic::Ordering::Relaxed) >= 4
    })
    .await;
    lab.add(3, short).await;
    lab.settled().await;
    lab.until("all there", || lab.nodes[2].sessions() == 2_000).await;
    let installs =
        lab.nodes[2].store.metrics().snapshots_installed.load(std::sync::atomic::Ordering::Relaxed);
    assert!(installs >= 5, "control and four shards: {installs}");
    assert!(!lab.nodes[2].table.installs.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_director_that_lost_its_memory_comes_back_under_a_new_replica_number() {
    let mut lab = Lab::new(3).await;
    (0..50).for_each(|n| lab.create(0, n));
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 50)).await;
    let node = lab.nodes.pop().unwrap();
    let id = node.id();
    let replica =
        |lab: &Lab| lab.nodes[0].store.cluster().borrow().as_ref().unwrap().members[&id].replica;
    let old = replica(&lab);
    node.store.shutdown().await;
    std::fs::remove_dir_all(node.config.data_dir.join("sessions")).unwrap();
    let node = lab.start(node.dir, node.config, node.echo).await.unwrap();
    lab.nodes.push(node);
    lab.settled().await;
    assert_ne!(replica(&lab), old);
    lab.until("all there", || lab.nodes[2].sessions() == 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_director_that_lost_its_memory_forms_its_shards_anew() {
    let mut lab = Lab::new(1).await;
    let node = lab.nodes.pop().unwrap();
    node.store.shutdown().await;
    std::fs::remove_dir_all(node.config.data_dir.join("sessions")).unwrap();
    let node = lab.start(node.dir, node.config, node.echo).await.unwrap();
    lab.nodes.push(node);
    lab.settled().await;
    lab.create(0, 1);
    lab.until("it works", || lab.nodes[0].sessions() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_director_gives_its_votes_away_and_is_removed() {
    let lab = Lab::new(4).await;
    let director = lab.nodes[lab.leader()].id();
    for state in [MemberState::Draining, MemberState::Drained] {
        lab.control(ControlCommand::SetState { director, state, force: None }).await;
    }
    lab.until("its votes moved", || {
        lab.nodes.iter().all(|n| {
            n.store.groups().iter().all(|g| {
                g.voters.len() == 3 && !g.voters.contains(&director) && g.leader != Some(director)
            })
        })
    })
    .await;
    lab.control(ControlCommand::Remove { director, force: None }).await;
    lab.until("it left the groups", || {
        lab.nodes
            .iter()
            .filter(|n| n.store.me() != Some(director))
            .all(|n| n.store.groups().iter().all(|g| g.voters.len() == 3 && g.learners.is_empty()))
    })
    .await;
    let gone = lab.nodes.iter().find(|n| n.store.me() == Some(director)).unwrap();
    lab.until("it knows", || {
        gone.store.caught_up().is_err_and(|why| why.contains("removed from the cluster"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_director_that_quorum_needs_is_not_removed_and_the_cluster_goes_on() {
    let mut lab = Lab::new(2).await;
    let director = lab.nodes[0].id();
    assert!(lab.nodes[1].store.groups().iter().all(|g| g.voters == [director]), "the sole voter");
    let before = lab.nodes[0].store.cluster().borrow().clone().unwrap();
    let refused = |outcome| match outcome {
        ControlOutcome::Refused(refusal) => refusal,
        done => panic!("{done:?}"),
    };
    // Asked anywhere, it is refused and says what to do.
    let outcome = lab.nodes[1].store.remove(director, None, PATIENCE).await.unwrap();
    let refusal = refused(outcome);
    assert!(refusal.message.contains("there is no quorum in the control group"), "{refusal:?}");
    assert!(refusal.hint.contains("holdfast node drain d1"), "{refusal:?}");
    assert_eq!(lab.nodes[0].store.cluster().borrow().clone().unwrap(), before);
    // Not by force either while nobody can take the vote.
    lab.network.isolate(lab.nodes[1].id());
    lab.until("not heard", || !lab.nodes[0].store.peers()[0].up).await;
    let force = Some("the rack burns".to_owned());
    let few = Duration::from_secs(1);
    let outcome = lab.nodes[0].store.remove(director, force.clone(), few).await.unwrap();
    let refusal = refused(outcome);
    assert!(refusal.message.contains("without director d1"), "{refusal:?}");
    let state = lab.nodes[0].store.cluster().borrow().as_ref().unwrap().members[&director].state;
    assert_eq!(state, MemberState::Active, "it serves on");
    lab.create(0, 1);
    lab.until("it works", || lab.nodes[0].sessions() == 1).await;
    // With somebody there the vote moves first, and the other one carries on alone.
    lab.network.heal();
    lab.settled().await;
    lab.until("back", || {
        let cluster = lab.nodes[0].store.cluster().borrow().clone().unwrap();
        cluster.members.values().all(|m| !m.down)
    })
    .await;
    let outcome = lab.nodes[0].store.remove(director, force, PATIENCE).await.unwrap();
    assert!(matches!(outcome, ControlOutcome::Done { .. }), "{outcome:?}");
    let gone = lab.nodes.remove(0);
    lab.settled().await;
    lab.create(0, 2);
    lab.until("it works", || lab.nodes[0].sessions() == 2).await;
    drop(gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_voter_dead_no_other_can_be_removed_but_the_dead_one_can() {
    let mut lab = Lab::new(3).await;
    let dead = lab.kill(2).await;
    let (other, lost) = (lab.nodes[1].id(), dead.id());
    lab.until("declared down", || {
        lab.nodes[0].store.cluster().borrow().as_ref().unwrap().members[&lost].down
    })
    .await;
    let remove = |director| {
        let force = Some("lost".to_owned());
        lab.nodes[0].store.control(ControlCommand::Remove { director, force }, PATIENCE)
    };
    let ControlOutcome::Refused(refusal) = remove(other).await.unwrap() else { panic!("removed") };
    assert!(refusal.hint.contains("d3 back first, or remove d3 with --force"), "{refusal:?}");
    assert!(matches!(remove(lost).await.unwrap(), ControlOutcome::Done { .. }));
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_director_removed_behind_its_back_is_told_and_stops_taking_part() {
    let mut lab = Lab::new(3).await;
    let gone = lab.kill(2).await;
    let director = gone.id();
    lab.until("declared down", || {
        lab.nodes[0].store.cluster().borrow().as_ref().unwrap().members[&director].down
    })
    .await;
    lab.control(ControlCommand::Remove { director, force: Some("lost".to_owned()) }).await;
    lab.settled().await;
    assert_eq!(gone.store.disowned(), None, "it has heard nothing");
    lab.network.heal();
    lab.until("it is told", || gone.store.disowned().is_some()).await;
    let why = gone.store.disowned().unwrap();
    assert!(why.contains("this director was removed from the cluster"), "{why}");
    assert_eq!(gone.store.caught_up(), Err(why));
    assert!(!gone.store.has_quorum());
    let refused = gone.store.control(ControlCommand::EndPlanned { id: 1 }, PATIENCE).await;
    assert!(matches!(refused, Err(StoreError::Disowned(_))), "{refused:?}");
    // Nor does it come back by a start.
    gone.store.shutdown().await;
    let again = lab.start(gone.dir, gone.config, gone.echo).await.err().expect("refused");
    assert!(again.to_string().contains("removed from the cluster"), "{again}");
    assert!(again.to_string().contains("empty its data directory"), "{again}");
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_died_after_it_was_taken_in_finishes_with_the_same_token() {
    use holdfast_state_store::codec::wire::{JoinAnswer, JoinAsk};
    use holdfast_state_store::pki::{DirectorKey, JoinToken};
    use holdfast_state_store::transport::Connector;

    let mut lab = Lab::new(1).await;
    let token = lab.nodes[0].store.issue_token("d2", PATIENCE).await.unwrap();
    let node = lab.fresh(2, |_| {}).await;
    // Its first attempt: the key is on the disk, the cluster has said yes, and there it died.
    let key = DirectorKey::generate().unwrap();
    key.save(&node.config.data_dir.join("joining")).unwrap();
    let parsed: JoinToken = token.parse().unwrap();
    let ask = JoinAsk {
        request: holdfast_schema::cluster::RequestId(7),
        name: "d2".to_owned(),
        secret: parsed.secret,
        address: node.config.listen,
        signing_request: key.request().unwrap(),
        connected: Vec::new(),
        hops: 0,
    };
    let body = holdfast_state_store::codec::encode(&ask).into();
    let answer = lab.network.ask_to_join(parsed, body, PATIENCE).await.unwrap();
    let JoinAnswer::Welcome { director, .. } =
        holdfast_state_store::codec::decode(&answer).unwrap()
    else {
        panic!("not welcome")
    };
    node.store.join(&token).await.unwrap();
    assert_eq!(node.id(), director);
    assert!(!node.config.data_dir.join("joining").exists(), "the key is in the identity now");
    lab.nodes.push(node);
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_directors_the_learner_must_have_it_too() {
    let lab = Lab::new(2).await;
    let (voter, learner) = (&lab.nodes[0], &lab.nodes[1]);
    voter.store.applied_everywhere(PATIENCE).await.unwrap();
    lab.network.isolate(learner.id());
    lab.create(0, 1);
    lab.until("the voter has it", || voter.sessions() == 1).await;
    let brief = Duration::from_millis(400);
    let early = voter.store.applied_everywhere(brief).await;
    assert!(matches!(early, Err(StoreError::Deadline { .. })), "{early:?}");
    assert_eq!(learner.sessions(), 0);
    lab.network.heal();
    voter.store.applied_everywhere(PATIENCE).await.unwrap();
    // The answer may be that of a learner that is declared down still: wait for it in any case.
    lab.until("the learner has it", || learner.sessions() == 1).await;
}

/// A table that waits before it takes what a shard has.
struct Hesitant {
    waits: Mutex<mpsc::Receiver<()>>,
}

impl SessionSink for Hesitant {
    fn created(&self, _: &SessionRecord) {}
    fn updated(&self, _: &SessionUpdate) {}
    fn expired(&self, _: &FlowKey, _: &Incarnation) {}
    fn installed(&self, _: ShardId, _: &[SessionRecord]) {
        let _ = self.waits.lock().recv();
    }
    fn twin(&self, _: &SessionRecord) {}
    fn find(&self, _: &FlowKey) -> Known {
        Known::Nobody
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_director_has_not_caught_up_before_its_forwarder_was_told_everything() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (echo, network) = (Arc::default(), MemoryNetwork::new());
    let config = lab::config(&dir, 1, &echo);
    let store = Store::open_with(config.clone(), Arc::new(network.clone())).await.unwrap();
    store.init_cluster(lab::SHARDS).await.unwrap();
    // Its table is not attached.
    let node = Node { store, table: Arc::default(), echo, config, dir };
    let lab = Lab { network, nodes: vec![node] };
    let store = &lab.nodes[0].store;
    lab.until("caught up", || store.caught_up().is_ok()).await;
    let (tell, waits) = mpsc::channel();
    store.attach_sink(Arc::new(Hesitant { waits: Mutex::new(waits) }));
    for _ in 0..lab::SHARDS {
        assert!(
            store.caught_up().is_err_and(|why| why.contains("the forwarder has not been told"))
        );
        tell.send(()).unwrap();
    }
    drop(tell);
    lab.until("told", || store.caught_up().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_are_answered_by_whoever_knows_and_denied_only_by_all() {
    let mut lab = Lab::new(3).await;
    let _owners = Owner::all(&lab);
    let brief = Duration::from_millis(500);
    lab.create(0, 1);
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 1)).await;
    // One director has lost it; the others know.
    lab.nodes[2].table.sessions.lock().clear();
    let verdict = lab.nodes[2].store.ask(key(1), None, brief).await;
    assert!(matches!(verdict, MissVerdict::Found(r) if r.key == key(1)));
    let verdict = lab.nodes[2].store.ask(key(1).reversed(), None, brief).await;
    assert!(matches!(verdict, MissVerdict::Found(_)), "the other direction: {verdict:?}");
    // Of two uses of a key the newer counts. (Two records of the same opening would be twins.)
    let mut newer = record(1, lab.nodes[1].id());
    newer.incarnation.stamp = 5;
    newer.incarnation.isn += 1;
    lab.nodes[1].table.sessions.lock().insert(newer.key, newer);
    let verdict = lab.nodes[2].store.ask(key(1), None, brief).await;
    assert!(matches!(verdict, MissVerdict::Found(r) if r.incarnation.stamp == 5));
    // A no right after a change of membership is not sure; later it is.
    // (On a slow machine, later has come.)
    let first = lab.nodes[0].store.ask(key(2), None, brief).await;
    assert!(matches!(first, MissVerdict::Nobody | MissVerdict::NoWithAuthority), "{first:?}");
    let begun = std::time::Instant::now();
    while lab.nodes[0].store.ask(key(2), None, brief).await != MissVerdict::NoWithAuthority {
        assert!(begun.elapsed() < PATIENCE, "never sure");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Never when somebody cannot be asked.
    let dead = lab.kill(2).await;
    assert_eq!(lab.nodes[0].store.ask(key(2), None, brief).await, MissVerdict::DontKnow);
    drop(dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_committed_and_nothing_breaks() {
    let mut lab = Lab::new(3).await;
    lab.create(0, 1);
    lab.until("everywhere", || lab.nodes.iter().all(|n| n.sessions() == 1)).await;
    let (one, two) = (lab.kill(2).await, lab.kill(1).await);
    lab.until("no quorum", || !lab.nodes[0].store.has_quorum()).await;
    lab.create(0, 2);
    let command = ControlCommand::EndPlanned { id: 99 };
    let refused = lab.nodes[0].store.control(command, Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(StoreError::Deadline { .. })), "{refused:?}");
    assert_eq!(lab.nodes[0].sessions(), 1);
    lab.network.heal();
    lab.nodes.extend([two, one]);
    lab.create_all(0, 1..3, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_good_once_for_one_name_and_a_while() {
    let mut lab = Lab::new(1).await;
    let leader = lab.nodes[0].store.clone();
    let minute = Duration::from_secs(60);
    let taken = leader.issue_token("d1", minute).await.unwrap_err();
    assert!(taken.to_string().contains("d1 is already in the cluster"), "{taken}");

    let node = lab.fresh(2, |_| {}).await;
    let garbage = node.store.join("hfj1-nonsense").await.unwrap_err();
    assert!(matches!(garbage, StoreError::Join(_)), "{garbage}");
    let other = leader.issue_token("d7", minute).await.unwrap();
    let misnamed = node.store.join(&other).await.unwrap_err();
    assert!(misnamed.to_string().contains("the token is for director `d7`"), "{misnamed}");
    let expired = leader.issue_token("d2", Duration::ZERO).await.unwrap();
    let late = node.store.join(&expired).await.unwrap_err();
    assert!(late.to_string().contains("expired"), "{late}");
    let old = leader.issue_token("d2", minute).await.unwrap();
    let new = leader.issue_token("d2", minute).await.unwrap();
    let replaced = node.store.join(&old).await.unwrap_err();
    assert!(replaced.to_string().contains("wrong or was replaced"), "{replaced}");
    assert_eq!(node.store.phase(), Phase::Waiting);
    node.store.join(&new).await.unwrap();
    let director = node.id();
    lab.nodes.push(node);
    lab.settled().await;
    let written = || leader.groups()[0].committed;
    let joined = written();
    let active = ControlCommand::SetState { director, state: MemberState::Active, force: None };
    lab.control(active).await;
    lab.until("shown", || written() > joined).await;
    let before = written();
    let mut twin = lab.fresh(3, |_| {}).await;
    twin.store.shutdown().await;
    twin.config.name = "d2".to_owned();
    let twin = lab.start(twin.dir, twin.config, twin.echo).await.unwrap();
    let used = twin.store.join(&new).await.unwrap_err();
    assert!(used.to_string().contains("used already"), "{used}");
    assert_eq!(written(), before, "a stranger wrote into the control group's log");
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_data_directory_is_refused() {
    let mut lab = Lab::new(2).await;
    let node = lab.nodes.pop().unwrap();
    let (dir, mut config, echo) = (node.dir.clone(), node.config.clone(), node.echo.clone());
    node.store.shutdown().await;
    let copy = tempfile::tempdir().unwrap();
    let target = copy.path().join("data");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(&config.data_dir)
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success());
    let node = lab.start(dir, config.clone(), echo.clone()).await.unwrap();
    lab.nodes.push(node);
    lab.settled().await;
    // The copy counts one start less than the cluster.
    config.data_dir = target;
    config.listen.set_port(29_999);
    let refused = lab.start(std::sync::Arc::new(copy), config, echo).await;
    let error = match refused {
        Err(e) => e.to_string(),
        Ok(node) => panic!("it runs: {:?} {:?}", node.store.caught_up(), node.store.groups()[0]),
    };
    assert!(error.contains("copy"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_explain_themselves() {
    let lab = Lab::new(1).await;
    let director = lab.nodes[0].id();
    let remove = ControlCommand::Remove { director, force: None };
    let outcome = lab.nodes[0].store.control(remove, PATIENCE).await.unwrap();
    let ControlOutcome::Refused(refusal) = outcome else { panic!("removed the only director") };
    assert!(refusal.message.contains("1 voter - 1 = 0 left"), "{}", refusal.message);
    let drain = ControlCommand::SetState { director, state: MemberState::Draining, force: None };
    let outcome = lab.nodes[0].store.control(drain, PATIENCE).await.unwrap();
    let ControlOutcome::Refused(refusal) = outcome else { panic!("drained the only director") };
    assert!(refusal.message.contains("d1 is the last one that serves"), "{}", refusal.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_cost_time_not_sessions() {
    let lab = Lab::new(3).await;
    lab.network.lose(20);
    lab.create_all(1, 0..300, 300).await;
    lab.network.heal();
    lab.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_the_majority_takes_nothing_and_rejoins() {
    let lab = Lab::new(3).await;
    lab.create_all(0, 0..20, 20).await;
    let alone = lab.leader();
    lab.network.isolate(lab.nodes[alone].id());
    lab.until("it steps down", || !lab.nodes[alone].store.has_quorum()).await;
    let other = (alone + 1) % 3;
    let rest = |lab: &Lab, n: usize| {
        lab.nodes.iter().enumerate().filter(|(at, _)| *at != alone).all(|(_, d)| d.sessions() == n)
    };
    lab.until("the others go on", || {
        lab.create(other, 30);
        rest(&lab, 21)
    })
    .await;
    assert_eq!(lab.nodes[alone].sessions(), 20);
    lab.network.heal();
    lab.until("it has caught up", || lab.nodes[alone].sessions() == 21).await;
    lab.settled().await;
}
