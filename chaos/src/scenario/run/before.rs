//! The moments before a step: young connections are opened, and the router is asked for its choices of path.
//! So it is of those that come later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;

use super::Run;
use crate::clock::now_ms;
use crate::lab::plan::Site;
use crate::router::paths::Paths;
use crate::router::trace::Trace;
use crate::scenario::burst::{self, BEFORE_MS, OVER_MS, Size};
use crate::scenario::clients::{Flows, target};
use crate::workload::record::{Cohort, Transport};

/// What happens just before a fault has to be done this long before it (ms).
const LAST_LOOK_MS: u64 = 150;

/// The router's choices of path before a step.
pub struct Before {
    /// Since when they have been asked for (ms).
    pub asked_ms: u64,
    /// The connections that are there, as far as anybody knows.
    pub flows: Flows,
    /// Those of these connections.
    pub paths: Paths,
    /// Those of ports from which connections will be opened.
    ports: BTreeMap<SocketAddrV4, String>,
}

impl Before {
    /// Adds the connections whose path is known by their port; gives those that have to be asked for.
    pub fn add(&mut self, flows: Flows) -> Flows {
        let mut rest = Flows::new();
        for (client, flow) in flows {
            // Ports are those of TCP; a datagram's may have the same number.
            let young = flow.transport == Transport::Tcp && flow.remote == target(Cohort::Young);
            match self.ports.get(&flow.local).filter(|_| young) {
                Some(director) => {
                    self.paths.insert(flow.id, director.clone());
                }
                None if self.paths.contains_key(&flow.id) => {}
                None => rest.push((client, flow)),
            }
        }
        rest
    }
}

impl Run {
    /// Opens a burst of young connections and returns when it is time for the fault.
    pub async fn burst(&mut self, size: Size, targets: &[Site]) -> Result<Before> {
        let router = self.plan.router();
        let serving: BTreeSet<String> = self.serving().map(|d| d.name()).collect();
        let hit: BTreeSet<String> =
            targets.iter().map(|t| t.name()).filter(|name| serving.contains(name)).collect();
        let count = size.candidates(hit.len(), serving.len());
        let asked_ms = now_ms();
        let mut ports = self.clients.reserve(&router, count).await?;
        if let Some(count) = burst::more(&ports, &hit, size) {
            ports = self.clients.reserve(&router, count).await?;
        }
        let chosen = burst::pick(ports, &hit, size);
        let flows = self.clients.flows(now_ms()).await?;
        let mut before = Before {
            asked_ms,
            flows: Flows::new(),
            paths: self.clients.paths(&router, &flows).await?,
            ports: chosen.iter().map(|p| (p.local, p.director.clone())).collect(),
        };
        let begin_ms = now_ms();
        self.clients.burst(&chosen, OVER_MS).await?;
        let until_ms = begin_ms + BEFORE_MS;
        self.watch_for(until_ms.saturating_sub(now_ms() + LAST_LOOK_MS)).await?;
        // Those that have come from other ports since then are few.
        before.flows = self.clients.flows(begin_ms).await?;
        let unknown = before.add(before.flows.clone());
        before.paths.extend(self.clients.paths(&router, &unknown).await?);
        let rest = until_ms.saturating_sub(now_ms());
        tokio::time::sleep(Duration::from_millis(rest)).await;
        Ok(before)
    }

    /// Asks for the paths of connections that have come meanwhile, so that it shows if they move.
    pub(super) async fn trace_newcomers(&mut self, trace: &mut Trace) -> Result<()> {
        let flows = self.clients.flows(now_ms()).await?;
        trace.about(self.clients.incoming(&flows));
        trace.ask_for_new().await
    }
}
