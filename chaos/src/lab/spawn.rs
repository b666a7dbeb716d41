//! Starting processes that stay, and finding those that are there.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::plan::run_dir;
use crate::command::{command, run};

/// What a process of the lab is started by: it gets a session of its own, as many open files as the system
/// permits (bursts of connections need thousands), and a larger share of the processors where scheduling
/// groups follow sessions (CONFIG_SCHED_AUTOGROUP).
pub const OWN_SHARE: [&str; 5] = [
    "setsid",
    "sh",
    "-c",
    "ulimit -n \"$(ulimit -Hn)\"; { echo -10 >/proc/self/autogroup; } 2>/dev/null; exec \"$@\"",
    "lab",
];

/// How much a process may interrupt others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// Like everybody.
    Normal,
    /// Before everybody (SCHED_FIFO), where the system permits it.
    High,
}

/// Starts a process in a namespace, detached from us and from the terminal; its output goes to
/// the end of `log`. Gives its pid.
pub async fn spawn(
    netns: &str,
    argv: &[&str],
    priority: Priority,
    log: &Path,
    env: &[(&str, &str)],
) -> Result<u32> {
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
    let out = open().with_context(|| format!("opening {}", log.display()))?;
    let err = open().with_context(|| format!("opening {}", log.display()))?;
    // All of these replace themselves by the next, so the pid stays. `setsid` also gives each
    // process a scheduling group of its own, as machines would; the group gets a larger share, because
    // a director's machine would not share its processors with a compiler.
    let mut words = OWN_SHARE.to_vec();
    if priority == Priority::High && may_be_realtime().await {
        words.extend(["chrt", "-f", "1"]);
    }
    words.extend(["ip", "netns", "exec", netns]);
    words.extend(argv);
    let child = command(&words)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("cannot start `{}`", argv.join(" ")))?;
    child.id().with_context(|| format!("`{}` ended at once", argv.join(" ")))
}

/// Whether this system grants real-time priority (containers often do not).
async fn may_be_realtime() -> bool {
    run(&["chrt", "-f", "1", "true"]).await.is_ok()
}

/// A process in a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name, as the kernel knows it (15 bytes).
    pub name: String,
}

/// The processes in a namespace.
pub async fn processes(netns: &str) -> Result<Vec<Process>> {
    let pids = run(&["ip", "netns", "pids", netns]).await?;
    let named = pids.split_whitespace().filter_map(|pid| {
        let pid: u32 = pid.parse().ok()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(Process { pid, name: name.trim().to_owned() })
    });
    Ok(named.collect())
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid as i32), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {signal} to process {pid}")),
    }
}

/// The state letter of a process (`R`, `S`, `T` for stopped, `Z`), if it is there.
pub fn state(pid: u32) -> Option<char> {
    stat_fields(pid)?.first()?.chars().next()
}

/// Whether a thread of a process is in a wait that nothing can end but the device it waits for.
pub fn waits_for_a_disk(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tD"))
    })
}

/// When a process started (clock ticks since boot), if it is there.
pub fn start_time(pid: u32) -> Option<u64> {
    // Field 22 of proc(5); the list begins with field 3.
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Whether a process runs; one that has ended but was not collected does not.
pub fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|s| s != 'Z' && s != 'X')
}

fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
    let rest = stat.rsplit_once(')')?.1;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Kills everything in a namespace and waits until it is gone.
pub async fn kill_all(netns: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let left = processes(netns).await?;
        if left.is_empty() {
            return Ok(());
        }
        for process in &left {
            signal(process.pid, Signal::SIGKILL)?;
        }
        if tokio::time::Instant::now() > deadline {
            anyhow::bail!("processes in {netns} do not end: {left:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills the processes of a run that are in none of its namespaces: just started and about to enter one,
/// or in one that has lost its name meanwhile.
pub async fn kill_strays(run_id: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let ours = netns_of("self");
    loop {
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let elsewhere = || netns_of(&pid.to_string()).is_some_and(|ns| Some(ns) != ours);
            if is_stray(&line, run_id, elsewhere) && pid != std::process::id() && alive(pid) {
                left.push(pid);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            signal(*pid, Signal::SIGKILL)?;
        }
        if tokio::time::Instant::now() > deadline {
            anyhow::bail!("processes of lab {run_id} do not end: {left:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn netns_of(pid: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// Whether a command line is that of a run's process outside of its namespaces. People who look at its
/// logs name its folder too, but in the namespace that everybody is in.
fn is_stray(line: &[u8], run_id: &str, elsewhere: impl FnOnce() -> bool) -> bool {
    let has = |needle: String| line.windows(needle.len()).any(|w| w == needle.as_bytes());
    has(format!("netns\0exec\0hf-{run_id}-"))
        || has(format!("{}/", run_dir(run_id).display())) && elsewhere()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strays_are_told_from_those_who_only_look() {
        let entering = b"setsid\0sh\0-c\0x\0lab\0ip\0netns\0exec\0hf-xab12-b1\0server";
        assert!(is_stray(entering, "xab12", || false));
        assert!(!is_stray(entering, "xab1", || true), "another run");
        let daemon = b"holdfastd\0--config\0/tmp/hf-xab12/d1/node.toml";
        assert!(is_stray(daemon, "xab12", || true), "its namespace has no name any more");
        assert!(!is_stray(b"tail\0-f\0/tmp/hf-xab12/d1/holdfastd.log", "xab12", || false));
        assert!(!is_stray(daemon, "xab1", || true), "another run");
    }

    #[tokio::test]
    async fn a_process_about_to_enter_a_namespace_is_ended() {
        let mut other = command(&["sleep", "60"]).kill_on_drop(true).spawn().unwrap();
        let argv = ["sh", "-c", "sleep 60; :", "ip", "netns", "exec", "hf-xzzzz-d1"];
        let mut stray = command(&argv).kill_on_drop(true).spawn().unwrap();
        // It is a shell only when the new program has taken its place.
        let line = format!("/proc/{}/cmdline", stray.id().unwrap());
        while !std::fs::read(&line).unwrap().starts_with(b"sh\0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ended = tokio::time::timeout(Duration::from_secs(10), stray.wait());
        let (killed, status) = tokio::join!(kill_strays("xzzzz"), ended);
        killed.unwrap();
        assert!(!status.unwrap().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
    }

    #[test]
    fn states_of_processes() {
        let me = std::process::id();
        assert!(alive(me));
        assert!(start_time(me).is_some_and(|t| t > 0));
        assert!(state(me).is_some());
        assert!(!alive(u32::MAX / 4));
        assert!(signal(u32::MAX / 4, Signal::SIGTERM).is_ok(), "gone already");
    }
}
