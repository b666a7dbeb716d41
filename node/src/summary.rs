//! What this director tells the others of itself, twice a second.

use std::sync::Arc;
use std::time::Duration;

use crate::health::service::say;
use crate::node::Node;
use crate::peers::{Message, Summary};

/// How often it is told although nothing changed.
const REPEAT: Duration = Duration::from_millis(500);

/// How often it is looked whether something changed.
const TICK: Duration = Duration::from_millis(100);

/// This director in its own words.
pub fn own(node: &Node) -> Summary {
    let announced = node.announced.lock().clone();
    let cluster = node.cluster();
    let tables = node.forwarder.get().map(|f| f.tables());
    Summary {
        incarnation: node.store.incarnation(),
        ready: announced.ready,
        not_ready: announced.not_ready.clone(),
        announcement: announced.announcement.clone(),
        announces: node.spec.announce.is_some(),
        owned: node.forwarder.get().map_or(0, |f| f.sessions().stats().pass.owned_open),
        healthy_vips: cluster.map(|c| node.health.healthy_vips(&c)).unwrap_or_default(),
        revision: tables.as_ref().map_or(0, |t| t.revision),
        health_version: tables.as_ref().map_or(0, |t| t.health_version),
        table_hash: tables.as_ref().map_or(0, |t| t.hash),
        caught_up: node.store.caught_up().is_ok(),
    }
}

/// Tells it for ever.
pub async fn run(node: Arc<Node>) {
    let mut last = Summary::default();
    let mut ticks = 0u32;
    loop {
        tokio::time::sleep(TICK).await;
        let now = own(&node);
        ticks += 1;
        if now != last || ticks * TICK >= REPEAT {
            say(&node, &Message::Summary(Box::new(now.clone())));
            last = now;
            ticks = 0;
        }
    }
}
