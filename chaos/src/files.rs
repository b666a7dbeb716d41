//! Files that outlive us: written whole, and owned by whoever called sudo.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file. Under sudo it is given to the user who called it, not left to root.
pub fn write_for_caller(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    give_to_caller(file);
    Ok(())
}

/// Removes a file; one that is not there is no error.
pub fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Under sudo, gives a file or folder to the user who called it.
pub fn give_to_caller(path: &Path) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) {
        // A file system without owners is no reason to fail.
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).ok();
    }
}

/// A folder that version control ignores, for logs of runs that failed: beside the build, if this
/// program was built by cargo.
pub fn kept_logs() -> Option<std::path::PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let build = exe.parent()?.parent()?;
    build.join("CACHEDIR.TAG").is_file().then(|| build.join("chaos-logs"))
}

/// Copies what can be read of a run's folder (logs and configurations, no data) to `to`.
pub fn copy_logs(from: &Path, to: &Path) -> Result<()> {
    for machine in std::fs::read_dir(from)?.flatten() {
        let Ok(files) = std::fs::read_dir(machine.path()) else { continue };
        for file in files.flatten() {
            let name = file.file_name();
            let keep = [".log", ".out", ".conf", ".toml", ".prom", ".json"];
            let Some(text) = name.to_str().filter(|n| keep.iter().any(|k| n.ends_with(k))) else {
                continue;
            };
            let dir = to.join(machine.file_name());
            std::fs::create_dir_all(&dir)?;
            give_to_caller(&dir);
            std::fs::copy(file.path(), dir.join(text))?;
            give_to_caller(&dir.join(text));
        }
    }
    give_to_caller(to);
    Ok(())
}
