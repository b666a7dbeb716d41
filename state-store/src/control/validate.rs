//! Whether a configuration makes sense: in itself (the schema's rules, which readers of files use
//! too), and on the directors' networks.

use holdfast_schema::cluster::{ClusterState, Refusal, RefusalCode};
use holdfast_schema::config::{ClusterSpec, validate};
use holdfast_schema::prefix::Prefix;

use super::lips;

/// Checks a configuration against itself and the cluster's members. All problems are told at once.
pub fn check(cluster: &ClusterState, spec: &ClusterSpec) -> Result<(), Refusal> {
    // Only the messages: a hint may depend on the order of a hash map, and what is refused here
    // must be the same on every replica.
    let (unsupported, invalid): (Vec<_>, Vec<_>) =
        validate(spec).into_iter().partition(|e| e.unsupported);
    let texts = |list: Vec<holdfast_schema::config::SpecError>| -> Vec<String> {
        list.into_iter().map(|e| e.message).collect()
    };
    let (mut invalid, unsupported) = (texts(invalid), texts(unsupported));
    // With a pool or members beyond all limits the rest need not be known.
    if invalid.is_empty() {
        invalid.extend(lips::shortage(spec, &cluster.lips, cluster.members.len()));
        for member in cluster.members.values() {
            check_connected(spec, &member.name, &member.connected, &mut invalid);
        }
    }
    verdict(invalid, unsupported)
}

/// Whether a director with these connected prefixes can serve this configuration.
pub(super) fn check_director(
    spec: &ClusterSpec,
    name: &str,
    connected: &[Prefix],
) -> Result<(), Refusal> {
    let mut invalid = Vec::new();
    check_connected(spec, name, connected, &mut invalid);
    verdict(invalid, Vec::new())
}

fn verdict(mut invalid: Vec<String>, unsupported: Vec<String>) -> Result<(), Refusal> {
    let (code, list, hint) = if !invalid.is_empty() {
        invalid.extend(unsupported);
        (RefusalCode::Invalid, invalid, "nothing was changed; correct the configuration")
    } else if !unsupported.is_empty() {
        (RefusalCode::Unsupported, unsupported, "nothing was changed")
    } else {
        return Ok(());
    };
    Err(Refusal { code, message: list.join("; "), hint: hint.to_owned() })
}

fn check_connected(
    spec: &ClusterSpec,
    director: &str,
    connected: &[Prefix],
    invalid: &mut Vec<String>,
) {
    // Nobody answers ARP for a VIP or LIP inside a connected subnet (DESIGN section 4).
    for prefix in connected {
        for listener in spec.listeners.iter().filter(|l| prefix.contains(l.vip)) {
            invalid.push(format!(
                "listener {}: VIP {} lies in {prefix}, which is directly connected to director \
                 {director}",
                listener.name, listener.vip
            ));
        }
        for pool in spec.lip_pool.iter().filter(|pool| pool.overlaps(prefix)) {
            invalid.push(format!(
                "LIP pool {pool} overlaps {prefix}, which is directly connected to director {director}"
            ));
        }
    }
}
