//! What directors' nodes say to each other, over the store's connections. JSON: these messages are
//! few, and a new field must not break an old peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use holdfast_schema::admin::{DrainStatus, SessionQuery};
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::session::SessionRecord;
use holdfast_state_store::PeerCalls;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::mono_ms;
use crate::health::aggregate::{HealthReport, HealthVersion};
use crate::node::Node;

/// A summary older than this no longer speaks for its director (ms).
pub const SUMMARY_LIFETIME_MS: u64 = 3_000;

/// Best-effort messages to all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// What the sender's checks say.
    HealthReport(HealthReport),
    /// What the control leader judges.
    HealthVersion(HealthVersion),
    /// How the sender is.
    Summary(Box<Summary>),
}

/// How a director is, in its own words.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Its incarnation.
    pub incarnation: u64,
    /// Whether it is ready.
    pub ready: bool,
    /// Why not.
    #[serde(default)]
    pub not_ready: Vec<String>,
    /// What BIRD shows of its VIPs: `announced`, `worse`, `withdrawn`; none: unknown or not configured.
    pub announcement: Option<String>,
    /// Whether it is configured to announce at all.
    pub announces: bool,
    /// Sessions it owns.
    pub owned: u64,
    /// VIPs that its own checks find a healthy backend for.
    #[serde(default)]
    pub healthy_vips: BTreeSet<IpAddr>,
    /// Its configuration revision.
    pub revision: u64,
    /// Its health version.
    pub health_version: u64,
    /// Its table hash.
    pub table_hash: u64,
    /// Whether its replicas have caught up.
    pub caught_up: bool,
}

impl Summary {
    /// Why this director cannot take traffic; none: it is ready, and BIRD really announces it.
    pub fn obstacle(&self) -> Option<String> {
        if !self.ready {
            return Some(format!("not ready ({})", self.not_ready.join(", ")));
        }
        match self.announcement.as_deref() {
            Some("announced") => None,
            Some(other) => Some(format!("its announcement is {other}")),
            None if self.announces => Some("what its BIRD announces is unknown".to_owned()),
            None => Some("it announces nothing (no `[announce]` in its node file)".to_owned()),
        }
    }
}

/// A question to one director.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Have you replicated everything for this planned change?
    Flush {
        /// Its number.
        planned: u64,
    },
    /// The sessions you hold.
    Sessions(SessionQuery),
    /// How many sessions you hold.
    Count(SessionQuery),
    /// How many open sessions use any of these?
    Live(Uses),
    /// How far is your drain?
    Drain,
}

/// Things that sessions use.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Uses {
    /// Listeners.
    #[serde(default)]
    pub listeners: BTreeSet<ListenerId>,
    /// Backends.
    #[serde(default)]
    pub backends: BTreeSet<BackendId>,
    /// LIPs.
    #[serde(default)]
    pub lips: BTreeSet<IpAddr>,
}

impl Uses {
    /// Whether there is nothing to use.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.backends.is_empty() && self.lips.is_empty()
    }

    /// Whether a session uses any of them.
    pub fn concerns(&self, record: &SessionRecord) -> bool {
        self.listeners.contains(&record.listener)
            || self.backends.contains(&record.backend)
            || self.lips.contains(&record.reply.dst.to_ip())
    }
}

/// Its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Whether everything that was here when the planned change began is replicated.
    Flush {
        /// It is.
        flushed: bool,
        /// Sessions that only this director knows now.
        unreplicated: u64,
    },
    /// The sessions.
    Sessions(HeldSessions),
    /// Their number.
    Count(HeldCount),
    /// The drain.
    Drain(DrainStatus),
    /// It does not work.
    Error(String),
}

/// The sessions one director holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeldSessions {
    /// The sessions, and whether the store has acknowledged each.
    pub sessions: Vec<(SessionRecord, bool)>,
    /// Whether the limit cut them.
    pub truncated: bool,
}

/// How many sessions one director holds, by owner and state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeldCount {
    /// Owner, then state, then how many.
    pub by_owner: BTreeMap<DirectorId, BTreeMap<String, u64>>,
}

/// The summaries of the others.
#[derive(Default)]
pub struct Summaries {
    heard: Mutex<BTreeMap<DirectorId, (Arc<Summary>, u64)>>,
}

