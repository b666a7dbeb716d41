//! The connections that stand, so that those of a removed peer can be closed at once.

use parking_lot::Mutex;
use quinn::{Connection, VarInt};

use holdfast_schema::cluster::DirectorId;

use super::error::close;
use super::wire::Purpose;
use crate::pki::Fingerprint;

/// A connection whose peer has been identified.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) peer: DirectorId,
    pub(super) key: Fingerprint,
    pub(super) purpose: Purpose,
    pub(super) accepted: bool,
    pub(super) connection: Connection,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<Vec<Entry>>,
}

impl Registry {
    /// Adds a connection, unless `pinned` says no. Both happen under the lock that
    /// [`Registry::close_where`] takes, so no connection slips in beside a removal.
    pub(super) fn add(&self, entry: Entry, pinned: impl FnOnce() -> bool) -> bool {
        let mut entries = self.entries.lock();
        if !pinned() {
            return false;
        }
        if entry.accepted && entry.purpose != Purpose::Snapshot {
            // The peer has dialled anew: it does not use the old connection any more.
            let same = |e: &Entry| e.accepted && e.peer == entry.peer && e.purpose == entry.purpose;
            for old in entries.extract_if(.., |e| same(e)) {
                old.connection.close(close::REPLACED, b"replaced by a newer connection");
            }
        }
        entries.push(entry);
        true
    }

    pub(super) fn remove(&self, connection: &Connection) {
        // Identifiers are unique among living connections, and those in the list are alive.
        self.entries.lock().retain(|e| e.connection.stable_id() != connection.stable_id());
    }

    /// Closes all that `which` picks; returns how many.
    pub(super) fn close_where(
        &self,
        which: impl Fn(&Entry) -> bool,
        code: VarInt,
        reason: &str,
    ) -> u64 {
        let mut closed = 0;
        for entry in self.entries.lock().extract_if(.., |e| which(e)) {
            entry.connection.close(code, reason.as_bytes());
            closed += 1;
        }
        closed
    }
}
