//! The handle to the transport, and what its tasks share.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use holdfast_schema::cluster::DirectorId;
use parking_lot::{Mutex, RwLock};
use quinn::udp::UdpSocketState;
use quinn::{AsyncUdpSocket, Endpoint, Runtime, TokioRuntime};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use super::error::{NetError, close};
use super::link::Peer;
use super::metrics::{NetMetrics, add};
use super::pacer::Pacer;
use super::registry::Registry;
use super::tls::Tls;
use super::wire::MAX_HEARTBEAT_PAYLOAD;
use super::{
    Inbound, Lane, Limits, NetworkConfig, PeerInfo, PeerLiveness, accept, heartbeat, request,
    snapshot, tls,
};
use crate::liveness::{Committed, Judgement, Liveness};
use crate::pki::{ClusterId, Fingerprint, Identity};

/// How long a stop waits for the last packets to leave.
const LINGER: Duration = Duration::from_millis(300);

/// Buffers asked for the socket (bytes).
const SOCKET_BUFFER: usize = 4 << 20;

/// How long a shutdown waits for the socket to be closed.
const CLOSED: Duration = Duration::from_secs(2);

/// Heartbeats that wait for the handler.
const HEARTBEAT_BACKLOG: usize = 1_024;

/// What all tasks of one transport share.
pub(super) struct Shared {
    pub(super) me: DirectorId,
    pub(super) cluster: ClusterId,
    pub(super) limits: Limits,
    /// Gone after a stop: as long as it lives, so does its socket.
    endpoint: RwLock<Option<Endpoint>>,
    pub(super) tls: RwLock<Arc<Tls>>,
    pub(super) handler: Arc<dyn Inbound>,
    pub(super) metrics: Arc<NetMetrics>,
    /// The members but us, with their pinned keys and the tasks that send to them.
    pub(super) peers: RwLock<HashMap<DirectorId, Arc<Peer>>>,
    pub(super) registry: Registry,
    pub(super) liveness: Mutex<Liveness>,
    pub(super) incarnation: AtomicU64,
    /// Director numbers below this have been given out.
    numbers_given: AtomicU32,
    /// A peer has said that we were removed.
    gone: AtomicBool,
    pub(super) payload: Mutex<Bytes>,
    /// Heartbeats on their way to the handler.
    pub(super) heard: mpsc::Sender<(DirectorId, u64, Bytes)>,
    pub(super) snapshots_out: Semaphore,
    pub(super) snapshots_in: Semaphore,
    pub(super) snapshot_pacer: Mutex<Pacer>,
    pub(super) join_pacer: Mutex<Pacer>,
    pub(super) joins: Semaphore,
    /// The runtime that the handler is called on.
    pub(super) main: Handle,
    /// The runtime of the thread `hf-peers`.
    pub(super) own: Handle,
    pub(super) stopping: watch::Sender<bool>,
    started: Instant,
}

