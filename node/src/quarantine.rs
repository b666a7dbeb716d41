//! Gives the LIPs of removed directors back when nothing uses them any more: what the control
//! leader does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::cluster::ControlCommand;

use crate::clock::mono_ms;
use crate::node::Node;
use crate::peers::Uses;
use crate::sessions::gather;

/// How often the leader looks.
const TICK: Duration = Duration::from_secs(5);

/// How long (ms) a LIP must have been without sessions: longer than a port rests.
const REST_MS: u64 = 90_000;

/// Since when each LIP has been seen without sessions.
#[derive(Default)]
struct Idle(BTreeMap<IpAddr, u64>);

impl Idle {
    /// Takes what was counted; tells whether the LIP may be given back.
    fn note(&mut self, lip: IpAddr, sessions: u64, now_ms: u64) -> bool {
        if sessions > 0 {
            self.0.remove(&lip);
            return false;
        }
        now_ms >= *self.0.entry(lip).or_insert(now_ms) + REST_MS
    }
}

/// Looks for ever.
pub async fn run(node: Arc<Node>) {
    let mut idle = Idle::default();
    loop {
        tokio::time::sleep(TICK).await;
        let Some(cluster) = node.cluster() else { continue };
        let quarantined: Vec<IpAddr> =
            cluster.lips.iter().filter(|(_, a)| a.quarantined).map(|(ip, _)| *ip).collect();
        idle.0.retain(|lip, _| quarantined.contains(lip));
        if node.control_term().is_none() {
            idle.0.clear();
            continue;
        }
        for lip in quarantined {
            let uses = Uses { lips: [lip].into(), ..Uses::default() };
            let count = gather::live(&node, uses).await;
            // A director that does not answer may have sessions that nobody else knows.
            let sessions = if count.missing.is_empty() { count.total } else { u64::MAX };
            if idle.note(lip, sessions, mono_ms()) {
                tracing::info!(%lip, "nothing uses this LIP any more: it goes back to the pool");
                let command = ControlCommand::ReleaseLip { lip };
                if let Err(error) = node.store.control(command, TICK).await {
                    tracing::warn!(%lip, %error, "it could not be given back; tried again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lip_rests_after_its_last_session() {
        let lip = "198.51.100.1".parse().unwrap();
        let mut idle = Idle::default();
        assert!(!idle.note(lip, 0, 1_000));
        assert!(!idle.note(lip, 1, 80_000), "used again");
        assert!(!idle.note(lip, 0, 100_000));
        assert!(!idle.note(lip, 0, 189_000));
        assert!(idle.note(lip, 0, 190_000));
    }
}
