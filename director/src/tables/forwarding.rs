//! The forwarding tables and how packets are looked up in them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ahash::RandomState;
use holdfast_schema::bucket::{BUCKETS, Bucket, BucketKey, ShardId, ShardTable};
use holdfast_schema::cluster::{BackendId, DirectorId, GroupId, ListenerId};
use holdfast_schema::config::{NewUdp, ReplicateAfter, UnknownSession};
use holdfast_schema::flow::{Addr, FlowKey, Protocol};
use holdfast_schema::session::ForwardingMode;

use super::configured::Configured;
use super::maglev::Maglev;
use super::next_hops::{NextHop, NextHops};
use super::ports::PortCursors;
use crate::session::{CLASS_PORTS, SessionTable};

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerEntry {
    /// Its number.
    pub id: ListenerId,
    /// Its name.
    pub name: Arc<str>,
    /// The virtual IP.
    pub vip: Addr,
    /// The port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: ForwardingMode,
    /// Age from which a session is replicated.
    pub replicate_after: ReplicateAfter,
    /// Idle timeout.
    pub idle_timeout_ms: u32,
    /// What happens to packets of unknown TCP sessions.
    pub unknown_session: UnknownSession,
    /// What happens to the first datagram of an unknown UDP flow.
    pub new_udp: NewUdp,
    /// Its server group; `None` if the configuration names one that is not there.
    pub group: Option<GroupId>,
    /// The group's scheduler.
    pub(super) scheduler: Option<Arc<Scheduler>>,
}

/// A backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendEntry {
    /// Its number.
    pub id: BackendId,
    /// Its name.
    pub name: Arc<str>,
    /// Its server group.
    pub group: GroupId,
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: u16,
    /// Its share of new sessions.
    pub weight: u16,
    /// It gets no new sessions.
    pub draining: bool,
    /// What the health version says.
    pub healthy: bool,
}

impl BackendEntry {
    /// Whether it gets new sessions.
    pub fn eligible(&self) -> bool {
        self.healthy && !self.draining && self.weight > 0
    }
}

/// How new sessions of a group are spread: the eligible backends by number, and the table over them.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Scheduler {
    pub(super) eligible: Vec<(BackendId, u16)>,
    pub(super) maglev: Maglev,
}

/// Local ports of a director's own LIPs, over all backends.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortsFree {
    /// Ports there are.
    pub total: u64,
    /// Ports that no session uses.
    pub free: u64,
    /// Free ports of the class that has the fewest.
    pub least: u64,
}

/// Everything a director forwards by. Immutable.
pub struct ForwardingTables {
    /// Configuration revision it was built from.
    pub revision: u64,
    /// Health version it was built from ([`with_health_version`](Self::with_health_version)).
    pub health_version: u64,
    /// Hash over what decides about new sessions: equal on all directors with the same revision and
    /// health version. Who owns which LIP and the next hops are not part of it.
    pub hash: u64,
    pub(super) bucket_key: BucketKey,
    pub(super) shards: ShardTable,
    /// The members' numbers of starts.
    pub(super) lives: BTreeMap<DirectorId, u64>,
    pub(super) vips: HashMap<Addr, bool, RandomState>,
    pub(super) lips: HashSet<Addr, RandomState>,
    pub(super) own_lips: Vec<Addr>,
    pub(super) configured: Arc<Configured>,
    pub(super) listeners: Vec<ListenerEntry>,
    pub(super) by_address: HashMap<(Addr, u16, Protocol), usize, RandomState>,
    pub(super) by_id: HashMap<ListenerId, usize, RandomState>,
    pub(super) backends: HashMap<BackendId, BackendEntry, RandomState>,
    pub(super) schedulers: HashMap<GroupId, Arc<Scheduler>, RandomState>,
    pub(super) next_hops: Arc<NextHops>,
    pub(super) ports: Arc<PortCursors>,
}

impl ForwardingTables {
    /// Notes the health version that the health closure stood for.
    #[must_use]
    pub fn with_health_version(mut self, version: u64) -> ForwardingTables {
        self.health_version = version;
        self
    }

    /// The listeners and backends they were built from: for
    /// [`SessionTable::configure`](crate::session::SessionTable::configure).
    pub fn configured(&self) -> &Arc<Configured> {
        &self.configured
    }

    /// Whether an address is a VIP.
    #[inline]
    pub fn is_vip(&self, addr: &Addr) -> bool {
        self.vips.contains_key(addr)
    }

    /// Whether an address is a LIP, of any director.
    #[inline]
    pub fn is_lip(&self, addr: &Addr) -> bool {
        self.lips.contains(addr)
    }

