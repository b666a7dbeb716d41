//! Puts the parts together, runs them, and takes them down in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_schema::config::NodeSpec;
use holdfast_state_store::{Phase, Store, StoreConfig};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::announce::shell::Announcer;
use crate::bird::BirdWatch;
use crate::clock::{mono_ms, mono_ns};
use crate::control::Heartbeat;
use crate::essential::Essential;
use crate::forward::{self, Forwarder};
use crate::guard::child::{Guard, default_program};
use crate::health::service::{self as health, Health};
use crate::netlink::Netlink;
use crate::node::{Announced, Node, NodeCounters};
use crate::peers::{Inbox, Summaries};
use crate::sessions::misses::Misses;
use crate::sessions::{sweep, young};
use crate::{
    admin, caution, control, metrics, netlink, planned, quarantine, readiness, remembered, summary,
    tables,
};

/// How long packets on the way are still forwarded after the withdrawal.
const LINGER: Duration = Duration::from_millis(300);

/// How long replicating the rest may take.
const REPLICATION: Duration = Duration::from_secs(1);

/// How long the withdrawal may take to reach BIRD.
const WITHDRAWAL: Duration = Duration::from_secs(2);

/// Runs the daemon until it is told to stop.
pub async fn run(spec: NodeSpec, token: Option<String>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let node = prepare(spec).await?;
    let (fail, mut failures) = mpsc::channel::<anyhow::Error>(4);
    let mut running = Running::default();
    // Whatever ends it, also while it still starts or joins: from here on it stops in order, or the
    // next start would find an unclean end.
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(error) = failures.recv() => Err(error),
        Err(error) = serve(&node, token, fail, &mut running) => Err(error),
    };
    stop(&node, running).await;
    ended
}

/// What has been started and has to be ended in order.
#[derive(Default)]
struct Running {
    heart: Option<Heartbeat>,
    /// Whether the admin socket is ours to remove.
    admin: bool,
    announcer: Option<tokio::task::JoinHandle<()>>,
}

/// Starts everything and joins if told to; then all runs by itself, and this never ends.
async fn serve(
    node: &Arc<Node>,
    token: Option<String>,
    fail: mpsc::Sender<anyhow::Error>,
    running: &mut Running,
) -> anyhow::Result<()> {
    start_services(node, &fail, running).await?;
    if let Some(token) = token {
        match node.store.phase() {
            Phase::Waiting => {
                node.store.join(&token).await.context("joining with the token")?;
                tracing::info!("joined the cluster");
            }
            Phase::Member => tracing::info!("a member already: the join token is not used"),
        }
    }
    // Not under a service manager: nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(director = node.spec.id, phase = ?node.store.phase(), "holdfastd runs");
    let announcing = essential(node, "the announcing", &fail);
    let serving = serve_when_member(node.clone(), fail);
    running.announcer = Some(tokio::spawn(async move {
        let _essential = announcing;
        serving.await;
    }));
    std::future::pending().await
}

/// Opens everything that can fail, before anything runs.
async fn prepare(spec: NodeSpec) -> anyhow::Result<Arc<Node>> {
    let netlink = Netlink::open()?;
    let link = netlink.link(&spec.interface).await?;
    let network = netlink::watch::start(netlink.clone(), spec.interface.clone()).await?;
    let tun =
        spec.announce.as_ref().and_then(|a| nix::net::if_::if_nametoindex(a.device.as_str()).ok());
    let except: Vec<u32> = tun.into_iter().collect();
    let connected = netlink.connected(&except).await?;
    tracing::debug!(?link, ?connected, "network");
    let guard = match &spec.announce {
        Some(announce) => {
            let guard =
                Guard::new(&default_program(), &announce.device, u64::from(spec.guard_timeout_ms))
                    .context("memory shared with the guard")?;
            Some(Arc::new(guard))
        }
        None => None,
    };
    let inbox = Arc::new(Inbox::default());
    let mut config =
        StoreConfig::new(spec.data_dir.clone(), spec.id.clone(), spec.peer_address, inbox.clone());
    config.connected = connected;
    config.limits.young_sessions = spec.max_young_sessions as usize;
    let store = Store::open(config)
        .await
        .with_context(|| format!("opening the store in {}", spec.data_dir.display()))?;
    let remembered = match store.phase() {
        Phase::Member => remembered::read(&spec.data_dir).map(Arc::new),
        Phase::Waiting => None,
    };
    let node = Arc::new(Node {
        bird: spec.announce.as_ref().map(|a| BirdWatch::start(a.bird_socket.clone())),
        spec,
        store,
        forwarder: OnceLock::new(),
        guard,
        netlink,
        network,
        health: Health::new(),
        summaries: Summaries::default(),
        announced: Mutex::new(Arc::new(Announced {
            not_ready: vec!["just started".to_owned()],
            stage: "down".to_owned(),
            ..Announced::default()
        })),
        flushes: Mutex::default(),
        rule_problems: Mutex::new(vec!["the kernel's rules have not been read yet".to_owned()]),
        counters: NodeCounters::default(),
        changed_ms: AtomicU64::new(mono_ms()),
        stalled: false.into(),
        leaving: false.into(),
        withdrawing: false.into(),
        stopping: false.into(),
        remembered,
    });
    inbox.connect(node.clone());
    Ok(node)
}

