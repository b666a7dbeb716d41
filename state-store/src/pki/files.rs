//! Files of keys and certificates: written whole or not at all, private ones for their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |cause| PkiError::File { path: path.display().to_string(), cause }
}

/// Replaces a file with these contents; after a crash it has the old ones or the new ones.
pub(super) fn write(path: &Path, contents: &[u8], private: bool) -> Result<(), PkiError> {
    let fresh = path.with_extension("new");
    let mode = if private { 0o600 } else { 0o644 };
    // A leftover of an earlier crash might have another mode, and `mode` only counts at creation.
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&fresh)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .map_err(failed(&fresh))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(failed(&fresh))?;
    fs::rename(&fresh, path).map_err(failed(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed(folder))
}

/// The contents of a file, none if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(path)(e)),
    }
}

/// The contents of a file that only its owner may read.
pub(super) fn read_private(path: &Path) -> Result<Option<String>, PkiError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let mode = fs::metadata(path).map_err(failed(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Permissions { path: path.display().to_string(), mode });
    }
    Ok(Some(text))
}

/// Makes a folder for private files, if it is not there.
pub(super) fn make_folder(path: &Path) -> Result<(), PkiError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}
