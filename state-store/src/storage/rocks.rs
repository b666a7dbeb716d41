//! RocksDB behind [`super::Backend`].

use std::path::{Path, PathBuf};

use rocksdb::{DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use super::batch::{Batch, Step};
use super::{Backend, Rows, storage_error};
use crate::store::error::StoreError;

/// An open database.
pub struct Rocks {
    db: DB,
    path: PathBuf,
}

impl Rocks {
    /// Opens or creates a database. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Rocks, StoreError> {
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
                storage_error(path.display(), text)
            }
        })?;
        Ok(Rocks { db, path: path.to_owned() })
    }

    fn error(&self, cause: rocksdb::Error) -> StoreError {
        storage_error(self.path.display(), cause)
    }
}

impl Backend for Rocks {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(|e| self.error(e))
    }

    fn write(&self, batch: &Batch, sync: bool) -> Result<(), StoreError> {
        let mut all = WriteBatch::default();
        for step in batch.steps() {
            match step {
                Step::Put(key, value) => all.put(key, value),
                Step::Delete(key) => all.delete(key),
                Step::DeleteRange(from, to) => all.delete_range(from, to),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(all, &options).map_err(|e| self.error(e))
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Rows<'_> {
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_upper_bound(to.to_vec());
        let rows = self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), options);
        Box::new(rows.map(|row| match row {
            Ok((key, value)) => Ok((key.into_vec(), value.into_vec())),
            Err(e) => Err(self.error(e)),
        }))
    }
}
