//! The local conditions of attracting traffic.

use std::sync::Arc;
use std::time::Duration;

use crate::netlink::rules::{Rules, wanted};
use crate::node::Node;

/// How often rules and blackholes are looked at although nothing changed here.
const RULES_REFRESH: Duration = Duration::from_secs(1);

/// The rules of this node, if it announces anything.
pub fn rules(node: &Node) -> Option<Rules> {
    let announce = node.spec.announce.as_ref()?;
    Some(Rules { interface: node.spec.interface.clone(), table: announce.blackhole_table })
}

/// What speaks against announcing on this machine; empty: nothing.
pub fn local_problems(node: &Node) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(cluster) = node.cluster() else {
        return vec!["no configuration yet".to_owned()];
    };
    match node.forwarder.get() {
        None => problems.push("the packet forwarder has not started".to_owned()),
        Some(forwarder) => {
            problems.extend(forwarder.problems());
            if forwarder.tables().revision != cluster.revision {
                problems
                    .push(format!("configuration revision {} is being applied", cluster.revision));
            }
        }
    }
    problems.extend(node.network.borrow().problems(&node.spec.interface));
    match node.health.runner.unchecked() {
        0 => {}
        n => problems.push(format!("{n} backends have not been checked yet")),
    }
    problems.extend(node.rule_problems.lock().iter().cloned());
    problems
}

/// Keeps the blackholes as the configuration wants them, and looks whether the rule is there.
pub async fn watch_rules(node: Arc<Node>) {
    let Some(rules) = rules(&node) else {
        node.rule_problems.lock().clear();
        return;
    };
    let mut changed = node.store.cluster();
    loop {
        if let Some(cluster) = node.cluster() {
            let blackholes = wanted(&cluster.vips(), cluster.lips.keys().copied());
            if let Err(error) = rules.fill(&node.netlink, &blackholes).await {
                tracing::warn!(%error, "blackholes cannot be kept up to date");
            }
            let problems = match rules.missing(&node.netlink, &blackholes).await {
                Ok(missing) => missing,
                Err(error) => vec![format!("the kernel's rules cannot be read: {error}")],
            };
            *node.rule_problems.lock() = problems;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(RULES_REFRESH) => {}
        }
    }
}
