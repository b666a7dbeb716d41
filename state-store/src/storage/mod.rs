//! The disk: two databases (RocksDB), one for the control group and this director's identity (always
//! written through), one for the session groups.

mod batch;
#[cfg(test)]
pub mod gate;
pub mod identity;
mod rocks;

use std::path::Path;
use std::sync::Arc;

use crate::store::error::StoreError;
pub use batch::{Batch, Step};

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

/// Records by key, in order, or why they cannot be read.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + 'a>;

/// What keeps a database's records.
pub trait Backend: Send + Sync {
    /// Where it keeps them, for people.
    fn place(&self) -> String;
    /// Reads one record.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Writes a batch as a whole; with `sync`, it and everything before it is on the disk when this
    /// returns.
    fn write(&self, batch: &Batch, sync: bool) -> Result<(), StoreError>;
    /// The records from `from` up to (not including) `to`, in order.
    fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_>;
}

/// A database. Clones are the same one.
#[derive(Clone)]
pub struct Database {
    backend: Arc<dyn Backend>,
    /// What becomes of writes.
    #[cfg(test)]
    pub gate: gate::Gated,
}

impl Database {
    /// Opens or creates a database on the disk. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Database, StoreError> {
        Ok(Database::over(Arc::new(rocks::Rocks::open(path)?)))
    }

    /// A database whose records are kept there.
    pub fn over(backend: Arc<dyn Backend>) -> Database {
        Database {
            backend,
            #[cfg(test)]
            gate: gate::Gated::default(),
        }
    }

    /// Deletes a database that is not open.
    pub fn destroy(path: &Path) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(storage_error(path.display(), e))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, cause: impl std::fmt::Display) -> StoreError {
        storage_error(self.backend.place(), cause)
    }

    /// Reads one record.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.backend.get(key)
    }

    /// Writes a batch as a whole; with `sync`, it is on the disk when this returns.
    pub fn write(&self, batch: &Batch, sync: bool) -> Result<(), StoreError> {
        #[cfg(test)]
        self.gate.pass().map_err(|e| self.error(e))?;
        self.backend.write(batch, sync)
    }

    /// The records from `from` up to (not including) `to`, in order.
    pub fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_> {
        self.backend.range(from, to)
    }

    /// An error about this database.
    pub fn corrupt(&self, cause: impl std::fmt::Display) -> StoreError {
        self.error(format!("{cause}; restore the disk, or remove the director and add it again"))
    }
}

/// Deletes everything of a group.
pub fn wipe_group(batch: &mut Batch, group: u16) {
    let from = group.to_be_bytes().to_vec();
    let mut to = from.clone();
    to.push(u8::MAX);
    batch.delete_range(from, to);
}

fn storage_error(place: impl std::fmt::Display, cause: impl std::fmt::Display) -> StoreError {
    StoreError::Storage { place: place.to_string(), cause: cause.to_string() }
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
        let mut batch = Batch::default();
        for group in [1, 2] {
            for index in 1..4u64 {
                batch.put(key(group, Tag::Entry, &index.to_be_bytes()), vec![group as u8]);
            }
            batch.put(key(group, Tag::HardState, &[]), *b"h");
        }
        db.write(&batch, false).unwrap();
        let rows = |group| db.range(&key(group, Tag::Entry, &[]), &end(group, Tag::Entry)).count();
        assert_eq!((rows(1), rows(2)), (3, 3));
        let mut batch = Batch::default();
        wipe_group(&mut batch, 1);
        db.write(&batch, true).unwrap();
        assert_eq!((rows(1), rows(2)), (0, 3));
        assert_eq!(db.get(&key(1, Tag::HardState, &[])).unwrap(), None);
    }
}
