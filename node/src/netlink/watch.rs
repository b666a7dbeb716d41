//! Watches routes, neighbours and the data interface, and keeps the gateways resolved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hops::{self, Hops, Link, RouteEntry};
use super::{Netlink, NetlinkError};

/// Changes come in bursts: one dump for all that happen within this time.
const SETTLE: Duration = Duration::from_millis(5);

/// Everything is read again this often even if nothing was reported: notifications can be lost.
const REFRESH: Duration = Duration::from_secs(2);

/// The kernel's main routing table.
const MAIN_TABLE: u32 = 254;

/// What the watcher knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// The data interface.
    pub link: Link,
    /// The next hops.
    pub hops: Hops,
}

impl Network {
    /// What keeps packets from leaving; empty: nothing does.
    pub fn problems(&self, interface: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.link.up {
            problems
                .push(format!("interface {interface} is down: run `ip link set {interface} up`"));
        }
        if self.hops.gateways.is_empty() {
            problems.push(format!(
                "no route leads through a gateway on {interface}: the director needs one to its router"
            ));
        } else if !self.hops.gateways.values().any(|g| g.resolved) {
            let names: Vec<String> = self.hops.gateways.keys().map(ToString::to_string).collect();
            problems.push(format!("the router ({}) does not answer ARP", names.join(", ")));
        }
        problems
    }
}

/// Starts the watcher; fails when the interface does not exist.
pub async fn start(
    netlink: Netlink,
    interface: String,
) -> Result<watch::Receiver<Arc<Network>>, NetlinkError> {
    let mut remembered = BTreeMap::new();
    let first = read(&netlink, &interface, &mut remembered).await?;
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        loop {
            // A new subscription each time the old one breaks; what was missed is read anyway.
            let groups = [
                MulticastGroup::Link,
                MulticastGroup::Neigh,
                MulticastGroup::Ipv4Route,
                MulticastGroup::Ipv6Route,
            ];
            match rtnetlink::new_multicast_connection(&groups) {
                Ok((connection, _handle, mut events)) => {
                    let pump = tokio::spawn(connection);
                    while follow(&netlink, &interface, &mut remembered, &sender, &mut events).await
                    {
                    }
                    pump.abort();
                }
                Err(error) => tracing::warn!(%error, "cannot subscribe to network changes"),
            }
            if sender.is_closed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Ok(receiver)
}

/// Waits for a change (or the time to refresh), reads, publishes. False: the subscription is broken.
async fn follow<T>(
    netlink: &Netlink,
    interface: &str,
    remembered: &mut BTreeMap<std::net::IpAddr, [u8; 6]>,
    sender: &watch::Sender<Arc<Network>>,
    events: &mut (impl StreamExt<Item = T> + Unpin),
) -> bool {
    let refresh = Instant::now() + REFRESH;
    let alive = tokio::select! {
        event = events.next() => event.is_some(),
        () = tokio::time::sleep_until(refresh) => true,
        () = sender.closed() => return false,
    };
    if !alive {
        return false;
    }
    let settled = Instant::now() + SETTLE;
    loop {
        match tokio::time::timeout_at(settled, events.next()).await {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => break,
        }
    }
    match read(netlink, interface, remembered).await {
        Ok(network) => {
            for (gateway, state) in &network.hops.gateways {
                if !state.confirmed
                    && let Err(error) = netlink.resolve(network.link.index, *gateway).await
                {
                    tracing::debug!(%gateway, %error, "cannot ask for the gateway's MAC");
                }
            }
            sender.send_if_modified(|now| {
                let changed = **now != network;
                if changed {
                    *now = Arc::new(network);
                }
                changed
            });
        }
        Err(error) => tracing::warn!(%error, interface, "cannot read the network's state"),
    }
    true
}

async fn read(
    netlink: &Netlink,
    interface: &str,
    remembered: &mut BTreeMap<std::net::IpAddr, [u8; 6]>,
) -> Result<Network, NetlinkError> {
    let link = netlink.link(interface).await?;
    let routes = netlink.routes(Some(MAIN_TABLE)).await?;
    let routes: Vec<RouteEntry> = routes.into_iter().map(|r| r.entry).collect();
    let neighbours = netlink.neighbours(link.index).await?.into_iter().collect();
    Ok(Network { link, hops: hops::compute(&link, &routes, &neighbours, remembered) })
}
