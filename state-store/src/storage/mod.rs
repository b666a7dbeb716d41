//! The disk: two RocksDB databases, one for the control group and this director's identity (always
//! written through), one for the session groups.

#[cfg(test)]
pub mod gate;
pub mod identity;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use crate::store::error::StoreError;

/// A group's kinds of record. The group's number comes first in every key, then one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Tag {
    /// Log entries, by index.
    Entry = b'e',
    /// Term, vote, commit.
    HardState = b'h',
    /// [`crate::codec::disk::GroupMeta`], written together with the checkpoint it describes.
    Meta = b'm',
    /// Records of the state machine.
    Record = b'r',
    /// Index and term up to which the log is gone.
    Truncated = b't',
}

/// A key of a group.
pub fn key(group: u16, tag: Tag, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + rest.len());
    key.extend_from_slice(&group.to_be_bytes());
    key.push(tag as u8);
    key.extend_from_slice(rest);
    key
}

/// The first key behind all keys of `tag`.
pub fn end(group: u16, tag: Tag) -> Vec<u8> {
    let mut key = key(group, tag, &[]);
    key[2] += 1;
    key
}

/// A RocksDB database.
#[derive(Clone)]
pub struct Database {
    db: Arc<DB>,
    path: Arc<PathBuf>,
    /// What becomes of writes.
    #[cfg(test)]
    pub gate: gate::Gated,
}

impl Database {
    /// Opens or creates a database. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Database, StoreError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(64 << 20);
        options.set_max_write_buffer_number(3);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(256 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(256);
        let db = DB::open(&options, path).map_err(|e| {
            let text = e.to_string();
            if text.contains("lock") || text.contains("LOCK") {
                StoreError::Locked(path.to_owned())
            } else {
                storage_error(path, text)
            }
        })?;
        Ok(Database {
            db: Arc::new(db),
            path: Arc::new(path.to_owned()),
            #[cfg(test)]
            gate: gate::Gated::default(),
        })
    }

    /// Deletes a database that is not open.
    pub fn destroy(path: &Path) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(storage_error(path, e)),
            _ => Ok(()),
        }
    }

    fn error(&self, cause: impl std::fmt::Display) -> StoreError {
        storage_error(&self.path, cause)
    }

    /// Reads one record.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(|e| self.error(e))
    }

    /// Writes a batch as a whole; with `sync`, it is on the disk when this returns.
    pub fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        #[cfg(test)]
        self.gate.pass().map_err(|e| self.error(e))?;
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(|e| self.error(e))
    }

    /// Everything written so far is on the disk when this returns.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush_wal(true).map_err(|e| self.error(e))
    }

    /// The records from `from` up to (not including) `to`, in order.
    pub fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + '_ {
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_upper_bound(to.to_vec());
        self.db
            .iterator_opt(IteratorMode::From(from, Direction::Forward), options)
            .map(|row| row.map(|(k, v)| (k.into_vec(), v.into_vec())).map_err(|e| self.error(e)))
    }

    /// An error about this database.
    pub fn corrupt(&self, cause: impl std::fmt::Display) -> StoreError {
        self.error(format!("{cause}; restore the disk, or remove the director and add it again"))
    }
}

/// Deletes everything of a group.
pub fn wipe_group(batch: &mut WriteBatch, group: u16) {
    let from = group.to_be_bytes().to_vec();
    let mut to = from.clone();
    to.push(u8::MAX);
    batch.delete_range(from, to);
}

fn storage_error(path: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Storage { place: path.display().to_string(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_serves_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = Database::open(dir.path()).unwrap();
        assert!(matches!(Database::open(dir.path()), Err(StoreError::Locked(_))));
        drop(first);
        Database::open(dir.path()).unwrap();
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let mut batch = WriteBatch::default();
        for group in [1, 2] {
            for index in 1..4u64 {
                batch.put(key(group, Tag::Entry, &index.to_be_bytes()), [group as u8]);
            }
            batch.put(key(group, Tag::HardState, &[]), b"h");
        }
        db.write(batch, false).unwrap();
        let rows = |group| db.range(&key(group, Tag::Entry, &[]), &end(group, Tag::Entry)).count();
        assert_eq!((rows(1), rows(2)), (3, 3));
        let mut batch = WriteBatch::default();
        wipe_group(&mut batch, 1);
        db.write(batch, true).unwrap();
        assert_eq!((rows(1), rows(2)), (0, 3));
        assert_eq!(db.get(&key(1, Tag::HardState, &[])).unwrap(), None);
    }
}
