//! A network in memory: several stores in one process, for tests and benchmarks. Links can be cut.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_schema::cluster::DirectorId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::StoreError;
use crate::codec::disk::Identity;
use crate::liveness::{Committed, Judgement, Liveness, Timing};
use crate::peer::{Lane, PeerInfo, PeerLiveness};
use crate::pki::JoinToken;
use crate::transport::{Connector, Receiver, Transport};

/// Messages that may be on their way between two directors.
const IN_FLIGHT: usize = 16_384;
/// How often directors hear each other.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// The network. Clones are the same one.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    nodes: Mutex<HashMap<DirectorId, Arc<Node>>>,
    cut: Mutex<HashSet<(DirectorId, DirectorId)>>,
    loss_percent: AtomicU8,
}

struct Node {
    id: DirectorId,
    listen: SocketAddr,
    receiver: Arc<dyn Receiver>,
    liveness: Mutex<Liveness>,
    incarnation: AtomicU64,
    sequence: AtomicU64,
    members: Mutex<HashSet<DirectorId>>,
    numbers_given: AtomicU32,
    queues: Mutex<HashMap<(DirectorId, Lane), mpsc::Sender<Bytes>>>,
    closed: AtomicBool,
    started: Instant,
    /// Senders are plain threads as well.
    runtime: tokio::runtime::Handle,
}

impl Node {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

impl MemoryNetwork {
    /// A network without anybody.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// Nothing passes between these two any more.
    pub fn cut(&self, a: DirectorId, b: DirectorId) {
        self.inner.cut.lock().extend([(a, b), (b, a)]);
    }

    /// Nothing passes between this one and anybody.
    pub fn isolate(&self, alone: DirectorId) {
        let others: Vec<DirectorId> = self.inner.nodes.lock().keys().copied().collect();
        others.into_iter().filter(|o| *o != alone).for_each(|o| self.cut(alone, o));
    }

    /// From now on, so many messages in a hundred are lost.
    pub fn lose(&self, percent: u8) {
        self.inner.loss_percent.store(percent, Ordering::Relaxed);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.inner.cut.lock().clear();
        self.lose(0);
    }
}

impl Inner {
    /// The other end, if a message gets there.
    fn reach(&self, from: &Node, to: DirectorId) -> Option<Arc<Node>> {
        if from.closed.load(Ordering::Relaxed) || self.cut.lock().contains(&(from.id, to)) {
            return None;
        }
        let node = self.nodes.lock().get(&to).cloned()?;
        let mutual = from.members.lock().contains(&to) && node.members.lock().contains(&from.id);
        (mutual && !node.closed.load(Ordering::Relaxed)).then_some(node)
    }
}

impl Inner {
    /// Whom this node calls its peer although it was removed there.
    fn removed_by(&self, node: &Node) -> Option<DirectorId> {
        let members: Vec<DirectorId> = node.members.lock().iter().copied().collect();
        members.into_iter().find(|to| {
            let peer = self.nodes.lock().get(to).cloned();
            let cut = self.cut.lock().contains(&(node.id, *to));
            peer.is_some_and(|peer| {
                !cut && !peer.closed.load(Ordering::Relaxed)
                    && node.id.0 < peer.numbers_given.load(Ordering::Relaxed)
                    && !peer.members.lock().contains(&node.id)
            })
        })
    }
}

impl Connector for MemoryNetwork {
    fn bind(
        &self,
        listen: SocketAddr,
        identity: &Identity,
        receiver: Arc<dyn Receiver>,
    ) -> Result<Arc<dyn Transport>, StoreError> {
        let id = identity.director;
        let node = Arc::new(Node {
            id,
            listen,
            receiver,
            liveness: Mutex::new(Liveness::new(id, Timing::default(), 0)),
            incarnation: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            members: Mutex::default(),
            numbers_given: AtomicU32::new(0),
            queues: Mutex::default(),
            closed: AtomicBool::new(false),
            started: Instant::now(),
            runtime: tokio::runtime::Handle::current(),
        });
        self.inner.nodes.lock().insert(id, node.clone());
        tokio::spawn(beat(Arc::downgrade(&self.inner), Arc::downgrade(&node)));
        Ok(Arc::new(MemoryTransport { inner: self.inner.clone(), node }))
    }

