//! The store of a cluster of one, step by step.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use futures_util::future::{self, BoxFuture};
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionSink, SessionUpdate};

use super::Store;
use super::inbound::Inbox;
use super::member::{Groups, Member};
use super::types::{PeerCalls, StoreConfig};
use crate::codec::wire::Response;
use crate::memory::MemoryNetwork;
use crate::peer::tests::{PATIENCE, until};
use crate::shard::tests::key;

const SHARDS: u16 = 4;

/// Has nothing and keeps nothing. When a shard is installed it says so, and goes on once somebody has heard
/// it, or nobody listens.
pub struct Nowhere(mpsc::SyncSender<ShardId>);

/// One, and where it is heard.
pub fn nowhere() -> (Arc<Nowhere>, mpsc::Receiver<ShardId>) {
    let (says, heard) = mpsc::sync_channel(0);
    (Arc::new(Nowhere(says)), heard)
}

impl SessionSink for Nowhere {
    fn created(&self, _: &SessionRecord) {}
    fn updated(&self, _: &SessionUpdate) {}
    fn expired(&self, _: &FlowKey, _: &Incarnation) {}
    fn installed(&self, shard: ShardId, _: &[SessionRecord]) {
        let _ = self.0.send(shard);
    }
    fn twin(&self, _: &SessionRecord) {}
    fn find(&self, _: &FlowKey) -> Known {
        Known::Nobody
    }
}

/// A node that is alone has nobody to answer.
struct Silent;

impl PeerCalls for Silent {
    fn call(&self, _: DirectorId, _: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn message(&self, _: DirectorId, _: Vec<u8>) {}
}

/// A store that is in no cluster yet. The directory lives as long as the first of the two.
async fn waiting() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (data, listen) = (dir.path().join("data"), SocketAddr::from(([127, 0, 0, 1], 20_001)));
    let config = StoreConfig::new(data, "d1".to_owned(), listen, Arc::new(Silent));
    let store = Store::open_with(config, Arc::new(MemoryNetwork::new())).await.unwrap();
    (dir, store)
}

/// A member that is being started: nobody finds it yet, nor its session groups.
fn starting(store: &Store) -> (Arc<Member>, Groups) {
    let shared = &store.shared;
    let identity = store.found(SHARDS).unwrap();
    let inbox = Arc::new(Inbox::new(Arc::downgrade(shared)));
    let transport = shared.connector.bind(shared.config.listen, &identity, inbox).unwrap();
    let (parts, db) = (shared.parts(), shared.control_db.clone());
    let member = Arc::new(Member::start(parts, db, identity, transport).unwrap());
    let groups = member.open_sessions().unwrap();
    (member, groups)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Attach,
    ShowGroups,
    ShowMember,
}

/// A member shows its groups first when it starts with what it has, and last after amnesia.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_told_everything_whenever_it_is_attached() {
    use Step::{Attach, ShowGroups, ShowMember};

    let orders = [
        [Attach, ShowGroups, ShowMember],
        [ShowGroups, Attach, ShowMember],
        [ShowGroups, ShowMember, Attach],
        [Attach, ShowMember, ShowGroups],
        [ShowMember, Attach, ShowGroups],
        [ShowMember, ShowGroups, Attach],
    ];
    for order in orders {
        let (_dir, store) = waiting().await;
        let (member, groups) = starting(&store);
        let mut groups = Some(groups);
        let (sink, told) = nowhere();
        for step in order {
            match step {
                Attach => store.attach_sink(sink.clone()),
                ShowGroups => member.show_sessions(groups.take().unwrap()),
                ShowMember => store.show(&member),
            }
        }
        let mut shards = BTreeSet::new();
        while shards.len() < usize::from(SHARDS) {
            let Ok(shard) = told.recv_timeout(PATIENCE) else {
                panic!("{order:?}: told only of {shards:?}");
            };
            shards.insert(shard);
        }
        drop(told);
        store.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_told_its_sink_everything_denies_nothing() {
    let (_dir, store) = waiting().await;
    store.init_cluster(SHARDS).await.unwrap();
    until("caught up", || store.caught_up().is_ok()).await;
    let (member, key, last) = (store.member().unwrap(), key(1), SHARDS - 1);
    let (sink, told) = nowhere();
    store.attach_sink(sink);
    let ask = || store.answer_miss(&member, &key, last);
    // In this order: the leader is asked to confirm itself before the first shard is through, and does so
    // between two of them.
    let all_but_the_last = async {
        for _ in 0..last {
            told.recv_timeout(PATIENCE).unwrap();
        }
    };
    let (answer, ()) = future::join(ask(), all_but_the_last).await;
    assert_eq!(answer, Response::DontKnow);
    drop(told);
    until("told of the last one", || store.caught_up().is_ok()).await;
    assert!(matches!(ask().await, Response::No { as_leader: true, .. }));
    store.shutdown().await;
}
