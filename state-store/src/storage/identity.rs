//! Who this director is, and whether its disk can be trusted after the last end.
//!
//! A process that crashes loses nothing: what it wrote is in the kernel. A machine that crashes may
//! have lost what was not written through. The kernel's boot id, compared with the one noted at the
//! last start, tells the two apart; a clean mark written at a proper end excuses a new boot id.

use super::{Batch, Database};
use crate::codec;
use crate::codec::disk::Identity;
use crate::store::error::StoreError;

/// Group numbers are two bytes, so this key never collides with one of theirs.
const KEY: &[u8] = b"identity-of-this-director";

/// What the last end of the daemon means for its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastEnd {
    /// It ended by itself.
    Clean,
    /// The process died, the machine did not: nothing is lost.
    Crash,
    /// The machine went down and session groups were not written through, or a write failed: what
    /// the session groups remember cannot be trusted.
    Amnesia,
}

/// Reads the identity, if there is one.
pub fn read(db: &Database) -> Result<Option<Identity>, StoreError> {
    match db.get(KEY)? {
        None => Ok(None),
        Some(bytes) => codec::decode(&bytes).map(Some).map_err(|e| db.corrupt(e)),
    }
}

/// Writes the identity through to the disk.
pub fn write(db: &Database, identity: &Identity) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(KEY, codec::encode(identity));
    db.write(&batch, true)
}

/// Judges the last end and notes the start that begins now.
pub fn begin_run(identity: &mut Identity, boot_id: &str, fsync_always: bool) -> LastEnd {
    let end = if std::mem::take(&mut identity.damaged) {
        LastEnd::Amnesia
    } else if identity.clean {
        LastEnd::Clean
    } else if identity.boot_id == boot_id || identity.durable {
        LastEnd::Crash
    } else {
        LastEnd::Amnesia
    };
    identity.incarnation += 1;
    identity.boot_id = boot_id.to_owned();
    identity.clean = false;
    identity.durable = fsync_always;
    end
}

/// The kernel's boot id.
pub fn boot_id() -> Result<String, StoreError> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path).map(|id| id.trim().to_owned()).map_err(|e| StoreError::Storage {
        place: path.to_owned(),
        cause: format!("{e}; is /proc mounted?"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(clean: bool, durable: bool) -> Identity {
        Identity {
            cluster_id: "c".into(),
            name: "a".into(),
            incarnation: 3,
            boot_id: "boot-1".into(),
            clean,
            durable,
            ..Identity::default()
        }
    }

    #[test]
    fn only_a_machine_crash_without_write_through_is_amnesia() {
        for (clean, durable, boot, end) in [
            (false, false, "boot-1", LastEnd::Crash),
            (false, false, "boot-2", LastEnd::Amnesia),
            (false, true, "boot-2", LastEnd::Crash),
            (true, false, "boot-2", LastEnd::Clean),
        ] {
            let mut identity = identity(clean, durable);
            assert_eq!(begin_run(&mut identity, boot, false), end, "{clean} {durable} {boot}");
            assert_eq!((identity.incarnation, identity.clean), (4, false));
            assert_eq!(identity.boot_id, boot);
        }
    }

    #[test]
    fn a_replica_that_could_not_trust_its_disk_begins_anew_once() {
        let mut identity = identity(true, true);
        identity.damaged = true;
        assert_eq!(begin_run(&mut identity, "boot-1", false), LastEnd::Amnesia);
        assert_eq!(begin_run(&mut identity, "boot-1", false), LastEnd::Crash);
    }

    #[test]
    fn it_survives_in_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::open(dir.path()).unwrap();
        assert_eq!(read(&db).unwrap(), None);
        write(&db, &identity(true, false)).unwrap();
        drop(db);
        let db = Database::open(dir.path()).unwrap();
        assert_eq!(read(&db).unwrap(), Some(identity(true, false)));
    }
}
