//! The guard as a process: start, watch, let go.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::Reason;
use super::tun::Tun;
use super::watch::Watch;
use crate::clock::mono_ns;
use crate::os;
use crate::shm::{Command, GuardState, SharedPage};

/// How often the guard looks.
const POLL_MS: u16 = 5;

/// Its real-time priority: above everything ordinary, below the kernel's own threads.
const PRIORITY: i32 = 5;

/// What the daemon tells its guard on the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// Name of the TUN device.
    pub device: String,
    /// Silence (ms) after which it lets go.
    pub timeout_ms: u64,
    /// Descriptor of the shared page.
    pub page_fd: i32,
    /// Pidfd of the daemon.
    pub pid_fd: i32,
}

impl Arguments {
    /// The command line that says this.
    pub fn to_args(&self) -> [String; 4] {
        [
            format!("--device={}", self.device),
            format!("--timeout-ms={}", self.timeout_ms),
            format!("--page-fd={}", self.page_fd),
            format!("--pid-fd={}", self.pid_fd),
        ]
    }

    /// Reads a command line.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let (mut device, mut timeout_ms, mut page_fd, mut pid_fd) = (None, None, None, None);
        for arg in args {
            let (name, value) = arg.split_once('=').ok_or(format!("`{arg}` is not NAME=VALUE"))?;
            let number = || value.parse::<i32>().map_err(|_| format!("`{arg}` wants a number"));
            match name {
                "--device" => device = Some(value.to_owned()),
                "--timeout-ms" => timeout_ms = Some(number()?.max(1) as u64),
                "--page-fd" => page_fd = Some(number()?),
                "--pid-fd" => pid_fd = Some(number()?),
                _ => return Err(format!("`{name}` is not known")),
            }
        }
        let missing =
            |what: &str| format!("{what} is missing; holdfastd starts this program itself");
        Ok(Arguments {
            device: device.ok_or_else(|| missing("--device"))?,
            timeout_ms: timeout_ms.ok_or_else(|| missing("--timeout-ms"))?,
            page_fd: page_fd.ok_or_else(|| missing("--page-fd"))?,
            pid_fd: pid_fd.ok_or_else(|| missing("--pid-fd"))?,
        })
    }
}

/// Writes a line to stderr without allocating.
macro_rules! say {
    ($($arg:tt)*) => {{
        let mut line = [0u8; 200];
        let mut rest = &mut line[..];
        // A line that does not fit is cut; a stderr that nobody reads is not our business.
        let _ = writeln!(rest, $($arg)*);
        let left = rest.len();
        let _ = std::io::stderr().write_all(&line[..line.len() - left]);
    }};
}

/// Runs the guard until it lets go. An error means that it never held the routes.
pub fn run(args: &Arguments) -> Result<Reason, String> {
    os::close_all_but([args.page_fd, args.pid_fd]);
    let explain = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    let page_fd = os::adopt_fd(args.page_fd).map_err(|e| explain("--page-fd", &e))?;
    let pid_fd = os::adopt_fd(args.pid_fd).map_err(|e| explain("--pid-fd", &e))?;
    let page = SharedPage::open(&page_fd).map_err(|e| explain("shared page", &e))?;
    // It ends when the daemon does or says so; signals to the process group (Ctrl-C) are for the daemon.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        ignored.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ignored), None)
        .map_err(|e| explain("sigprocmask", &e))?;
    let tun = Tun::create(&args.device).map_err(|e| {
        page.detail.store(e.raw_os_error().unwrap_or(0) as u64, Ordering::Relaxed);
        format!("TUN device `{}`: {e} (needs CAP_NET_ADMIN and /dev/net/tun)", args.device)
    })?;
    if let Err(e) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        say!("holdfast-guard: warning: memory is not locked ({e}); needs CAP_IPC_LOCK");
    }
    if let Err(e) = os::realtime_priority(PRIORITY) {
        say!("holdfast-guard: warning: no real-time priority ({e}); needs CAP_SYS_NICE");
    }
    // Best effort: needs CAP_SYS_RESOURCE.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");

    page.ifindex.store(u64::from(tun.ifindex()), Ordering::Relaxed);
    page.guard_beat_ns.store(mono_ns(), Ordering::Relaxed);
    page.state.store(GuardState::Holding as u64, Ordering::Release);

    let (reason, slot) = watch(page, pid_fd.as_fd(), args.timeout_ms);

    // First let go, then say why.
    drop(tun);
    let now = mono_ns();
    page.reason.store(reason as u64, Ordering::Relaxed);
    page.detail.store(slot as u64, Ordering::Relaxed);
    page.released_ns.store(now, Ordering::Relaxed);
    page.state.store(GuardState::Released as u64, Ordering::Release);
    match reason {
        Reason::Command => {}
        Reason::WorkerSilent => {
            say!("holdfast-guard: released {}: worker {} silent", args.device, slot - 1);
        }
        _ => say!("holdfast-guard: released {}: {}", args.device, reason.label()),
    }
    Ok(reason)
}

/// Watches until there is a reason to let go; also tells the silent slot. Allocates nothing.
fn watch(
    page: &SharedPage,
    pid_fd: std::os::fd::BorrowedFd<'_>,
    timeout_ms: u64,
) -> (Reason, usize) {
    let mut watch = Watch::new(timeout_ms * 1_000_000, u64::from(POLL_MS) * 1_000_000);
    let mut last = mono_ns();
    loop {
        let mut fds = [PollFd::new(pid_fd, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(POLL_MS)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return (Reason::DaemonDied, 0),
            Err(_) => return (Reason::GuardFailed, 0),
        }
        match page.wanted() {
            Command::Hold => {}
            Command::Release => return (Reason::Command, 0),
            Command::Stalled => return (Reason::Stalled, 0),
        }
        let now = mono_ns();
        page.guard_beat_ns.store(now, Ordering::Relaxed);
        match watch.look(now - last, |slot| page.beat(slot).load(Ordering::Relaxed)) {
            Some(0) => return (Reason::ControlSilent, 0),
            Some(slot) => return (Reason::WorkerSilent, slot),
            None => last = now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_survives_the_trip() {
        let args = Arguments { device: "hf0".to_owned(), timeout_ms: 150, page_fd: 5, pid_fd: 6 };
        assert_eq!(Arguments::parse(args.to_args().into_iter()), Ok(args));
    }

    #[test]
    fn a_wrong_command_line_is_explained() {
        let parse = |args: &[&str]| Arguments::parse(args.iter().map(|a| (*a).to_owned()));
        assert!(parse(&["--device=hf0"]).unwrap_err().contains("--timeout-ms is missing"));
        assert!(parse(&["--colour=red"]).unwrap_err().contains("not known"));
        assert!(parse(&["--page-fd=x"]).unwrap_err().contains("wants a number"));
    }
}