/// What runs whether or not there is a cluster.
async fn start_services(
    node: &Arc<Node>,
    fail: &mpsc::Sender<anyhow::Error>,
    running: &mut Running,
) -> anyhow::Result<()> {
    let runtime_beat = Arc::new(AtomicU64::new(mono_ns()));
    let page = node.guard.as_ref().map(|g| g.page());
    let found = node.clone();
    let stalled = move |gap_ms| control::stalled(&found, gap_ms);
    running.heart = Some(control::start(page, runtime_beat.clone(), stalled)?);
    tokio::spawn(async move {
        loop {
            runtime_beat.store(mono_ns(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let socket = &node.spec.admin_socket;
    let listener = admin::server::bind(socket)
        .with_context(|| format!("admin socket {}", socket.display()))?;
    running.admin = true;
    tokio::spawn(admin::server::run(listener, node.clone()));
    if let Some(address) = node.spec.metrics_address {
        let listener = metrics::server::bind(address)
            .await
            .with_context(|| format!("metrics address {address}"))?;
        tokio::spawn(metrics::server::run(listener, node.clone()));
    }
    essential(node, "the checking of backends", fail).spawn(health::run(node.clone()));
    essential(node, "the telling of summaries", fail).spawn(summary::run(node.clone()));
    essential(node, "the watch over planned changes", fail).spawn(planned::run(node.clone()));
    essential(node, "the quarantine of addresses", fail).spawn(quarantine::run(node.clone()));
    tokio::spawn(remembered::run(node.clone()));
    tokio::spawn(readiness::watch_rules(node.clone()));
    tokio::spawn(watch(node.clone(), fail.clone()));
    Ok(())
}

/// For work that the daemon cannot do without, until it stops.
fn essential(
    node: &Arc<Node>,
    what: &'static str,
    fail: &mpsc::Sender<anyhow::Error>,
) -> Essential {
    let node = node.clone();
    Essential::new(what, move || node.withdrawing.load(Ordering::Relaxed), fail.clone())
}

/// A worker or a replica that ended by itself does not come back, and the others would wait for it
/// as long as this daemon seems alive: better a clean start of the whole daemon.
async fn watch(node: Arc<Node>, fail: mpsc::Sender<anyhow::Error>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let worker = node.forwarder.get().and_then(Forwarder::failure);
        let failure = match worker {
            Some(why) => Some(anyhow::anyhow!("a worker has ended: {why}")),
            None => node.store.failure().map(anyhow::Error::msg),
        };
        if let Some(failure) = failure {
            // The receiver lives as long as the daemon.
            let _ = fail.send(failure).await;
            return;
        }
    }
}

/// Waits for membership, starts the forwarder, announces.
async fn serve_when_member(node: Arc<Node>, fail: mpsc::Sender<anyhow::Error>) {
    if let Err(error) = start_forwarder(&node, &fail).await {
        let _ = fail.send(error).await;
        return;
    }
    Announcer::new(node).run().await;
}

async fn start_forwarder(
    node: &Arc<Node>,
    fail: &mpsc::Sender<anyhow::Error>,
) -> anyhow::Result<()> {
    let mut changed = node.store.cluster();
    let (cluster, me, incarnation) = loop {
        let incarnation = node.store.incarnation();
        if let (Some(cluster), Some(me), 1..) = (node.cluster(), node.me(), incarnation) {
            break (cluster, me, incarnation);
        }
        if node.withdrawing.load(Ordering::Relaxed) {
            bail!("stopped before it was a member");
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    };
    let work = node.clone();
    let started = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let node = work;
        let spec = &node.spec;
        let sessions = forward::session_table(spec, me, incarnation);
        sessions.tick(mono_ms());
        sessions.set_cluster(&cluster.bucket_key, &cluster.shards);
        let hops = node.network.borrow().hops.clone();
        let first = tables::build(&cluster, me, &node.health.view(true), &hops, None);
        // The cluster may know of an earlier start only.
        first.ports().set_incarnation(incarnation);
        let beats = match &node.guard {
            Some(guard) => (1..=usize::from(spec.workers)).map(|n| guard.page().beat(n)).collect(),
            None => Vec::new(),
        };
        let forwarder =
            Forwarder::start(spec, (me, incarnation), sessions.clone(), Arc::new(first), beats)
                .with_context(|| format!("starting the packet forwarder on {}", spec.interface))?;
        if let (_, Some(reason)) = forwarder.mode() {
            tracing::warn!(reason, "XDP runs in SKB mode, which is slower");
        }
        if node.forwarder.set(forwarder).is_err() {
            bail!("the packet forwarder was started twice");
        }
        node.store.attach_sink(sessions);
        Ok(())
    });
    started.await??;
    tracing::info!(%me, incarnation, interface = node.spec.interface, "the packet forwarder runs");
    essential(node, "the building of tables", fail).spawn(tables::run(node.clone()));
    essential(node, "the caution after changes", fail).spawn(caution::run(node.clone()));
    let (swept, walking) = (node.clone(), essential(node, "the walk over the sessions", fail));
    std::thread::Builder::new().name("hf-sweep".to_owned()).spawn(move || {
        let _essential = walking;
        sweep::run(&swept);
    })?;
    let (told, telling) = (node.clone(), essential(node, "the telling of new sessions", fail));
    let misses = Misses::new(node.clone());
    std::thread::Builder::new().name("hf-young".to_owned()).spawn(move || {
        let _essential = telling;
        young::run(&told, &misses);
    })?;
    Ok(())
}

/// Gives the others what only this director knows. A quorum that is missing may come: when directors are
/// restarted one after the other, shards elect leaders.
async fn replicate_all(node: &Node) {
    node.leaving.store(true, Ordering::Release);
    let Some(forwarder) = node.forwarder.get() else { return };
    if node.live_others().is_empty() {
        return;
    }
    let since_ms = mono_ms();
    let deadline = tokio::time::Instant::now() + REPLICATION;
    loop {
        // Each look is a walk over the whole table.
        let table = forwarder.sessions().clone();
        let look = tokio::task::spawn_blocking(move || table.unreplicated_before(since_ms));
        match look.await {
            Ok(0) => break,
            Ok(left) if tokio::time::Instant::now() >= deadline => {
                tracing::warn!(
                    left,
                    "sessions that only this director knew could not be replicated"
                );
                return;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "it is not known which sessions only this director knew");
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Of two directors one votes alone: what it has committed is nowhere else until the other one
    // has applied it.
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    if let Err(error) = node.store.applied_everywhere(left).await {
        tracing::warn!(%error, "the others may not have all that this director knew");
    }
}

/// Withdraws, lets packets on the way pass, leaves a clean mark, lets go of the guard.
///
/// The others are told all before the traffic moves to them, and once more when it has: connections begin
/// here until the router has noticed.
async fn stop(node: &Arc<Node>, running: Running) {
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    replicate_all(node).await;
    node.withdrawing.store(true, Ordering::Release);
    // The announcer's last act is the withdrawal. It must not hold up the end for ever.
    if let Some(announcer) = running.announcer {
        let _ = tokio::time::timeout(WITHDRAWAL, announcer).await;
    }
    if let Some(guard) = &node.guard {
        guard.command_release();
    }
    if node.forwarder.get().is_some() {
        tokio::time::sleep(LINGER).await;
        replicate_all(node).await;
    }
    node.stopping.store(true, Ordering::Release);
    // The XDP program goes with the process, the last thing of all.
    node.store.clone().shutdown().await;
    if let Some(heart) = running.heart {
        let _ = tokio::task::spawn_blocking(move || heart.end()).await;
    }
    if running.admin {
        // The socket of a daemon that is gone would only confuse.
        let _ = std::fs::remove_file(&node.spec.admin_socket);
    }
    tracing::info!("stopped");
}
