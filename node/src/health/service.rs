//! Exchanges health reports and versions with the other directors.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::{BackendId, ClusterState, DirectorId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::aggregate::{Aggregator, HealthReport, HealthVersion};
use super::runner::Runner;
use crate::clock::mono_ms;
use crate::node::Node;
use crate::peers::Message;

/// How often reports and versions are repeated although nothing changed: messages can be lost.
const REPEAT: Duration = Duration::from_secs(1);

/// How often the leader looks whether there is a new version to make.
const TICK: Duration = Duration::from_millis(100);

/// A VIP without a healthy backend in this director's own eyes is withdrawn after this time (ms).
const UNSERVED_MS: u64 = 3_000;

/// Health of backends on this director.
pub struct Health {
    /// This director's own checks.
    pub runner: Arc<Runner>,
    aggregator: Mutex<Aggregator>,
    version: watch::Sender<Arc<HealthVersion>>,
    unserved: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Health {
    /// Nothing is known.
    pub fn new() -> Health {
        Health {
            runner: Runner::new(),
            aggregator: Mutex::default(),
            version: watch::Sender::new(Arc::default()),
            unserved: Mutex::default(),
        }
    }

    /// Takes another director's report.
    pub fn received(&self, from: DirectorId, report: HealthReport) {
        self.aggregator.lock().report(from, report, mono_ms());
    }

    /// Takes a leader's version; an older one than ours is ignored.
    pub fn apply(&self, version: HealthVersion) {
        self.version.send_if_modified(|current| {
            let newer = version.version > current.version;
            if newer {
                *current = Arc::new(version);
            }
            newer
        });
    }

    /// The latest version.
    pub fn subscribe(&self) -> watch::Receiver<Arc<HealthVersion>> {
        self.version.subscribe()
    }

    /// The latest version.
    pub fn current(&self) -> Arc<HealthVersion> {
        self.version.borrow().clone()
    }

    /// Whether each backend is healthy, for the forwarding tables. Without a leader, backends that
    /// no leader has judged are taken as this director itself finds them.
    pub fn view(&self, leaderless: bool) -> (u64, BTreeMap<BackendId, bool>) {
        let version = self.current();
        let mut healthy = version.healthy.clone();
        if leaderless {
            for (id, local) in self.runner.local() {
                if let Some(judged) = local.healthy {
                    healthy.entry(id).or_insert(judged);
                }
            }
        }
        (version.version, healthy)
    }

    /// The VIPs that this director's own checks find a healthy backend for.
    pub fn healthy_vips(&self, cluster: &ClusterState) -> BTreeSet<IpAddr> {
        let local = self.runner.local();
        let up = |group: &str| {
            cluster.groups.get(group).is_some_and(|g| {
                g.backends
                    .values()
                    .any(|b| local.get(&b.id).is_some_and(|h| h.healthy == Some(true)))
            })
        };
        let listeners = cluster.listeners.values();
        listeners.filter(|l| up(&l.spec.group)).map(|l| l.spec.vip).collect()
    }

    /// The VIPs that this director should not announce: it has reached none of their backends for a
    /// while, and another ready director does.
    pub fn withheld(&self, node: &Node, cluster: &ClusterState) -> BTreeSet<IpAddr> {
        let now_ms = mono_ms();
        let served = self.healthy_vips(cluster);
        let mut unserved = self.unserved.lock();
        let vips = cluster.vips();
        unserved.retain(|vip, _| vips.contains(vip) && !served.contains(vip));
        for vip in vips {
            if !served.contains(&vip) {
                unserved.entry(vip).or_insert(now_ms);
            }
        }
        let long = unserved.iter().filter(|(_, since)| now_ms >= **since + UNSERVED_MS);
        long.map(|(vip, _)| *vip).filter(|vip| node.summaries.somebody_serves(*vip)).collect()
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

/// Reports, aggregates and repeats for ever.
pub async fn run(node: Arc<Node>) {
    let mut cluster = node.store.cluster();
    let health = &node.health;
    let mut next_repeat = Instant::now();
    let mut configured: Option<Arc<ClusterState>> = None;
    loop {
        let changed = tokio::select! {
            () = health.runner.changed.notified() => true,
            _ = cluster.changed() => false,
            () = tokio::time::sleep(TICK) => false,
        };
        let Some(state) = node.cluster() else { continue };
        if configured.as_ref().is_none_or(|c| !Arc::ptr_eq(c, &state)) {
            health.runner.configure(&state);
            configured = Some(state.clone());
        }
        let Some(me) = node.me() else { continue };
        let repeat = Instant::now() >= next_repeat;
        if repeat {
            next_repeat = Instant::now() + REPEAT;
        }
        if changed || repeat {
            let report = health.runner.report();
            health.received(me, report.clone());
            say(&node, &Message::HealthReport(report));
        }
        if let Some(term) = node.control_term() {
            let backends: BTreeSet<BackendId> =
                state.groups.values().flat_map(|g| g.backends.values().map(|b| b.id)).collect();
            let live = state.members.values().filter(|m| !m.down).map(|m| m.id).collect();
            let current = health.current();
            let next = health.aggregator.lock().next(term, &current, &backends, &live, mono_ms());
            if let Some(next) = next {
                tracing::info!(version = next.version, "new health version");
                health.apply(next.clone());
                say(&node, &Message::HealthVersion(next));
            } else if repeat {
                say(&node, &Message::HealthVersion((*current).clone()));
            }
        }
    }
}

/// Tells all live directors.
pub fn say(node: &Node, message: &Message) {
    match serde_json::to_vec(message) {
        Ok(bytes) => node.store.broadcast(bytes),
        Err(error) => tracing::error!(%error, "a message cannot be written"),
    }
}
