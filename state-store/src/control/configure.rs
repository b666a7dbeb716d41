//! Replacing the configuration: compare and set, then numbers for what is new.

use std::collections::BTreeMap;

use holdfast_schema::cluster::{
    Backend, BackendId, ClusterState, Group, GroupId, Listener, ListenerId, RefusalCode,
};
use holdfast_schema::config::{ClusterSpec, GroupSpec};

use super::{Verdict, lips, refuse, validate};

/// Applies a new configuration if `expected` still is the revision.
pub(super) fn configure(cluster: &mut ClusterState, expected: u64, spec: &ClusterSpec) -> Verdict {
    if expected != cluster.revision {
        return refuse(
            RefusalCode::RevisionConflict,
            format!(
                "the configuration is at revision {}, the change was made against {expected}",
                cluster.revision
            ),
            "look at the new configuration and apply your change again",
        );
    }
    validate::check(cluster, spec)?;
    let groups = spec.groups.iter().map(|g| (g.name.clone(), number_group(cluster, g))).collect();
    let listeners = number_listeners(cluster, spec);
    cluster.groups = groups;
    cluster.listeners = listeners;
    cluster.spec = spec.clone();
    cluster.revision += 1;
    lips::assign(cluster);
    Ok(None)
}

/// A listener keeps its number as long as name, VIP, port and protocol stay.
fn number_listeners(cluster: &mut ClusterState, spec: &ClusterSpec) -> BTreeMap<String, Listener> {
    let mut listeners = BTreeMap::new();
    for new in &spec.listeners {
        let kept = cluster.listeners.get(&new.name).filter(|old| {
            (old.spec.vip, old.spec.port, old.spec.protocol) == (new.vip, new.port, new.protocol)
        });
        let id = kept.map(|old| old.id).unwrap_or_else(|| {
            let id = ListenerId(cluster.next.listener);
            cluster.next.listener += 1;
            id
        });
        listeners.insert(new.name.clone(), Listener { id, spec: new.clone() });
    }
    listeners
}

/// A group keeps its number with its name; a backend with name and address.
fn number_group(cluster: &mut ClusterState, spec: &GroupSpec) -> Group {
    let old = cluster.groups.get(&spec.name);
    let next = &mut cluster.next;
    let id = old.map(|g| g.id).unwrap_or_else(|| {
        let id = GroupId(next.group);
        next.group += 1;
        id
    });
    let mut backends = BTreeMap::new();
    for new in &spec.backends {
        let kept = old
            .and_then(|g| g.backends.get(&new.name))
            .filter(|b| b.spec.address == new.address)
            .map(|b| b.id);
        let id = kept.unwrap_or_else(|| {
            let id = BackendId(next.backend);
            next.backend += 1;
            id
        });
        backends.insert(new.name.clone(), Backend { id, spec: new.clone() });
    }
    Group { id, spec: spec.clone(), backends }
}
