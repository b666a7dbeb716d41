//! Whether a configuration makes sense: in itself, and on the directors' networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use holdfast_schema::cluster::{ClusterState, Refusal, RefusalCode};
use holdfast_schema::config::{ClusterSpec, GroupSpec, ListenerSpec};
use holdfast_schema::prefix::Prefix;
use holdfast_schema::session::ForwardingMode;

use super::lips;

/// Most listeners, and most groups.
const MAX_LISTENERS: usize = 4_096;
/// Most backends of all groups together.
const MAX_BACKENDS: usize = 16_384;

#[derive(Default)]
struct Problems {
    invalid: Vec<String>,
    unsupported: Vec<String>,
}

/// Checks a configuration against itself and the cluster's members. All problems are told at once.
pub fn check(cluster: &ClusterState, spec: &ClusterSpec) -> Result<(), Refusal> {
    let mut problems = Problems::default();
    check_sizes(spec, &mut problems);
    check_pool(cluster, spec, &mut problems);
    check_groups(spec, &mut problems);
    check_listeners(spec, &mut problems);
    for member in cluster.members.values() {
        check_connected(spec, &member.name, &member.connected, &mut problems);
    }
    verdict(problems)
}

/// Whether a director with these connected prefixes can serve this configuration.
pub(super) fn check_director(
    spec: &ClusterSpec,
    name: &str,
    connected: &[Prefix],
) -> Result<(), Refusal> {
    let mut problems = Problems::default();
    check_connected(spec, name, connected, &mut problems);
    verdict(problems)
}

fn verdict(problems: Problems) -> Result<(), Refusal> {
    let (code, list, hint) = if !problems.invalid.is_empty() {
        let mut list = problems.invalid;
        list.extend(problems.unsupported);
        (RefusalCode::Invalid, list, "nothing was changed; correct the configuration")
    } else if !problems.unsupported.is_empty() {
        (RefusalCode::Unsupported, problems.unsupported, "nothing was changed")
    } else {
        return Ok(());
    };
    Err(Refusal { code, message: list.join("; "), hint: hint.to_owned() })
}

fn check_sizes(spec: &ClusterSpec, problems: &mut Problems) {
    let backends: usize = spec.groups.iter().map(|g| g.backends.len()).sum();
    for (what, have, most) in [
        ("listeners", spec.listeners.len(), MAX_LISTENERS),
        ("groups", spec.groups.len(), MAX_LISTENERS),
        ("backends", backends, MAX_BACKENDS),
    ] {
        if have > most {
            problems.invalid.push(format!("{have} {what}, at most {most} are possible"));
        }
    }
}

fn check_pool(cluster: &ClusterState, spec: &ClusterSpec, problems: &mut Problems) {
    for (i, prefix) in spec.lip_pool.iter().enumerate() {
        if !prefix.address().is_ipv4() {
            problems.unsupported.push(format!("LIP pool {prefix}: IPv6 LIPs are not there yet"));
        }
        if prefix.size() > lips::MAX_POOL {
            problems.invalid.push(format!(
                "LIP pool {prefix} has {} addresses, at most {} make sense",
                prefix.size(),
                lips::MAX_POOL
            ));
        }
        for other in spec.lip_pool[..i].iter().filter(|other| other.overlaps(prefix)) {
            problems.invalid.push(format!("LIP pools {other} and {prefix} overlap"));
        }
    }
    if !spec.lip_pool.is_empty() && spec.lips_per_director == 0 {
        problems.invalid.push("lips-per-director is 0, but there is a LIP pool".to_owned());
    }
    if spec.lip_pool.is_empty() && !spec.listeners.is_empty() {
        problems.invalid.push("there are full-nat listeners, but the LIP pool is empty".to_owned());
    }
    problems.invalid.extend(lips::shortage(spec, &cluster.lips, cluster.members.len()));
}

fn check_groups(spec: &ClusterSpec, problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for group in &spec.groups {
        if !names.insert(group.name.as_str()) {
            problems.invalid.push(format!("two groups are named {}", group.name));
        }
        check_group(spec, group, problems);
    }
}

