//! The table, as the store tells it of sessions: what is told is watched for rare paths.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_director::session::SessionTable;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord, SessionSink, SessionUpdate};

/// How often rare things happened.
#[derive(Default)]
pub struct Seen {
    /// Sessions that the store expired.
    pub expired: AtomicU64,
    /// Expiries of an old use of a key that met a newer one.
    pub late: AtomicU64,
    /// Snapshots that were installed over sessions they did not know.
    pub over_live: AtomicU64,
}

/// A table with somebody who watches.
pub struct Watched {
    /// The table.
    pub table: Arc<SessionTable>,
    /// What was seen.
    pub seen: Arc<Seen>,
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
        let other = holder.as_ref().is_some_and(|holder| holder.incarnation != *incarnation);
        one_more(if other { &self.seen.late } else { &self.seen.expired });
        self.table.expired(key, incarnation);
    }

    fn installed(&self, shard: ShardId, records: &[SessionRecord]) {
        let mut unknown = false;
        self.table.for_each(0, |held, _| {
            unknown |= !records.iter().any(|record| record.key == held.key);
        });
        if unknown {
            one_more(&self.seen.over_live);
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
