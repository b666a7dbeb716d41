//! A replica's log and Raft state: RocksDB behind, the tail of the log in memory.

use std::cell::Cell;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error as RaftError, GetEntriesContext, RaftState, Storage, StorageError};

use super::tail::{Tail, size};
use crate::codec;
use crate::codec::disk::GroupMeta;
use crate::storage::{self, Batch, Database, Tag};
use crate::store::error::StoreError;

/// A snapshot that is ready to be sent.
#[derive(Clone)]
pub struct Prepared {
    /// The last entry in it.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The configuration at `index`.
    pub conf: ConfState,
    /// A [`crate::codec::disk::MachineImage`] frame.
    pub image: Bytes,
    /// When it was made.
    pub made: std::time::Duration,
}

/// The log of one replica.
pub struct Log {
    db: Database,
    group: u16,
    hard: HardState,
    /// Configuration as of `applied`.
    conf: ConfState,
    /// The last entry applied to the machine.
    applied: u64,
    truncated: (u64, u64),
    last: (u64, u64),
    tail: Tail,
    /// Bytes of entries behind the last checkpoint.
    bytes_since_checkpoint: u64,
    pub(super) prepared: Option<Prepared>,
    /// A peer needs a snapshot, and there is none that serves.
    wanted: Cell<Option<u64>>,
}

fn raft_error(e: StoreError) -> RaftError {
    RaftError::Store(StorageError::Other(Box::new(std::io::Error::other(e.to_string()))))
}

/// The stored state of a replica, if there is one for this generation and replica id.
pub fn read_meta(db: &Database, group: u16) -> Result<Option<GroupMeta>, StoreError> {
    match db.get(&storage::key(group, Tag::Meta, &[]))? {
        None => Ok(None),
        Some(bytes) => codec::decode(&bytes).map(Some).map_err(|e| db.corrupt(e)),
    }
}

impl Log {
    /// Opens the log behind a stored checkpoint.
    pub fn open(db: &Database, group: u16, meta: &GroupMeta) -> Result<Log, StoreError> {
        let mut conf = ConfState::default();
        conf.merge_from_bytes(&meta.conf_state).map_err(|e| db.corrupt(e))?;
        let truncated = match db.get(&storage::key(group, Tag::Truncated, &[]))? {
            None => (meta.applied, meta.applied_term),
            Some(bytes) => pair(&bytes).ok_or_else(|| db.corrupt("bad truncation mark"))?,
        };
        let mut hard = HardState::default();
        if let Some(bytes) = db.get(&storage::key(group, Tag::HardState, &[]))? {
            hard.merge_from_bytes(&bytes).map_err(|e| db.corrupt(e))?;
        }
        let mut log = Log {
            db: db.clone(),
            group,
            hard,
            conf,
            applied: meta.applied,
            truncated,
            last: truncated,
            tail: Tail::behind(truncated.0),
            bytes_since_checkpoint: 0,
            prepared: None,
            wanted: Cell::new(None),
        };
        let from = storage::key(group, Tag::Entry, &(truncated.0 + 1).to_be_bytes());
        for row in db.range(&from, &storage::end(group, Tag::Entry)) {
            let entry = read_entry(db, &row?.1)?;
            if entry.index != log.last.0 + 1 {
                return Err(db.corrupt(format!(
                    "group {group}: entry {} follows entry {}",
                    entry.index, log.last.0
                )));
            }
            log.push(entry);
            log.tail.stored(log.last.0);
        }
        if log.last.0 < meta.applied {
            return Err(db.corrupt(format!(
                "group {group}: the log ends at {}, the checkpoint at {}",
                log.last.0, meta.applied
            )));
        }
        // The commit index is written lazily; what was applied and checkpointed is committed.
        log.hard.commit = log.hard.commit.max(meta.applied).min(log.last.0);
        Ok(log)
    }

    fn push(&mut self, entry: Entry) {
        self.last = (entry.index, entry.term);
        if entry.index > self.applied {
            self.bytes_since_checkpoint += size(&entry) as u64;
        }
        self.tail.push(entry);
    }

    /// Appends entries, replacing conflicting ones. They can be read at once; `number` names the
    /// write for [`Log::written`].
    pub fn append(
        &mut self,
        batch: &mut Batch,
        entries: &[Entry],
        number: u64,
    ) -> Result<(), StoreError> {
        let Some(first) = entries.first() else { return Ok(()) };
        if first.index <= self.last.0 {
            self.cut_from(batch, first.index);
        }
        for entry in entries {
            let bytes = entry.write_to_bytes().map_err(|e| self.db.corrupt(e))?;
            batch.put(storage::key(self.group, Tag::Entry, &entry.index.to_be_bytes()), bytes);
            self.push(entry.clone());
        }
        self.tail.appended(number);
        Ok(())
    }

    /// All writes up to this number are done.
    pub fn written(&mut self, number: u64) {
        self.tail.written(number);
    }