    /// All VIPs, in order.
    pub fn vips(&self) -> Vec<Addr> {
        let mut all: Vec<Addr> = self.vips.keys().copied().collect();
        all.sort();
        all
    }

    /// All LIPs, of any director, in order.
    pub fn lips(&self) -> Vec<Addr> {
        let mut all: Vec<Addr> = self.lips.iter().copied().collect();
        all.sort();
        all
    }

    /// The LIPs that this director opens sessions from, in order.
    pub fn own_lips(&self) -> &[Addr] {
        &self.own_lips
    }

    /// Whether echo requests to a VIP are answered: a listener on it has a backend.
    pub fn vip_pingable(&self, addr: &Addr) -> bool {
        self.vips.get(addr).copied().unwrap_or(false)
    }

    /// The listener on an address, port and protocol.
    #[inline]
    pub fn listener(&self, vip: &Addr, port: u16, protocol: Protocol) -> Option<&ListenerEntry> {
        self.by_address.get(&(*vip, port, protocol)).and_then(|at| self.listeners.get(*at))
    }

    /// The listener with a number.
    pub fn listener_by_id(&self, id: ListenerId) -> Option<&ListenerEntry> {
        self.by_id.get(&id).and_then(|at| self.listeners.get(*at))
    }

    /// All listeners, by number.
    pub fn listeners(&self) -> &[ListenerEntry] {
        &self.listeners
    }

    /// The backend with a number, whatever its state.
    pub fn backend(&self, id: BackendId) -> Option<&BackendEntry> {
        self.backends.get(&id)
    }

    /// All backends, in no order.
    pub fn backends(&self) -> impl Iterator<Item = &BackendEntry> {
        self.backends.values()
    }

    /// The backend for a new session; none if the group has no eligible one.
    pub fn schedule(
        &self,
        listener: &ListenerEntry,
        client: &Addr,
        client_port: u16,
    ) -> Option<&BackendEntry> {
        self.schedule_nth(listener, client, client_port, 0)
    }

    /// The `nth` choice (0: the first; up to 7) for a new session, all different: for when the ports
    /// towards the ones before are used up.
    pub fn schedule_nth(
        &self,
        listener: &ListenerEntry,
        client: &Addr,
        client_port: u16,
        nth: usize,
    ) -> Option<&BackendEntry> {
        let scheduler = listener.scheduler.as_ref()?;
        let hash = Maglev::hash(&self.bucket_key, listener.protocol, client, client_port);
        let position = scheduler.maglev.lookup_nth(hash, nth)?;
        self.backends.get(&scheduler.eligible.get(position)?.0)
    }

    /// The bucket of a client's flow.
    #[inline]
    pub fn bucket(&self, protocol: Protocol, client: &Addr, client_port: u16) -> Bucket {
        self.bucket_key.bucket(protocol, client, client_port)
    }

    /// The shard of a bucket.
    #[inline]
    pub fn shard(&self, bucket: Bucket) -> ShardId {
        self.shards.shard(bucket)
    }

    /// The key of the bucket hash and the table from buckets to shards.
    pub fn cluster_keys(&self) -> (&BucketKey, &ShardTable) {
        (&self.bucket_key, &self.shards)
    }

    /// How often a member has started, as far as the cluster knows.
    pub fn life(&self, director: DirectorId) -> Option<u64> {
        self.lives.get(&director).copied()
    }

    /// The cursors over local ports; they survive rebuilds.
    pub fn ports(&self) -> &PortCursors {
        &self.ports
    }

    /// The next hop towards an address.
    #[inline]
    pub fn next_hop(&self, dst: &Addr) -> Option<NextHop> {
        self.next_hops.get(dst)
    }

    /// How many ports of the own LIPs are free, over all backends. Walks all classes: for metrics.
    pub fn ports_free(&self, table: &SessionTable) -> PortsFree {
        let mut free = PortsFree { least: u64::from(CLASS_PORTS), ..PortsFree::default() };
        let protocols = |id: GroupId| {
            let mut all: Vec<Protocol> =
                self.listeners.iter().filter(|l| l.group == Some(id)).map(|l| l.protocol).collect();
            all.sort();
            all.dedup();
            all
        };
        for backend in self.backends.values() {
            for protocol in protocols(backend.group) {
                for lip in &self.own_lips {
                    for bucket in 0..BUCKETS as u16 {
                        let reply = FlowKey {
                            src: backend.addr,
                            dst: *lip,
                            src_port: backend.port,
                            dst_port: bucket,
                            protocol,
                        };
                        let left = u64::from(CLASS_PORTS.saturating_sub(table.class_used(&reply)));
                        free.total += u64::from(CLASS_PORTS);
                        free.free += left;
                        free.least = free.least.min(left);
                    }
                }
            }
        }
        free
    }
}
