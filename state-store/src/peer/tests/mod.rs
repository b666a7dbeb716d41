//! Real sockets on loopback: several networks in one process, ports chosen by the kernel.

mod admission;
mod delivery;
mod joining;
mod life;
mod snapshots;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;
use parking_lot::Mutex;

use super::*;
use crate::pki::{Authority, ClusterId, DirectorKey};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Far above what anything here takes, for a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` says yes.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn id(n: u32) -> DirectorId {
    DirectorId(n)
}

/// A cluster on paper: an authority and who has which key.
struct Paper {
    authority: Authority,
}

impl Paper {
    fn new() -> Paper {
        Paper::of(ClusterId::random())
    }

    fn of(cluster: ClusterId) -> Paper {
        Paper { authority: Authority::create(cluster, SystemTime::now()).unwrap() }
    }

    fn identity(&self, director: u32) -> Identity {
        let key = DirectorKey::generate().unwrap();
        let request = key.request().unwrap();
        let issued = self.authority.sign(&request, id(director), SystemTime::now()).unwrap();
        Identity::new(&key, &issued.chain_pem).unwrap()
    }
}

/// What a recorder does with a snapshot.
#[derive(Clone, Copy, PartialEq, Debug)]
enum OnSnapshot {
    Take,
    Refuse,
}

/// Sender, header, and the bytes or why they did not all come.
type Snapshot = (DirectorId, Bytes, Result<Vec<u8>, String>);

/// Remembers everything.
struct Recorder {
    messages: Mutex<Vec<(DirectorId, Lane, Bytes)>>,
    heartbeats: Mutex<Vec<(DirectorId, u64, Bytes)>>,
    snapshots: Mutex<Vec<Snapshot>>,
    joins: Mutex<Vec<Bytes>>,
    on_snapshot: OnSnapshot,
}

impl Recorder {
    fn new() -> Arc<Recorder> {
        Recorder::with(OnSnapshot::Take)
    }

    fn with(on_snapshot: OnSnapshot) -> Arc<Recorder> {
        Arc::new(Recorder {
            messages: Mutex::default(),
            heartbeats: Mutex::default(),
            snapshots: Mutex::default(),
            joins: Mutex::default(),
            on_snapshot,
        })
    }
}

/// The inbound side of a recorder: a request is answered with `re: ` before it, `never` never.
struct Ears(Arc<Recorder>);

impl Inbound for Ears {
    fn message(&self, from: DirectorId, lane: Lane, message: Bytes) {
        self.0.messages.lock().push((from, lane, message));
    }

    fn request(&self, from: DirectorId, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            if request == "never" {
                std::future::pending::<()>().await;
            }
            let mut answer = format!("re {from}: ").into_bytes();
            answer.extend_from_slice(&request);
            answer.into()
        }
        .boxed()
    }

    fn snapshot(
        &self,
        from: DirectorId,
        header: Bytes,
        mut reader: SnapshotReader,
    ) -> BoxFuture<'static, Result<(), String>> {
        let recorder = self.0.clone();
        async move {
            if recorder.on_snapshot == OnSnapshot::Refuse {
                return Err("no room for it".to_owned());
            }
            let mut all = Vec::new();
            let result = loop {
                match reader.next().await {
                    Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                    Ok(None) => break Ok(all),
                    Err(error) => break Err(error.to_string()),
                }
            };
            let outcome = result.as_ref().map(|_| ()).map_err(String::clone);
            recorder.snapshots.lock().push((from, header, result));
            outcome
        }
        .boxed()
    }

    fn join(&self, _from: SocketAddr, request: Bytes) -> BoxFuture<'static, Bytes> {
        self.0.joins.lock().push(request.clone());
        async move { Bytes::from([b"welcome ".as_slice(), &request].concat()) }.boxed()
    }

    fn heartbeat(&self, from: DirectorId, incarnation: u64, payload: Bytes) {
        self.0.heartbeats.lock().push((from, incarnation, payload));
    }
}

/// A network, its recorder, and how others know it.
struct Node {
    network: Network,
    recorder: Arc<Recorder>,
    info: PeerInfo,
}

impl Node {
    fn start(identity: Identity) -> Node {
        Node::start_with(identity, LOOPBACK, Recorder::new(), |_| {})
    }

    fn start_with(
        identity: Identity,
        listen: SocketAddr,
        recorder: Arc<Recorder>,
        adjust: impl FnOnce(&mut NetworkConfig),
    ) -> Node {
        let (director, key_fingerprint) = (identity.director(), identity.fingerprint());
        let mut config = NetworkConfig::new(listen, identity);
        config.incarnation = 1;
        adjust(&mut config);
        let incarnation = config.incarnation;
        let network = Network::bind(config, Arc::new(Ears(recorder.clone()))).unwrap();
        let info = PeerInfo {
            id: director,
            name: format!("d{director}"),
            address: network.local_addr().unwrap(),
            key_fingerprint,
            incarnation,
            down: false,
        };
        Node { network, recorder, info }
    }

    fn connected_to(&self, other: u32) -> bool {
        self.network.liveness().iter().any(|peer| peer.id == id(other) && peer.connected)
    }

    fn error_to(&self, other: u32) -> String {
        let all = self.network.liveness();
        all.iter().find(|p| p.id == id(other)).and_then(|p| p.error.clone()).unwrap_or_default()
    }

    fn failures(&self, reason: HandshakeFailure) -> u64 {
        self.network.metrics().handshake_failures(reason)
    }

    fn heard_from(&self, other: u32) -> usize {
        self.recorder.heartbeats.lock().iter().filter(|(from, ..)| *from == id(other)).count()
    }
}

/// Introduces all nodes to each other.
fn introduce(nodes: &[&Node]) {
    let infos: Vec<PeerInfo> = nodes.iter().map(|node| node.info.clone()).collect();
    nodes.iter().for_each(|node| node.network.set_members(&infos));
}

/// `count` nodes that are connected, numbered from 1.
async fn connected(count: u32) -> (Paper, Vec<Node>) {
    let paper = Paper::new();
    let nodes: Vec<Node> = (1..=count).map(|n| Node::start(paper.identity(n))).collect();
    introduce(&nodes.iter().collect::<Vec<_>>());
    all_connected(&nodes.iter().collect::<Vec<_>>()).await;
    (paper, nodes)
}

async fn all_connected(nodes: &[&Node]) {
    until("all connections", || {
        nodes.iter().all(|node| {
            nodes.iter().all(|to| to.info.id == node.info.id || node.connected_to(to.info.id.0))
        })
    })
    .await;
}