impl Shared {
    /// The endpoint, unless the transport has been stopped.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.read().clone()
    }

    /// Monotonic time since the start.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now().as_millis() as u64
    }

    pub(super) fn peer(&self, id: DirectorId) -> Result<Arc<Peer>, NetError> {
        self.peers.read().get(&id).cloned().ok_or(NetError::UnknownPeer(id))
    }

    /// The key pinned for a member.
    pub(super) fn pinned(&self, id: DirectorId) -> Option<Fingerprint> {
        self.peers.read().get(&id).map(|peer| peer.info.key_fingerprint)
    }

    fn given(&self, id: DirectorId) -> bool {
        id.0 < self.numbers_given.load(Ordering::Acquire)
    }

    /// Whether this director was a member and is none any more.
    pub(super) fn was_removed(&self, id: DirectorId) -> bool {
        self.given(id) && self.pinned(id).is_none()
    }

    /// A peer says that we were removed from the cluster. The handler hears it once.
    pub(super) fn told_gone(&self, by: DirectorId) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            let handler = self.handler.clone();
            self.main.spawn(async move { handler.removed(by) });
        }
    }

    /// Runs `task` on `on` until it ends or the transport stops.
    pub(super) fn spawn(
        self: &Arc<Self>,
        on: &Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let mut stopping = self.stopping.subscribe();
        on.spawn(async move {
            tokio::select! {
                () = task => {}
                // An error means that the transport is gone, which is a stop as well.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        })
        .abort_handle()
    }
}

/// The transport of one director. Clones are handles to the same; it stops with the last one, or by
/// [`Network::shutdown`].
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    stop: Arc<StopOnDrop>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

/// Stops the thread `hf-peers` when the last handle goes.
struct StopOnDrop {
    shared: Arc<Shared>,
    address: Option<SocketAddr>,
    socket: Weak<dyn AsyncUdpSocket>,
}

impl StopOnDrop {
    fn stop(&self) {
        let shared = &self.shared;
        if let Some(endpoint) = shared.endpoint.write().take() {
            endpoint.close(close::SHUTDOWN, b"the director stops");
        }
        shared.stopping.send_replace(true);
        // Connections that are still held keep the socket open.
        shared.peers.write().clear();
        shared.registry.close_where(|_| true, close::SHUTDOWN, "the director stops");
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Network {
    /// Opens the socket and begins to accept. To be called on a tokio runtime: that is where
    /// `handler` is called. Peers come with [`Network::set_members`].
    pub fn bind(config: NetworkConfig, handler: Arc<dyn Inbound>) -> Result<Network, NetError> {
        let listen = config.listen;
        let failed =
            |cause: &dyn std::fmt::Display| NetError::Bind { listen, cause: cause.to_string() };
        let main = Handle::try_current().map_err(|e| failed(&e))?;
        let tls = Tls::new(&config.identity)?;
        let socket = UdpSocket::bind(listen).map_err(|e| failed(&e))?;
        // More is better while a snapshot comes in; the kernel gives what it allows
        // (net.core.rmem_max), and that is not a reason to fail.
        if let Ok(state) = UdpSocketState::new((&socket).into()) {
            let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER);
            let _ = state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed(&e))?;
        let watched;
        let endpoint = {
            // Where the endpoint is made is where the socket is read.
            let _inside = runtime.enter();
            let server = Some(tls.server.clone());
            let settings = tls::endpoint(&config.identity);
            let socket = TokioRuntime.wrap_udp_socket(socket).map_err(|e| failed(&e))?;
            watched = Arc::downgrade(&socket);
            Endpoint::new_with_abstract_socket(settings, server, socket, Arc::new(TokioRuntime))
                .map_err(|e| failed(&e))?
        };
        let (heard, mut hear) = mpsc::channel(HEARTBEAT_BACKLOG);
        let limits = config.limits;
        let me = config.identity.director();
        let (stopping, mut stop) = watch::channel(false);
        let shared = Arc::new(Shared {
            me,
            cluster: config.identity.cluster(),
            limits,
            endpoint: RwLock::new(Some(endpoint.clone())),
            tls: RwLock::new(Arc::new(tls)),
            handler,
            metrics: Arc::default(),
            peers: RwLock::default(),
            registry: Registry::default(),
            liveness: Mutex::new(Liveness::new(me, config.timing, 0)),
            incarnation: AtomicU64::new(config.incarnation),
            numbers_given: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            payload: Mutex::default(),
            heard,
            snapshots_out: Semaphore::new(limits.snapshots_out),
            snapshots_in: Semaphore::new(limits.snapshots_in),
            snapshot_pacer: Mutex::new(Pacer::new(
                limits.snapshot_bytes_per_s,
                // A tenth of a second's worth.
                limits.snapshot_bytes_per_s / 10,
            )),
            join_pacer: Mutex::new(Pacer::new(
                limits.joins_per_s.into(),
                limits.joins_per_s.into(),
            )),
            joins: Semaphore::new(limits.joins_at_once),
            main: main.clone(),
            own: runtime.handle().clone(),
            stopping,
            started: Instant::now(),
        });
        shared.spawn(&shared.own, accept::run(shared.clone(), endpoint.clone()));
        shared.spawn(&shared.own, heartbeat::run(shared.clone()));
        shared.spawn(&main, {
            let handler = shared.handler.clone();
            async move {
                while let Some((from, incarnation, payload)) = hear.recv().await {
                    handler.heartbeat(from, incarnation, payload);
                }
            }
        });
        let address = endpoint.local_addr().ok();
        std::thread::Builder::new()
            .name("hf-peers".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let _ = stop.wait_for(|stop| *stop).await;
                    // Lets the farewell of each connection leave.
                    let _ = tokio::time::timeout(LINGER, endpoint.wait_idle()).await;
                });
            })
            .map_err(|e| failed(&e))?;
        let stop = Arc::new(StopOnDrop { shared: shared.clone(), address, socket: watched });
        Ok(Network { shared, stop })
    }

    /// Where it listens (the port, if it was asked to choose one).
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.stop.address
    }

    /// Takes over the member list (our own entry may be in it). New members are dialled; removed
    /// ones, and those whose key changed, are cut off before this returns.
    pub fn set_members(&self, members: &[PeerInfo]) {
        let shared = &self.shared;
        let now_ms = shared.now_ms();
        shared.liveness.lock().set_members(now_ms, members.iter().map(Committed::from));
        let wanted: HashMap<DirectorId, &PeerInfo> =
            members.iter().filter(|m| m.id != shared.me).map(|m| (m.id, m)).collect();
        let mut peers = shared.peers.write();
        peers.retain(|id, peer| {
            let stays = wanted.get(id).is_some_and(|new| {
                new.address == peer.info.address && new.key_fingerprint == peer.info.key_fingerprint
            });
            if !stays {
                match wanted.contains_key(id) || !shared.given(*id) {
                    true => peer.stop(close::REMOVED, "the member's address or key changed"),
                    false => peer.stop(close::GONE, "removed from the cluster"),
                }
            }
            stays
        });
        // After a stop began, nothing new is dialled.
        if !*shared.stopping.borrow() {
            for (id, info) in wanted {
                peers.entry(id).or_insert_with(|| Peer::start(shared, info.clone()));
            }
        }
        let pins: HashMap<DirectorId, Fingerprint> =
            peers.iter().map(|(id, peer)| (*id, peer.info.key_fingerprint)).collect();
        drop(peers);
        let gone = |peer| !pins.contains_key(&peer) && shared.given(peer);
        let removed = shared.registry.close_where(
            |entry| gone(entry.peer),
            close::GONE,
            "removed from the cluster",
        );
        let changed = shared.registry.close_where(
            |entry| pins.get(&entry.peer) != Some(&entry.key),
            close::REMOVED,
            "the member's address or key changed",
        );
        add(&shared.metrics.revoked, removed + changed);
    }

    /// Director numbers below this one have been given out: whoever has one and is not in the member
    /// list was removed, and is told so. 0: we are in no position to say that of anybody. To be set after the
    /// member list of the same view: before it, a new member would be told that it was removed.
    pub fn set_numbers_given(&self, below: DirectorId) {
        // Whoever sees this number sees the member list that was set before it.
        self.shared.numbers_given.store(below.0, Ordering::Release);
    }

    /// Our incarnation, once it is committed. Heartbeats begin with the first one above 0.
    pub fn set_incarnation(&self, incarnation: u64) {
        self.shared.incarnation.store(incarnation, Ordering::Relaxed);
    }

    /// What the heartbeats from now on carry (47 kB at the most; more is refused and the previous
    /// payload stays).
    pub fn set_heartbeat_payload(&self, payload: Bytes) -> Result<(), NetError> {
        let (bytes, limit) = (payload.len(), MAX_HEARTBEAT_PAYLOAD);
        if bytes > limit {
            return Err(NetError::TooLarge { what: "a heartbeat's payload", bytes, limit });
        }
        *self.shared.payload.lock() = payload;
        Ok(())
    }

    /// Takes a renewed certificate (same director, cluster and authority). Connections that stand
    /// go on with the old one.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), NetError> {
        if (identity.director(), identity.cluster()) != (self.shared.me, self.shared.cluster) {
            return Err(NetError::Identity("it is of another director or cluster".to_owned()));
        }
        let tls = Tls::new(identity)?;
        if let Some(endpoint) = self.shared.endpoint() {
            endpoint.set_server_config(Some(tls.server.clone()));
        }
        *self.shared.tls.write() = Arc::new(tls);
        Ok(())
    }

    /// Puts a message into the queue of a peer. Never waits. When the queue is full its oldest
    /// message is dropped; a message above [`Limits::max_message`] or to nobody is dropped itself.
    /// All is counted.
    pub fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        let counters = self.shared.metrics.lane(lane.into());
        let peer = self.shared.peers.read().get(&to).cloned();
        let Some(peer) = peer.filter(|_| message.len() <= self.shared.limits.max_message) else {
            tracing::debug!(%to, ?lane, bytes = message.len(), "message cannot be sent");
            add(&counters.dropped_unsendable, 1);
            return;
        };
        add(&counters.dropped_full, peer.link(lane).queue.push(message));
    }

    /// Whether so much waits for a peer that what is not urgent should be held back.
    pub fn crowded(&self, to: DirectorId, lane: Lane) -> bool {
        self.shared.peers.read().get(&to).is_some_and(|peer| peer.link(lane).queue.crowded())
    }

    /// Asks a peer. Waits a moment for a connection if there is none.
    pub async fn request(
        &self,
        to: DirectorId,
        lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, NetError> {
        request::ask(&self.shared, to, lane, body, deadline).await
    }

    /// Sends a snapshot on a connection of its own and returns what the receiver made of it. Chunks
    /// may have any size. Rate and number of snapshots are limited, so this may take long; it fails
    /// when there is no progress for 30 s.
    pub async fn send_snapshot<S>(
        &self,
        to: DirectorId,
        header: Bytes,
        chunks: S,
    ) -> Result<(), NetError>
    where
        S: Stream<Item = Result<Bytes, String>> + Send,
    {
        let result = snapshot::send(&self.shared, to, header, chunks).await;
        let metrics = &self.shared.metrics;
        add(if result.is_ok() { &metrics.snapshots_out } else { &metrics.snapshots_failed }, 1);
        result
    }

    /// Every peer as we see it now, by number.
    pub fn liveness(&self) -> Vec<PeerLiveness> {
        let mut all: Vec<PeerLiveness> = {
            let peers = self.shared.peers.read();
            let liveness = self.shared.liveness.lock();
            let now_ms = self.shared.now_ms();
            let one = |(id, peer): (&DirectorId, &Arc<Peer>)| {
                let connection = peer.link(Lane::Control).connection();
                let heard = liveness.last_heard(now_ms, *id);
                PeerLiveness {
                    id: *id,
                    name: peer.info.name.clone(),
                    incarnation: heard.map_or(0, |(_, incarnation)| incarnation),
                    heard_ms_ago: heard.map(|(age_ms, _)| age_ms),
                    rtt_us: connection.as_ref().map(|c| c.rtt().as_micros() as u64),
                    connected: connection.is_some(),
                    error: peer.link(Lane::Control).error(),
                }
            };
            peers.iter().map(one).collect()
        };
        all.sort_by_key(|peer| peer.id);
        all
    }

    /// Who should be declared down or up, by what the live observers say. For the control leader,
    /// every 100 ms or so; a judgement is repeated while it is not committed (see
    /// [`Network::set_members`]).
    pub fn judge(&self) -> Vec<Judgement> {
        // Time is read under the lock: it must not run backwards between two callers.
        let mut liveness = self.shared.liveness.lock();
        liveness.judge(self.shared.now_ms())
    }

    /// The counters.
    pub fn metrics(&self) -> Arc<NetMetrics> {
        self.shared.metrics.clone()
    }

    /// Says farewell to the peers and stops. The port is free when this returns (unless some call
    /// still holds a connection after two seconds, which is logged).
    pub async fn shutdown(&self) {
        self.stop.stop();
        let closed = async {
            while self.stop.socket.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(CLOSED, closed).await.is_err() {
            tracing::warn!(address = ?self.stop.address, "the peers' socket is still in use");
        }
    }
}
