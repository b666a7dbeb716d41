//! A process that is killed loses nothing that was applied.

mod lab;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lab::{Echo, Lab, SHARDS, Table};

/// The variable that makes `victim` one.
const DIRECTORY: &str = "HOLDFAST_TEST_CRASH_DIRECTORY";
const SESSIONS: u16 = 500;

/// Not a test by itself: the process that gets killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let mut lab = Lab { network: Default::default(), nodes: Vec::new() };
    let node = lab.fresh(1, |c| c.data_dir = directory.clone().into()).await;
    node.store.init_cluster(SHARDS).await.unwrap();
    lab.nodes.push(node);
    lab.settled().await;
    lab.create_all(0, 0..SESSIONS, usize::from(SESSIONS)).await;
    println!("ready");
    // In the middle of work when the end comes.
    for n in SESSIONS..u16::MAX {
        lab.create(0, n % 4_000);
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // Gone already in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_keeps_what_it_applied() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let data = dir.path().join("data");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(DIRECTORY, &data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Child(child);
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("ready")), "it never got ready");
    child.0.kill().unwrap();
    child.0.wait().unwrap();

    let mut lab = Lab { network: Default::default(), nodes: Vec::new() };
    let echo = Arc::new(Echo::default());
    let mut config = lab::config(&dir, 1, &echo);
    config.data_dir = data;
    let node = lab.start(dir, config, echo).await.unwrap();
    lab.nodes.push(node);
    lab.until("everything back", || lab.nodes[0].sessions() >= usize::from(SESSIONS)).await;
    lab.settled().await;
    let cluster = lab.nodes[0].store.cluster().borrow().clone().unwrap();
    let me = &cluster.members[&lab.nodes[0].id()];
    assert_eq!((me.incarnation, me.replica.0, me.unclean), (2, 1, true), "no amnesia");
    let table: &Table = &lab.nodes[0].table;
    assert!((0..SESSIONS).all(|n| table.sessions.lock().contains_key(&lab::key(n))));
}
