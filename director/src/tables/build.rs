//! From the cluster's state to forwarding tables. Deterministic.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;

use ahash::RandomState;
use holdfast_schema::cluster::{BackendId, ClusterState, DirectorId, Group, GroupId};
use holdfast_schema::config::{NewUdp, ReplicateAfter, UnknownSession};
use holdfast_schema::flow::Addr;
use siphasher::sip::SipHasher13;

use super::configured::Configured;
use super::forwarding::{BackendEntry, ForwardingTables, ListenerEntry, Scheduler};
use super::maglev::Maglev;
use super::next_hops::NextHops;
use super::ports::PortCursors;

impl ForwardingTables {
    /// Builds the tables of one director. `health` says whether a backend is healthy; `previous` gives
    /// what survives a change (port cursors) and what need not be computed again.
    pub fn build(
        cluster: &ClusterState,
        me: DirectorId,
        health: &dyn Fn(BackendId) -> bool,
        next_hops: Arc<NextHops>,
        previous: Option<&ForwardingTables>,
    ) -> ForwardingTables {
        let mut backends = HashMap::with_hasher(RandomState::new());
        let mut schedulers = HashMap::with_hasher(RandomState::new());
        for group in cluster.groups.values() {
            let mut eligible = Vec::new();
            for (name, backend) in &group.backends {
                let entry = BackendEntry {
                    id: backend.id,
                    name: name.as_str().into(),
                    group: group.id,
                    addr: backend.spec.address.ip().into(),
                    port: backend.spec.address.port(),
                    weight: backend.spec.weight,
                    draining: backend.spec.draining,
                    healthy: health(backend.id),
                };
                if entry.eligible() {
                    eligible.push((entry.id, entry.weight));
                }
                backends.insert(entry.id, entry);
            }
            eligible.sort();
            schedulers.insert(group.id, scheduler(cluster, group, eligible, previous));
        }
        let listeners = listeners(cluster, &schedulers);
        let mut vips = HashMap::with_hasher(RandomState::new());
        for listener in &listeners {
            let has_backend = listener.scheduler.as_ref().is_some_and(|s| !s.eligible.is_empty());
            *vips.entry(listener.vip).or_insert(false) |= has_backend;
        }
        let incarnation = cluster.members.get(&me).map_or(0, |member| member.incarnation);
        let ports = match previous {
            Some(previous) => {
                previous.ports.set_incarnation(incarnation);
                previous.ports.clone()
            }
            None => Arc::new(PortCursors::new(incarnation)),
        };
        let own = cluster.lips.iter().filter(|(_, lip)| lip.owner == Some(me) && !lip.quarantined);
        let mut tables = ForwardingTables {
            revision: cluster.revision,
            health_version: 0,
            hash: 0,
            bucket_key: cluster.bucket_key,
            shards: cluster.shards.clone(),
            lives: cluster.members.values().map(|m| (m.id, m.incarnation)).collect(),
            vips,
            lips: cluster.lips.keys().map(|ip| Addr::from(*ip)).collect(),
            configured: Arc::new(Configured::of(cluster)),
            own_lips: own.map(|(ip, _)| Addr::from(*ip)).collect(),
            by_address: listeners
                .iter()
                .enumerate()
                .map(|(at, l)| ((l.vip, l.port, l.protocol), at))
                .collect(),
            by_id: listeners.iter().enumerate().map(|(at, l)| (l.id, at)).collect(),
            listeners,
            backends,
            schedulers,
            next_hops,
            ports,
        };
        tables.hash = content_hash(&tables);
        tables
    }
}

/// The scheduler of a group: the previous one if its backends are the same.
fn scheduler(
    cluster: &ClusterState,
    group: &Group,
    eligible: Vec<(BackendId, u16)>,
    previous: Option<&ForwardingTables>,
) -> Arc<Scheduler> {
    let size = Maglev::size_for(group.backends.len());
    let same = previous
        .filter(|previous| previous.bucket_key == cluster.bucket_key)
        .and_then(|previous| previous.schedulers.get(&group.id))
        .filter(|scheduler| scheduler.eligible == eligible)
        .filter(|scheduler| eligible.is_empty() || scheduler.maglev.size() == size);
    match same {
        Some(same) => same.clone(),
        None => {
            let maglev = Maglev::build(&cluster.bucket_key, &eligible, size);
            Arc::new(Scheduler { eligible, maglev })
        }
    }
}

fn listeners(
    cluster: &ClusterState,
    schedulers: &HashMap<GroupId, Arc<Scheduler>, RandomState>,
) -> Vec<ListenerEntry> {
    let mut all: Vec<ListenerEntry> = cluster
        .listeners
        .values()
        .map(|listener| {
            let spec = &listener.spec;
            let group = cluster.groups.get(&spec.group).map(|group| group.id);
            ListenerEntry {
                id: listener.id,
                name: spec.name.as_str().into(),
                vip: spec.vip.into(),
                port: spec.port,
                protocol: spec.protocol,
                mode: spec.mode,
                replicate_after: spec.replicate_after,
                idle_timeout_ms: spec.idle_timeout_ms,
                unknown_session: spec.unknown_session,
                new_udp: spec.new_udp,
                group,
                scheduler: group.and_then(|id| schedulers.get(&id).cloned()),
            }
        })
        .collect();
    all.sort_by_key(|listener| listener.id);
    all
}

/// A hash over what decides about new sessions, independent of director and time.
fn content_hash(tables: &ForwardingTables) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&tables.bucket_key.0);
    for shard in holdfast_schema::bucket::Bucket::all().map(|bucket| tables.shards.shard(bucket)) {
        hasher.write_u16(shard.0);
    }
    for listener in &tables.listeners {
        hasher.write_u32(listener.id.0);
        hasher.write(&listener.vip.0);
        hasher.write_u16(listener.port);
        hasher.write_u8(listener.protocol.number());
        hasher.write_u8(listener.mode as u8);
        hasher.write_u64(match listener.replicate_after {
            ReplicateAfter::Millis(ms) => u64::from(ms),
            ReplicateAfter::Never => u64::MAX,
        });
        hasher.write_u32(listener.idle_timeout_ms);
        hasher.write_u8(u8::from(listener.unknown_session == UnknownSession::Reset));
        hasher.write_u8(u8::from(listener.new_udp == NewUdp::Ask));
        hasher.write_u64(listener.group.map_or(u64::MAX, |group| u64::from(group.0)));
    }
    let mut backends: Vec<&BackendEntry> = tables.backends.values().collect();
    backends.sort_by_key(|backend| backend.id);
    for backend in backends {
        hasher.write_u32(backend.id.0);
        hasher.write_u32(backend.group.0);
        hasher.write(&backend.addr.0);
        hasher.write_u16(backend.port);
        hasher.write_u16(backend.weight);
        hasher.write_u8(u8::from(backend.draining) << 1 | u8::from(backend.healthy));
    }
    let mut groups: Vec<_> = tables.schedulers.iter().collect();
    groups.sort_by_key(|(id, _)| **id);
    for (id, scheduler) in groups {
        hasher.write_u32(id.0);
        for place in scheduler.maglev.places() {
            hasher.write_u16(*place);
        }
    }
    hasher.finish()
}
