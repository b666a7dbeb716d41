//! Disks that can fill up and stand still: a small file system in a file, mounted as a director's data
//! directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::{Plan, Site, run_dir};
use crate::command::run;

/// Size of such a disk: what a director of the lab needs, several times.
const SIZE: u64 = 256 << 20;
/// The file that fills it.
const FILLER: &str = "filler";

fn data_dir(plan: &Plan, site: Site) -> PathBuf {
    plan.file(&site.name(), "data")
}

/// Gives a director that has not been started yet a disk of its own.
pub async fn attach(plan: &Plan, site: Site) -> Result<()> {
    let dir = data_dir(plan, site);
    std::fs::create_dir_all(&dir)?;
    let image = plan.file(&site.name(), "disk.img");
    std::fs::File::create(&image)?.set_len(SIZE)?;
    let (image, dir) = (image.display().to_string(), dir.display().to_string());
    // Without extents nothing can be allocated ahead: a log that has a few megabytes of its own in reserve
    // would not notice for long that there is no room.
    run(&["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^extent,^64bit", &image]).await?;
    run(&["mount", "-o", "loop", &image, &dir]).await.context("mounting a disk")?;
    // A data directory that is not empty is somebody's.
    std::fs::remove_dir(Path::new(&dir).join("lost+found")).ok();
    Ok(())
}

/// Leaves no free byte on a director's disk; gives how many bytes that took.
pub fn fill(plan: &Plan, site: Site) -> Result<u64> {
    use std::io::Write;
    let mut file = std::fs::File::create(data_dir(plan, site).join(FILLER))?;
    let (chunk, mut written) = (vec![0; 64 << 10], 0);
    let mut size = chunk.len();
    loop {
        match file.write(&chunk[..size]) {
            Ok(0) => break,
            Ok(n) => written += n as u64,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size > 1 => size /= 2,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => break,
            Err(error) => return Err(error).context("filling a disk"),
        }
    }
    // What is only promised takes no room yet.
    file.sync_all().ok();
    Ok(written)
}

/// Takes [`fill`] back.
pub fn empty(plan: &Plan, site: Site) -> Result<()> {
    std::fs::remove_file(data_dir(plan, site).join(FILLER)).context("emptying a disk")
}

/// From now on whoever writes to a director's disk waits.
pub async fn freeze(plan: &Plan, site: Site) -> Result<()> {
    run(&["fsfreeze", "-f", &data_dir(plan, site).display().to_string()]).await.map(|_| ())
}

/// Takes [`freeze`] back.
pub async fn thaw(plan: &Plan, site: Site) -> Result<()> {
    run(&["fsfreeze", "-u", &data_dir(plan, site).display().to_string()]).await.map(|_| ())
}

/// Lets whoever waits for a disk of a run go on: before that, not even SIGKILL ends them.
pub async fn thaw_all(run_id: &str) {
    for dir in mounted(run_id) {
        run(&["fsfreeze", "-u", &dir]).await.ok();
    }
}

/// Takes the disks of a run away, when nobody uses them any more.
pub async fn detach_all(run_id: &str) -> Result<()> {
    for dir in mounted(run_id) {
        run(&["umount", &dir]).await.with_context(|| format!("unmounting {dir}"))?;
    }
    Ok(())
}

fn mounted(run_id: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    within(&mounts, &run_dir(run_id))
}

/// The mount points in a folder.
fn within(mounts: &str, folder: &Path) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| Path::new(point).starts_with(folder)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_of_the_run_are_its_own() {
        let mounts = "/dev/loop0 /tmp/hf-xab12/d2/data ext4 rw 0 0\n\
                      /dev/loop1 /tmp/hf-xab1/d2/data ext4 rw 0 0\n\
                      tmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(within(mounts, Path::new("/tmp/hf-xab12")), ["/tmp/hf-xab12/d2/data"]);
        assert_eq!(within(mounts, Path::new("/tmp/hf-xab1")), ["/tmp/hf-xab1/d2/data"]);
    }
}
