//! Taking a lab away: everything, whatever state it is in, and however often one asks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::disks;
use super::plan::{PLAN_FILE, Plan, RUN_BASE, run_dir, run_of_netns};
use super::spawn::{kill_all, kill_strays, start_time};
use crate::command::run;

const NETNS_DIR: &str = "/run/netns";

/// Whether `ip netns` has made its folder a mount point already. It does so with the first namespace.
pub fn netns_is_mounted() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(NETNS_DIR))
}

/// Whether there is a network namespace of this name.
pub fn netns_is_there(netns: &str) -> bool {
    Path::new(NETNS_DIR).join(netns).exists()
}

/// Where nobody has a namespace any more: leaves the machine without the mount, as it was.
pub async fn unmount_netns() -> Result<()> {
    if !namespaces().is_empty() {
        return Ok(());
    }
    if netns_is_mounted() {
        run(&["umount", NETNS_DIR]).await?;
    }
    std::fs::remove_dir(NETNS_DIR).ok();
    Ok(())
}

/// The names of all network namespaces that have one.
pub fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
    entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()
}

/// Removes a run: its processes, namespaces (and with them links, rules and routes), and its folder.
pub async fn remove(run_id: &str) -> Result<()> {
    let plan = Plan::load(run_id).ok();
    let ours = || -> Vec<String> {
        namespaces().into_iter().filter(|n| run_of_netns(n) == Some(run_id)).collect()
    };
    let folder = run_dir(run_id);
    disks::thaw_all(run_id).await;
    // More than once: a command that was under way when the run was cut off may add one behind us.
    for _ in 0..10 {
        // One that has not entered its namespace yet would be overlooked there.
        kill_strays(run_id).await?;
        let left = ours();
        if left.is_empty() {
            break;
        }
        for netns in &left {
            remove_netns(netns).await?;
        }
    }
    let left = ours();
    if !left.is_empty() {
        bail!("namespaces stay behind: {}; remove each with `ip netns del NAME`", left.join(", "));
    }
    if plan.is_some_and(|plan| plan.made_netns_mount) {
        unmount_netns().await?;
    }
    disks::detach_all(run_id).await?;
    remove_folder(&folder)
}

/// Ends what runs in a namespace and removes it (and with it its links, rules and routes).
pub async fn remove_netns(netns: &str) -> Result<()> {
    kill_all(netns).await.with_context(|| format!("ending what runs in {netns}"))?;
    if let Err(error) = run(&["ip", "netns", "del", netns]).await {
        // Gone meanwhile is fine.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if netns_is_there(netns) {
            eprintln!("warning: {error:#}");
        }
    }
    Ok(())
}

/// Removes a folder with everything in it; one that is not there is no error.
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The runs that have a folder or a namespace.
pub fn all_runs() -> BTreeSet<String> {
    let mut runs: BTreeSet<String> =
        namespaces().iter().filter_map(|n| run_of_netns(n)).map(str::to_owned).collect();
    if let Ok(entries) = std::fs::read_dir(RUN_BASE) {
        runs.extend(entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let run = run_of_netns(&format!("{name}-r1"))?.to_owned();
            entry.path().join(PLAN_FILE).is_file().then_some(run)
        }));
    }
    runs
}

/// Runs that nobody looks after any more: their process was killed, or their plan is gone.
pub fn stale_runs() -> Vec<String> {
    all_runs().into_iter().filter(|run| is_stale(Plan::load(run).ok().as_ref())).collect()
}

fn is_stale(plan: Option<&Plan>) -> bool {
    match plan {
        // Namespaces without a folder: somebody removed the folder by hand.
        None => true,
        Some(plan) if plan.standing => false,
        Some(plan) => start_time(plan.owner.0) != Some(plan.owner.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(owner: (u32, u64), standing: bool) -> Plan {
        Plan {
            run: "xtest".into(),
            directors: vec![1],
            backends: 1,
            clients: 1,
            guard_timeout_ms: 150,
            replicate_after: "3s".into(),
            bin_dir: "/".into(),
            clocks: false,
            own_disk: None,
            owner,
            standing,
            made_netns_mount: false,
        }
    }

    #[test]
    fn a_run_is_stale_when_its_process_is_gone() {
        let me = std::process::id();
        let started = start_time(me).unwrap();
        assert!(!is_stale(Some(&plan((me, started), false))));
        assert!(is_stale(Some(&plan((me, started + 1), false))), "the pid was given away again");
        assert!(is_stale(Some(&plan((u32::MAX / 4, 1), false))));
        assert!(!is_stale(Some(&plan((u32::MAX / 4, 1), true))), "left standing on purpose");
        assert!(is_stale(None));
    }
}