    fn cut_from(&mut self, batch: &mut Batch, index: u64) {
        for gone in index..=self.last.0 {
            batch.delete(storage::key(self.group, Tag::Entry, &gone.to_be_bytes()));
        }
        self.tail.cut_from(index);
        // The term of the new last entry is not needed: entries follow in the same batch.
        self.last = (index - 1, 0);
    }

    /// Notes term, vote and commit; tells whether term or vote changed.
    pub fn set_hard(&mut self, hard: &HardState) -> bool {
        let vital = hard.term != self.hard.term || hard.vote != self.hard.vote;
        self.hard = HardState { commit: self.hard.commit.max(hard.commit), ..hard.clone() };
        vital
    }

    /// Term, vote and commit as last decided.
    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    /// Notes the commit index only.
    pub fn set_commit(&mut self, commit: u64) {
        self.hard.commit = self.hard.commit.max(commit);
    }

    /// Puts term, vote and commit into a batch.
    pub fn put_hard(&self, batch: &mut Batch) {
        let bytes = self.hard.write_to_bytes().unwrap_or_default();
        batch.put(storage::key(self.group, Tag::HardState, &[]), bytes);
    }

    /// Starts over behind a snapshot.
    pub fn restart_at(&mut self, batch: &mut Batch, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        batch.delete_range(
            storage::key(self.group, Tag::Entry, &[]),
            storage::end(self.group, Tag::Entry),
        );
        self.truncated = (meta.index, meta.term);
        self.last = self.truncated;
        self.tail = Tail::behind(meta.index);
        self.bytes_since_checkpoint = 0;
        self.applied = meta.index;
        self.conf = meta.get_conf_state().clone();
        self.hard.commit = self.hard.commit.max(meta.index);
        self.prepared = None;
        self.put_truncated(batch);
        self.put_hard(batch);
    }

    fn put_truncated(&self, batch: &mut Batch) {
        let mut bytes = self.truncated.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.truncated.1.to_be_bytes());
        batch.put(storage::key(self.group, Tag::Truncated, &[]), bytes);
    }

    /// Forgets entries up to `index` (which a checkpoint must cover).
    pub fn truncate(&mut self, batch: &mut Batch, index: u64) -> Result<(), StoreError> {
        if index <= self.truncated.0 {
            return Ok(());
        }
        let term = self.term_of(index)?;
        batch.delete_range(
            storage::key(self.group, Tag::Entry, &(self.truncated.0 + 1).to_be_bytes()),
            storage::key(self.group, Tag::Entry, &(index + 1).to_be_bytes()),
        );
        self.truncated = (index, term);
        self.tail.forget_to(index);
        if self.prepared.as_ref().is_some_and(|p| p.index < index) {
            self.prepared = None;
        }
        self.put_truncated(batch);
        self.put_hard(batch);
        Ok(())
    }

    /// The machine has applied up to `index`.
    pub fn set_applied(&mut self, index: u64) {
        self.applied = index;
    }

    /// The configuration changed.
    pub fn set_conf(&mut self, conf: ConfState) {
        self.conf = conf;
    }

    /// Configuration as of the last applied entry.
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// The last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Bytes of entries since the last checkpoint.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.bytes_since_checkpoint
    }

    /// A checkpoint of what is applied now has been begun.
    pub fn checkpoint_begun(&mut self) {
        self.bytes_since_checkpoint = 0;
    }

    /// Whether a replica needs a snapshot.
    pub fn wants(&self) -> bool {
        self.wanted.get().is_some()
    }

    /// The replica that needs a snapshot, if one does; asking resets it.
    pub fn take_wanted(&self) -> Option<u64> {
        self.wanted.take()
    }

    /// What describes a checkpoint of the machine as it is now.
    pub fn meta(&self, generation: u32, replica: u64) -> Result<GroupMeta, StoreError> {
        Ok(GroupMeta {
            generation,
            replica,
            applied: self.applied,
            applied_term: self.term_of(self.applied)?,
            conf_state: self.conf.write_to_bytes().map_err(|e| self.db.corrupt(e))?,
        })
    }

    /// The term of an entry that is still there (or of the last one that is gone).
    pub fn term_of(&self, index: u64) -> Result<u64, StoreError> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index == self.last.0 && self.last.1 != 0 {
            return Ok(self.last.1);
        }
        if let Some(entry) = self.tail.get(index) {
            return Ok(entry.term);
        }
        match self.db.get(&storage::key(self.group, Tag::Entry, &index.to_be_bytes()))? {
            Some(bytes) => Ok(read_entry(&self.db, &bytes)?.term),
            None => Err(self.db.corrupt(format!("group {}: entry {index} is missing", self.group))),
        }
    }

    fn read(&self, low: u64, high: u64, max: u64) -> Result<Vec<Entry>, StoreError> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        let tail_first = self.tail.first().unwrap_or(high);
        if low < tail_first {
            let from = storage::key(self.group, Tag::Entry, &low.to_be_bytes());
            let to = storage::key(self.group, Tag::Entry, &tail_first.min(high).to_be_bytes());
            for row in self.db.range(&from, &to) {
                let entry = read_entry(&self.db, &row?.1)?;
                bytes += size(&entry) as u64;
                if bytes > max && !out.is_empty() {
                    return Ok(out);
                }
                out.push(entry);
            }
        }
        for index in low.max(tail_first)..high {
            let Some(entry) = self.tail.get(index) else { break };
            bytes += size(entry) as u64;
            if bytes > max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }
}