impl Summaries {
    fn put(&self, from: DirectorId, summary: Summary) {
        self.heard.lock().insert(from, (Arc::new(summary), mono_ms()));
    }

    /// A director's latest words, if they are fresh.
    pub fn get(&self, director: DirectorId) -> Option<Arc<Summary>> {
        let heard = self.heard.lock();
        let (summary, at_ms) = heard.get(&director)?;
        (mono_ms() < at_ms + SUMMARY_LIFETIME_MS).then(|| summary.clone())
    }

    /// Whether a director that is really announced finds healthy backends for this VIP.
    pub fn somebody_serves(&self, vip: IpAddr) -> bool {
        let now_ms = mono_ms();
        let heard = self.heard.lock();
        let fresh = heard.values().filter(|(_, at_ms)| now_ms < at_ms + SUMMARY_LIFETIME_MS);
        fresh.into_iter().any(|(s, _)| s.obstacle().is_none() && s.healthy_vips.contains(&vip))
    }
}

/// Takes what other directors say. Exists before the node does: the store needs it to open.
#[derive(Default)]
pub struct Inbox {
    node: OnceLock<Arc<Node>>,
}

impl Inbox {
    /// From now on there is somebody to answer.
    pub fn connect(&self, node: Arc<Node>) {
        // A second call would be a defect; the first node stays.
        let _ = self.node.set(node);
    }
}

impl PeerCalls for Inbox {
    fn call(&self, _from: DirectorId, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let node = self.node.get().cloned();
        Box::pin(async move {
            let response = match (node, serde_json::from_slice::<Request>(&request)) {
                (None, _) => Response::Error("this director is just starting".to_owned()),
                (_, Err(error)) => {
                    Response::Error(format!("the question is not understood: {error}"))
                }
                (Some(node), Ok(request)) => answer(node, request).await,
            };
            serde_json::to_vec(&response).unwrap_or_default()
        })
    }

    fn message(&self, from: DirectorId, message: Vec<u8>) {
        let Some(node) = self.node.get() else { return };
        match serde_json::from_slice::<Message>(&message) {
            Ok(Message::HealthReport(report)) => node.health.received(from, report),
            Ok(Message::HealthVersion(version)) => node.health.apply(version),
            Ok(Message::Summary(summary)) => node.summaries.put(from, *summary),
            // A newer version's message: not for us.
            Err(error) => tracing::debug!(%from, %error, "message not understood"),
        }
    }
}

async fn answer(node: Arc<Node>, request: Request) -> Response {
    // Walks over the session table take milliseconds: not on a network task.
    let heavy = tokio::task::spawn_blocking(move || match request {
        Request::Flush { planned } => {
            let (flushed, unreplicated) = node.flush_status(planned);
            Response::Flush { flushed, unreplicated }
        }
        Request::Sessions(query) => Response::Sessions(crate::sessions::query::held(&node, &query)),
        Request::Count(query) => Response::Count(crate::sessions::query::count(&node, &query)),
        Request::Live(uses) => Response::Count(crate::sessions::query::live(&node, &uses)),
        Request::Drain => Response::Drain(node.drain_status()),
    });
    heavy.await.unwrap_or_else(|error| Response::Error(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether one director with this announcement counts as serving the VIP.
    fn serves(ready: bool, announcement: Option<&str>) -> bool {
        let vip: IpAddr = "203.0.113.10".parse().unwrap();
        let summaries = Summaries::default();
        let summary = Summary {
            ready,
            announces: true,
            announcement: announcement.map(ToOwned::to_owned),
            healthy_vips: [vip].into(),
            ..Summary::default()
        };
        summaries.put(DirectorId(2), summary);
        assert!(!summaries.somebody_serves("203.0.113.11".parse().unwrap()));
        summaries.somebody_serves(vip)
    }

    #[test]
    fn a_vip_is_served_by_those_that_really_announce() {
        assert!(serves(true, Some("announced")));
        assert!(!serves(false, Some("announced")));
        // It drains, its BGP sessions are down, its BIRD does not answer.
        for announcement in [Some("worse"), Some("withdrawn"), None] {
            assert!(!serves(true, announcement), "{announcement:?}");
        }
    }
}
