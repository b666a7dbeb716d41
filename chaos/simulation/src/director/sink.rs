//! The table, as the store tells it of sessions: what is told is watched for rare paths.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_director::session::SessionTable;
use holdfast_schema::bucket::{BucketKey, ShardId, ShardTable};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionSink, SessionUpdate};
use parking_lot::Mutex;

/// How often rare things happened.
#[derive(Default)]
pub struct Seen {
    /// Sessions that the store expired while they were open here: not those that were over.
    pub expired: AtomicU64,
    /// Expiries of an old use of a key that met a newer one.
    pub late: AtomicU64,
    /// Snapshots that were installed. (A shard that is loaded from the disk at the start is none.)
    pub snapshots: AtomicU64,
    /// Those that did not know a live session of their shard of which this director had heard that the
    /// store has it.
    pub over_live: AtomicU64,
}

/// A table with somebody who watches.
pub struct Watched {
    /// The table.
    pub table: Arc<SessionTable>,
    /// What was seen.
    pub seen: Arc<Seen>,
    key: BucketKey,
    shards: ShardTable,
    /// The shards that have been loaded.
    loaded: Mutex<BTreeSet<ShardId>>,
}

impl Watched {
    /// The table of a cluster with this key and these shards.
    pub fn new(table: &Arc<SessionTable>, (key, shards): (&BucketKey, &ShardTable)) -> Watched {
        Watched {
            table: table.clone(),
            seen: Arc::default(),
            key: *key,
            shards: shards.clone(),
            loaded: Mutex::default(),
        }
    }

    /// Whether a live session of this shard that the store has is not among its records.
    fn lacks(&self, shard: ShardId, records: &[SessionRecord]) -> bool {
        let mut lacks = false;
        self.table.for_each(0, |held, acknowledged| {
            let same = |record: &SessionRecord| {
                record.key == held.key && record.incarnation == held.incarnation
            };
            lacks |= acknowledged
                && !held.flags.closing()
                && self.shards.shard(held.bucket(&self.key)) == shard
                && !records.iter().any(same);
        });
        lacks
    }
}

fn one_more(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SessionSink for Watched {
    fn created(&self, record: &SessionRecord) {
        self.table.created(record);
    }

    fn updated(&self, update: &SessionUpdate) {
        self.table.updated(update);
    }

    fn expired(&self, key: &FlowKey, incarnation: &Incarnation) {
        let holder = self.table.find(key).session().filter(|holder| holder.key == *key);
        if let Some(holder) = holder {
            let same = holder.incarnation == *incarnation;
            let newer = holder.incarnation > *incarnation;
            if same && !holder.flags.closing() {
                one_more(&self.seen.expired);
            } else if newer && !holder.incarnation.is_twin_of(incarnation) {
                one_more(&self.seen.late);
            }
        }
        self.table.expired(key, incarnation);
    }

    fn installed(&self, shard: ShardId, records: &[SessionRecord]) {
        if !self.loaded.lock().insert(shard) {
            one_more(&self.seen.snapshots);
            if self.lacks(shard, records) {
                one_more(&self.seen.over_live);
            }
        }
        self.table.installed(shard, records);
    }

    fn twin(&self, first: &SessionRecord) {
        self.table.twin(first);
    }

    fn registered(&self, records: &[SessionRecord]) {
        self.table.registered(records);
    }

    fn find(&self, key: &FlowKey) -> Known {
        self.table.find(key)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
    use holdfast_schema::flow::Protocol;
    use holdfast_schema::session::{ForwardingMode, HalfSeen, SessionFlags};

    use super::*;

    fn record(port: u16, stamp: u64, flags: SessionFlags) -> SessionRecord {
        let at = |at: &str| at.parse().expect("a socket");
        let key = |src, dst| FlowKey::new(Protocol::Tcp, src, dst);
        let client = std::net::SocketAddr::new([198, 51, 100, 1].into(), port);
        let lip = std::net::SocketAddr::new([10, 9, 0, 1].into(), port);
        let half = HalfSeen { age_ms: 10, seq: 1, ack: 1 };
        SessionRecord {
            key: key(client, at("203.0.113.10:80")),
            reply: key(at("10.0.0.1:80"), lip),
            incarnation: Incarnation {
                stamp,
                creator: DirectorId(2),
                counter: stamp,
                isn: 7 + stamp as u32,
            },
            generation: 0,
            listener: ListenerId(1),
            backend: BackendId(1),
            mode: ForwardingMode::FullNat,
            owner: DirectorId(2),
            flags,
            created_age_ms: 10,
            idle_timeout_ms: 60_000,
            isn_delta: 0,
            timestamp_delta: 0,
            client: half,
            backend_seen: half,
        }
    }

    fn open() -> SessionFlags {
        SessionFlags::CLIENT_OPENED
            .with(SessionFlags::BACKEND_ANSWERED)
            .with(SessionFlags::ESTABLISHED)
    }

    fn watched() -> Watched {
        let table = Arc::new(SessionTable::seeded(64, 16, DirectorId(1), 1, 1));
        table.tick(100_000);
        let (key, shards) = (BucketKey([7; 16]), ShardTable::spread(2));
        table.set_cluster(&key, &shards);
        Watched::new(&table, (&key, &shards))
    }

    fn told(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn an_end_of_what_is_over_is_no_expiry_and_of_what_is_newer_no_late_one() {
        let (watched, closed) = (watched(), open().with(SessionFlags::RESET));
        watched.created(&record(1_000, 5, open()));
        watched.created(&record(1_001, 5, closed));
        let expire = |record: SessionRecord| {
            watched.expired(&record.key, &record.incarnation);
            (told(&watched.seen.expired), told(&watched.seen.late))
        };
        assert_eq!(expire(record(1_000, 6, open())), (0, 0), "it has not heard of that yet");
        assert_eq!(expire(record(1_000, 4, open())), (0, 1));
        assert_eq!(expire(record(1_001, 5, closed)), (0, 1), "it was over");
        assert_eq!(expire(record(1_002, 5, open())), (0, 1), "nobody has it");
        assert_eq!(expire(record(1_000, 5, open())), (1, 1));
    }

    #[test]
    fn a_snapshot_is_over_what_lives_in_its_own_shard_only() {
        let watched = watched();
        let live = record(1_000, 5, open());
        let mine = watched.shards.shard(live.bucket(&watched.key));
        let other = ShardId(1 - mine.0);
        let seen = || (told(&watched.seen.snapshots), told(&watched.seen.over_live));
        [mine, other].into_iter().for_each(|shard| watched.installed(shard, &[]));
        assert_eq!(seen(), (0, 0), "they are loaded");
        watched.created(&live);
        watched.installed(other, &[]);
        assert_eq!(seen(), (1, 0), "another shard's");
        watched.installed(mine, std::slice::from_ref(&live));
        assert_eq!(seen(), (2, 0), "it has it");
        watched.installed(mine, &[]);
        assert_eq!(seen(), (3, 1));
    }
}