fn pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (a, b) = bytes.split_at_checked(8)?;
    Some((u64::from_be_bytes(a.try_into().ok()?), u64::from_be_bytes(b.try_into().ok()?)))
}

fn read_entry(db: &Database, bytes: &[u8]) -> Result<Entry, StoreError> {
    let mut entry = Entry::default();
    entry.merge_from_bytes(bytes).map_err(|e| db.corrupt(e))?;
    Ok(entry)
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(RaftError::Store(StorageError::Compacted));
        }
        let high = high.min(self.last.0 + 1);
        self.read(low, high, max_size.into().unwrap_or(u64::MAX)).map_err(raft_error)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.0 {
            return Err(RaftError::Store(StorageError::Compacted));
        }
        if index > self.last.0 {
            return Err(RaftError::Store(StorageError::Unavailable));
        }
        self.term_of(index).map_err(raft_error)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let serves = |p: &&Prepared| {
            p.index >= request_index
                && p.index >= self.truncated.0
                && (p.conf.voters.contains(&to)
                    || p.conf.learners.contains(&to)
                    || p.conf.voters_outgoing.contains(&to))
        };
        let Some(prepared) = self.prepared.as_ref().filter(serves) else {
            self.wanted.set(Some(to));
            return Err(RaftError::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = prepared.index;
        meta.term = prepared.term;
        meta.set_conf_state(prepared.conf.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::tail;

    fn open() -> (tempfile::TempDir, Database, Log) {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let meta = GroupMeta {
            generation: 1,
            replica: 1,
            applied: 1,
            applied_term: 1,
            conf_state: vec![],
        };
        let log = Log::open(&db, 3, &meta).unwrap();
        (dir, db, log)
    }

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![7; bytes].into(), ..Entry::default() }
    }

    fn append(db: &Database, log: &mut Log, entries: &[Entry]) {
        let mut batch = Batch::default();
        log.append(&mut batch, entries, 1).unwrap();
        db.write(&batch, false).unwrap();
        log.written(1);
    }

    fn indexes(log: &Log, low: u64, high: u64) -> Vec<(u64, u64)> {
        let context = GetEntriesContext::empty(false);
        log.entries(low, high, None, context).unwrap().iter().map(|e| (e.index, e.term)).collect()
    }

    #[test]
    fn conflicting_entries_are_replaced_also_on_disk() {
        let (_dir, db, mut log) = open();
        append(&db, &mut log, &[entry(2, 1, 1), entry(3, 1, 1), entry(4, 1, 1)]);
        append(&db, &mut log, &[entry(3, 2, 1)]);
        assert_eq!(indexes(&log, 2, 4), [(2, 1), (3, 2)]);
        let meta = GroupMeta { applied: 1, applied_term: 1, ..GroupMeta::default() };
        let again = Log::open(&db, 3, &meta).unwrap();
        assert_eq!(again.last.0, 3);
        assert_eq!(indexes(&again, 2, 4), [(2, 1), (3, 2)]);
    }

    #[test]
    fn old_entries_are_read_from_disk_and_truncation_forgets_them() {
        let (_dir, db, mut log) = open();
        let entries: Vec<Entry> = (2..12).map(|i| entry(i, 1, tail::BYTES / 4)).collect();
        append(&db, &mut log, &entries);
        assert!(log.tail.first() > Some(6), "the tail is bounded");
        assert_eq!(indexes(&log, 2, 12).len(), 10);
        assert_eq!(log.term(2).unwrap(), 1);
        log.set_applied(11);
        let mut batch = Batch::default();
        log.truncate(&mut batch, 8).unwrap();
        db.write(&batch, false).unwrap();
        assert_eq!(log.first_index().unwrap(), 9);
        assert!(matches!(log.term(7), Err(RaftError::Store(StorageError::Compacted))));
        assert_eq!(log.term(8).unwrap(), 1);
        let meta = GroupMeta { applied: 9, applied_term: 1, ..GroupMeta::default() };
        let again = Log::open(&db, 3, &meta).unwrap();
        assert_eq!((again.truncated.0, again.last.0), (8, 11));
    }

    #[test]
    fn a_missing_snapshot_is_asked_for_once() {
        let (_dir, _db, mut log) = open();
        assert!(log.snapshot(0, 9).is_err());
        assert_eq!((log.take_wanted(), log.take_wanted()), (Some(9), None));
        let conf = ConfState::from((vec![1], vec![9]));
        log.prepared = Some(Prepared {
            index: 5,
            term: 1,
            conf,
            image: Bytes::new(),
            made: std::time::Duration::ZERO,
        });
        assert_eq!(log.snapshot(0, 9).unwrap().get_metadata().index, 5);
        assert!(log.snapshot(0, 8).is_err(), "it was made before replica 8 was added");
    }
}