    fn ask_to_join(
        &self,
        token: JoinToken,
        body: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let nodes: Vec<Arc<Node>> = self.inner.nodes.lock().values().cloned().collect();
        let node = nodes
            .into_iter()
            .find(|n| token.addresses.contains(&n.listen) && !n.closed.load(Ordering::Relaxed));
        Box::pin(async move {
            match node {
                Some(node) => Ok(node.receiver.join(body).await),
                None => Err("nobody answers there".to_owned()),
            }
        })
    }
}

/// Lets everybody who can be reached hear this node.
async fn beat(inner: Weak<Inner>, node: Weak<Node>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let (Some(inner), Some(node)) = (inner.upgrade(), node.upgrade()) else { return };
        if node.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Some(by) = inner.removed_by(&node) {
            node.receiver.removed(by);
        }
        let now_ms = node.now_ms();
        node.liveness.lock().advance(now_ms);
        let incarnation = node.incarnation.load(Ordering::Relaxed);
        if incarnation == 0 {
            continue;
        }
        let views = node.liveness.lock().views(now_ms);
        let sequence = node.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let members: Vec<DirectorId> = node.members.lock().iter().copied().collect();
        for peer in members.into_iter().filter_map(|m| inner.reach(&node, m)) {
            let at = peer.now_ms();
            peer.liveness.lock().heard(at, node.id, incarnation, sequence, &views);
        }
    }
}

struct MemoryTransport {
    inner: Arc<Inner>,
    node: Arc<Node>,
}

impl Transport for MemoryTransport {
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        let Some(peer) = self.inner.reach(&self.node, to) else { return };
        if rand::random::<u8>() % 100 < self.inner.loss_percent.load(Ordering::Relaxed) {
            return;
        }
        let from = self.node.id;
        let mut queues = self.node.queues.lock();
        let queue = queues.entry((to, lane)).or_insert_with(|| deliver(from, peer.clone()));
        // Best effort: a full queue loses messages.
        if let Err(mpsc::error::TrySendError::Closed(message)) = queue.try_send(message) {
            *queue = deliver(from, peer);
            let _ = queue.try_send(message);
        }
    }

    fn crowded(&self, to: DirectorId, lane: Lane) -> bool {
        let queues = self.node.queues.lock();
        queues.get(&(to, lane)).is_some_and(|q| q.capacity() < q.max_capacity() / 8 * 7)
    }

    fn request(
        &self,
        to: DirectorId,
        _lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let peer = self.inner.reach(&self.node, to);
        let from = self.node.id;
        Box::pin(async move {
            let peer = peer.ok_or("not connected")?;
            let answer = tokio::time::timeout(deadline, peer.receiver.request(from, body)).await;
            answer.map_err(|_| "no answer in time".to_owned())
        })
    }

    fn send_snapshot(
        &self,
        to: DirectorId,
        header: Bytes,
        image: Bytes,
    ) -> BoxFuture<'static, Result<(), String>> {
        let peer = self.inner.reach(&self.node, to);
        let from = self.node.id;
        Box::pin(async move { peer.ok_or("not connected")?.receiver.snapshot(from, header, image) })
    }

    fn set_members(&self, members: &[PeerInfo]) {
        let node = &self.node;
        *node.members.lock() = members.iter().map(|m| m.id).filter(|id| *id != node.id).collect();
        let now_ms = node.now_ms();
        node.liveness.lock().set_members(now_ms, members.iter().map(Committed::from));
    }

    fn set_numbers_given(&self, below: DirectorId) {
        self.node.numbers_given.store(below.0, Ordering::Relaxed);
    }

    fn set_incarnation(&self, incarnation: u64) {
        self.node.incarnation.store(incarnation, Ordering::Relaxed);
    }

    fn liveness(&self) -> Vec<PeerLiveness> {
        let node = &self.node;
        let now_ms = node.now_ms();
        let members: Vec<DirectorId> = node.members.lock().iter().copied().collect();
        let liveness = node.liveness.lock();
        let one = |id: DirectorId| {
            let heard = liveness.last_heard(now_ms, id);
            PeerLiveness {
                id,
                name: String::new(),
                incarnation: heard.map_or(0, |(_, incarnation)| incarnation),
                heard_ms_ago: heard.map(|(ms, _)| ms),
                rtt_us: None,
                connected: heard.is_some(),
                error: None,
            }
        };
        members.into_iter().map(one).collect()
    }

    fn judge(&self) -> Vec<Judgement> {
        self.node.liveness.lock().judge(self.node.now_ms())
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.node.closed.store(true, Ordering::Relaxed);
        self.node.queues.lock().clear();
        Box::pin(std::future::ready(()))
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.node.closed.store(true, Ordering::Relaxed);
    }
}

fn deliver(from: DirectorId, peer: Arc<Node>) -> mpsc::Sender<Bytes> {
    let (queue, mut arriving) = mpsc::channel::<Bytes>(IN_FLIGHT);
    let runtime = peer.runtime.clone();
    runtime.spawn(async move {
        while let Some(message) = arriving.recv().await {
            if peer.closed.load(Ordering::Relaxed) {
                return;
            }
            peer.receiver.message(from, message);
        }
    });
    queue
}