fn check_group(spec: &ClusterSpec, group: &GroupSpec, problems: &mut Problems) {
    let name = &group.name;
    if name.is_empty() {
        problems.invalid.push("a group has an empty name".to_owned());
    }
    let health = &group.health;
    if health.interval_ms == 0 || health.timeout_ms == 0 || health.rise == 0 || health.fall == 0 {
        problems.invalid.push(format!(
            "group {name}: interval, timeout, rise and fall of the health check must be above 0"
        ));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeMap::new());
    for backend in &group.backends {
        let ip = backend.address.ip();
        if backend.name.is_empty() {
            problems.invalid.push(format!("a backend of group {name} has an empty name"));
        }
        if !names.insert(backend.name.as_str()) {
            problems.invalid.push(format!("group {name} has two backends named {}", backend.name));
        }
        if let Some(other) = addresses.insert(backend.address, &backend.name) {
            problems.invalid.push(format!(
                "backends {other} and {} of group {name} are both {}",
                backend.name, backend.address
            ));
        }
        if backend.address.port() == 0 || !ordinary(ip) {
            problems.invalid.push(format!(
                "backend {} of group {name}: nobody can listen on {}",
                backend.name, backend.address
            ));
        }
        if !ip.is_ipv4() {
            problems.unsupported.push(format!(
                "backend {} of group {name}: IPv6 backends are not there yet",
                backend.name
            ));
        }
        if let Some(l) = spec.listeners.iter().find(|l| l.vip == ip) {
            problems.invalid.push(format!(
                "backend {} of group {name} is the VIP {ip} of listener {}",
                backend.name, l.name
            ));
        }
        if let Some(pool) = spec.lip_pool.iter().find(|p| p.contains(ip)) {
            problems.invalid.push(format!(
                "backend {} of group {name}: {ip} lies in the LIP pool {pool}",
                backend.name
            ));
        }
    }
}

fn check_listeners(spec: &ClusterSpec, problems: &mut Problems) {
    let (mut names, mut places) = (BTreeSet::new(), BTreeMap::new());
    for listener in &spec.listeners {
        let name = &listener.name;
        if name.is_empty() {
            problems.invalid.push("a listener has an empty name".to_owned());
        }
        if !names.insert(name.as_str()) {
            problems.invalid.push(format!("two listeners are named {name}"));
        }
        let place = (listener.vip, listener.port, listener.protocol);
        if let Some(other) = places.insert(place, name) {
            problems.invalid.push(format!(
                "listeners {other} and {name} both want {} port {} on {}",
                listener.protocol, listener.port, listener.vip
            ));
        }
        check_listener(spec, listener, problems);
    }
}

fn check_listener(spec: &ClusterSpec, listener: &ListenerSpec, problems: &mut Problems) {
    let (name, vip) = (&listener.name, listener.vip);
    if listener.mode != ForwardingMode::FullNat {
        problems.unsupported.push(format!(
            "listener {name}: forwarding mode {} is not there yet, use full-nat",
            mode_name(listener.mode)
        ));
    }
    if !vip.is_ipv4() {
        problems.unsupported.push(format!("listener {name}: IPv6 VIPs are not there yet"));
    }
    if !ordinary(vip) {
        problems.invalid.push(format!("listener {name}: {vip} cannot be a VIP"));
    }
    if listener.port == 0 {
        problems.invalid.push(format!("listener {name}: port 0 cannot be served"));
    }
    if listener.idle_timeout_ms < 1_000 {
        problems.invalid.push(format!(
            "listener {name}: an idle timeout of {} ms is below one second",
            listener.idle_timeout_ms
        ));
    }
    if !spec.groups.iter().any(|g| g.name == listener.group) {
        problems.invalid.push(format!("listener {name}: there is no group {}", listener.group));
    }
    if let Some(pool) = spec.lip_pool.iter().find(|p| p.contains(vip)) {
        problems.invalid.push(format!("listener {name}: VIP {vip} lies in the LIP pool {pool}"));
    }
}

fn check_connected(
    spec: &ClusterSpec,
    director: &str,
    connected: &[Prefix],
    problems: &mut Problems,
) {
    // Nobody answers ARP for a VIP or LIP inside a connected subnet (DESIGN section 4).
    for prefix in connected {
        for listener in spec.listeners.iter().filter(|l| prefix.contains(l.vip)) {
            problems.invalid.push(format!(
                "listener {}: VIP {} lies in {prefix}, which is directly connected to director \
                 {director}",
                listener.name, listener.vip
            ));
        }
        for pool in spec.lip_pool.iter().filter(|pool| pool.overlaps(prefix)) {
            problems.invalid.push(format!(
                "LIP pool {pool} overlaps {prefix}, which is directly connected to director {director}"
            ));
        }
    }
}

fn ordinary(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_link_local());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast)
}

fn mode_name(mode: ForwardingMode) -> &'static str {
    match mode {
        ForwardingMode::FullNat => "full-nat",
        ForwardingMode::Dnat => "dnat",
        ForwardingMode::DsrL2 => "dsr-l2",
        ForwardingMode::DsrTunnel => "dsr-tunnel",
    }
}
