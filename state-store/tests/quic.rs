//! Real stores over real QUIC on loopback.

mod lab;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use holdfast_schema::cluster::{ControlCommand, ControlOutcome};
use holdfast_state_store::{Store, StoreConfig, StoreError};
use lab::{Echo, Node, PATIENCE, Table, record};

/// A place on loopback that nobody else takes: an address of this process and this call.
fn listen() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    ([127, 1 + high % 250, low, CALLS.fetch_add(1, Ordering::Relaxed)], 7400).into()
}

async fn open(name: &str) -> Node {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let echo = Arc::new(Echo::default());
    let config = StoreConfig::new(dir.path().join("d"), name.to_owned(), listen(), echo.clone());
    reopen(dir, config, echo).await.unwrap()
}

async fn reopen(
    dir: Arc<tempfile::TempDir>,
    config: StoreConfig,
    echo: Arc<Echo>,
) -> Result<Node, StoreError> {
    let store = Store::open(config.clone()).await?;
    let table = Table::attach(&store);
    Ok(Node { store, table, echo, config, dir })
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn create(node: &Node, n: u16) {
    let record = record(n, node.id());
    let cluster = node.store.cluster().borrow().clone().unwrap();
    let shard = cluster.shards.shard(record.bucket(&cluster.bucket_key));
    let change = holdfast_schema::session::SessionChange::Create(record);
    node.store.propose(shard, vec![change]).unwrap();
}

fn settled(nodes: &[Node], voters: usize) -> bool {
    nodes.iter().all(|n| {
        n.store.caught_up().is_ok()
            && n.store.groups().iter().all(|g| g.leader.is_some() && g.voters.len() == voters)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_directors_over_quic() {
    let first = open("a").await;
    first.store.init_cluster(16).await.unwrap();
    let mut nodes = vec![first];
    for name in ["b", "c"] {
        let token = nodes[0].store.issue_token(name, Duration::from_secs(60)).await.unwrap();
        let node = open(name).await;
        node.store.join(&token).await.unwrap();
        nodes.push(node);
    }
    until("settled", || settled(&nodes, 3)).await;
    for n in 0..200 {
        create(&nodes[usize::from(n) % 3], n);
    }
    until("everywhere", || nodes.iter().all(|n| n.sessions() == 200)).await;
    let indexes = nodes[2].store.barrier(PATIENCE).await.unwrap();
    nodes[2].store.wait_applied_everywhere(&indexes, PATIENCE).await.unwrap();
    until("heard", || nodes.iter().all(|n| n.store.peers().iter().all(|p| p.up))).await;
    let to = nodes[1].id();
    assert_eq!(nodes[0].store.call(to, vec![1], PATIENCE).await.unwrap(), [1, 1]);

    // One goes and comes back; meanwhile the others go on.
    let Node { store, dir, config, echo, .. } = nodes.pop().unwrap();
    store.shutdown().await;
    for n in 200..260 {
        create(&nodes[0], n);
    }
    until("the others", || nodes.iter().all(|n| n.sessions() == 260)).await;
    let id = nodes[0].store.cluster().borrow().as_ref().unwrap().member_named("c").unwrap().id;
    let down =
        |nodes: &[Node]| nodes[0].store.cluster().borrow().as_ref().unwrap().members[&id].down;
    until("declared down", || down(&nodes)).await;
    nodes.push(reopen(dir, config, echo).await.unwrap());
    assert_eq!(nodes[2].store.incarnation(), 2);
    until("caught up", || settled(&nodes, 3) && nodes[2].sessions() == 260).await;
    until("declared up", || !down(&nodes)).await;

    // Commands find the leader from everywhere.
    for node in &nodes {
        let command = ControlCommand::EndPlanned { id: 7 };
        let outcome = node.store.control(command, PATIENCE).await.unwrap();
        assert!(matches!(outcome, ControlOutcome::Refused(_)));
    }
    // One is removed while it is away, and told when it comes back; another while it runs.
    let Node { store, dir, config, echo, .. } = nodes.pop().unwrap();
    store.shutdown().await;
    until("declared down", || down(&nodes)).await;
    let force = Some("lost".to_owned());
    let outcome = nodes[0].store.remove(id, force.clone(), PATIENCE).await.unwrap();
    assert!(matches!(outcome, ControlOutcome::Done { .. }), "{outcome:?}");
    let told = reopen(dir, config, echo).await.err().expect("refused");
    assert!(told.to_string().contains("removed from the cluster"), "{told}");
    until("one voter", || settled(&nodes, 1)).await;
    let voter = nodes[0].store.groups()[0].voters[0];
    let outcome = nodes[0].store.remove(voter, force, PATIENCE).await.unwrap();
    assert!(matches!(outcome, ControlOutcome::Done { .. }), "{outcome:?}");
    let at = nodes.iter().position(|n| n.id() == voter).unwrap();
    let gone = nodes.remove(at);
    until("it knows", || gone.store.disowned().is_some()).await;
    until("the vote has moved", || settled(&nodes, 1)).await;
    nodes.push(gone);
    for node in nodes {
        node.store.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_second_daemons_are_refused() {
    let first = open("a").await;
    first.store.init_cluster(4).await.unwrap();
    // A second daemon on the same directory.
    let twin = Store::open(first.config.clone()).await.err().expect("refused");
    assert!(matches!(twin, StoreError::Locked(_)), "{twin}");
    let stranger = open("b").await;
    let genuine = first.store.issue_token("b", Duration::from_secs(60)).await.unwrap();
    stranger.store.join(&genuine).await.unwrap();
    let again = stranger.store.join(&genuine).await.unwrap_err();
    assert!(matches!(again, StoreError::AlreadyMember { .. }), "{again}");
    // A name that is taken.
    let taken = first.store.issue_token("b", Duration::from_secs(60)).await.unwrap_err();
    assert!(taken.to_string().contains("b is already in the cluster"), "{taken}");
    // The wrong name on the right directory.
    let Node { store, dir, mut config, echo, .. } = stranger;
    store.shutdown().await;
    config.name = "c".to_owned();
    let misnamed = reopen(dir, config, echo).await.err().expect("refused");
    assert!(matches!(misnamed, StoreError::Identity { .. }), "{misnamed}");
}
