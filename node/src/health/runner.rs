//! Checks all backends of the configuration, each at its own rhythm, a bounded number at a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::{BackendId, ClusterState};
use holdfast_schema::config::HealthSpec;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::aggregate::HealthReport;
use super::check::check;
use super::judge::Judge;

/// How many checks may be under way.
const CONCURRENT: usize = 128;

/// What this director knows of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalHealth {
    /// Its judgement; none: not checked yet.
    pub healthy: Option<bool>,
    /// Why the last check failed.
    pub reason: Option<String>,
}

#[derive(Clone, PartialEq)]
struct Target {
    address: SocketAddr,
    health: HealthSpec,
}

struct Checked {
    target: Target,
    task: AbortHandle,
    judge: Judge,
    reason: Option<String>,
}

/// The checks of this director.
pub struct Runner {
    backends: Mutex<BTreeMap<BackendId, Checked>>,
    permits: Semaphore,
    /// Notified when a judgement changes.
    pub changed: Notify,
}

impl Runner {
    /// Without backends.
    pub fn new() -> Arc<Runner> {
        let backends = Mutex::default();
        Arc::new(Runner { backends, permits: Semaphore::new(CONCURRENT), changed: Notify::new() })
    }

    /// Checks exactly the backends of this configuration. Must be called within a tokio runtime.
    pub fn configure(self: &Arc<Self>, cluster: &ClusterState) {
        let mut wanted = BTreeMap::new();
        for group in cluster.groups.values() {
            for backend in group.backends.values() {
                let health = group.spec.health.clone();
                wanted.insert(backend.id, Target { address: backend.spec.address, health });
            }
        }
        let mut backends = self.backends.lock();
        backends.retain(|id, checked| {
            let stays = wanted.contains_key(id);
            if !stays {
                checked.task.abort();
            }
            stays
        });
        for (id, target) in wanted {
            // A change of the check's parameters starts it anew but keeps the judgement.
            let judge = match backends.get(&id) {
                Some(checked) if checked.target == target => continue,
                Some(checked) => {
                    checked.task.abort();
                    checked.judge.clone()
                }
                None => Judge::default(),
            };
            let task = tokio::spawn(self.clone().follow(id, target.clone())).abort_handle();
            backends.insert(id, Checked { target, task, judge, reason: None });
        }
    }

    async fn follow(self: Arc<Self>, id: BackendId, target: Target) {
        let interval = u64::from(target.health.interval_ms.max(10));
        let timeout = Duration::from_millis(u64::from(target.health.timeout_ms.max(1)));
        // The first check is soon, the others are spread so that directors do not knock in step.
        let mut pause_ms = rand::rng().random_range(0..20);
        loop {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = interval * rand::rng().random_range(90..=110) / 100;
            let Ok(_permit) = self.permits.acquire().await else { return };
            let result = check(&target.health.check, target.address, timeout).await;
            let mut backends = self.backends.lock();
            let Some(checked) = backends.get_mut(&id) else { return };
            checked.reason = result.as_ref().err().cloned();
            if checked.judge.record(result.is_ok(), target.health.rise, target.health.fall) {
                tracing::info!(
                    backend = %target.address,
                    healthy = result.is_ok(),
                    reason = checked.reason.as_deref().unwrap_or(""),
                    "backend judged by this director"
                );
                self.changed.notify_one();
            }
        }
    }

    /// What this director thinks of every backend it checks.
    pub fn local(&self) -> BTreeMap<BackendId, LocalHealth> {
        let backends = self.backends.lock();
        let local =
            |c: &Checked| LocalHealth { healthy: c.judge.healthy(), reason: c.reason.clone() };
        backends.iter().map(|(id, c)| (*id, local(c))).collect()
    }

    /// The judgements to report.
    pub fn report(&self) -> HealthReport {
        let backends = self.backends.lock();
        let judged = backends.iter().filter_map(|(id, c)| Some((*id, c.judge.healthy()?)));
        HealthReport { healthy: judged.collect() }
    }

    /// How many backends have not been checked once.
    pub fn unchecked(&self) -> usize {
        self.backends.lock().values().filter(|c| c.judge.healthy().is_none()).count()
    }
}
