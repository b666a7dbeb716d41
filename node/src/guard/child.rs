//! The daemon's side of the guard: starting it, telling it to let go, noticing that it did.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Reason;
use super::run::Arguments;
use crate::clock::mono_ns;
use crate::os;
use crate::shm::{Command, GuardState, SharedPage};

/// How long a guard may take to hold its device.
const START_DEADLINE: Duration = Duration::from_secs(3);

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The program could not be started.
    #[error(
        "cannot start the guard `{path}`: {source}; it is installed beside holdfastd, or named by HOLDFAST_GUARD"
    )]
    Spawn {
        /// Where it was looked for.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It ended before it held its device.
    #[error(
        "the guard ended at once ({0}); its message is in the log above (CAP_NET_ADMIN and /dev/net/tun are needed)"
    )]
    Ended(std::process::ExitStatus),
    /// It does not get anywhere.
    #[error("the guard did not hold its device within {} s", START_DEADLINE.as_secs())]
    Slow,
    /// An operating system call failed.
    #[error("guard: {0}")]
    Os(#[from] io::Error),
}

/// The one guard of this daemon, and the memory it shares with it.
pub struct Guard {
    page: &'static SharedPage,
    page_fd: OwnedFd,
    program: PathBuf,
    device: String,
    timeout_ms: u64,
    pid: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    /// How often guards let go, by reason. Counted when the daemon notices it.
    releases: BTreeMap<Reason, u64>,
}

/// Where the guard's program is: `HOLDFAST_GUARD`, or beside this one.
pub fn default_program() -> PathBuf {
    if let Some(path) = std::env::var_os("HOLDFAST_GUARD") {
        return path.into();
    }
    let beside =
        std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join("holdfast-guard")));
    beside.unwrap_or_else(|| "holdfast-guard".into())
}

impl Guard {
    /// Makes the shared page. No process is started yet.
    pub fn new(program: &Path, device: &str, timeout_ms: u64) -> io::Result<Guard> {
        let (page, page_fd) = SharedPage::create()?;
        Ok(Guard {
            page,
            page_fd,
            program: program.to_owned(),
            device: device.to_owned(),
            timeout_ms,
            pid: AtomicU32::new(0),
            state: Mutex::default(),
        })
    }

    /// The shared page, for the threads that beat.
    pub fn page(&self) -> &'static SharedPage {
        self.page
    }

    /// Starts a guard if none holds the device, waits until it does, and tells the device's index.
    ///
    /// Blocks for up to three seconds: not for the control loop.
    pub fn start(&self) -> Result<u32, GuardError> {
        let mut state = self.state.lock();
        if state.child.is_some() && self.page.guard_state() == GuardState::Holding {
            return Ok(self.page.ifindex.load(Ordering::Relaxed) as u32);
        }
        if let Some(mut old) = state.child.take() {
            // It has let go or never got there; there must not be two on one page.
            let _ = old.kill();
            old.wait()?;
        }
        self.page.reset_guard();
        let page_fd = os::inheritable(&self.page_fd)?;
        let pid_fd = os::inheritable(os::pidfd_open(std::process::id())?)?;
        let args = Arguments {
            device: self.device.clone(),
            timeout_ms: self.timeout_ms,
            page_fd: page_fd.as_raw_fd(),
            pid_fd: pid_fd.as_raw_fd(),
        };
        let mut child = Process::new(&self.program)
            .args(args.to_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| GuardError::Spawn { path: self.program.clone(), source })?;
        drop((page_fd, pid_fd));
        let deadline = Instant::now() + START_DEADLINE;
        while self.page.guard_state() != GuardState::Holding {
            if let Some(status) = child.try_wait()? {
                return Err(GuardError::Ended(status));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                child.wait()?;
                return Err(GuardError::Slow);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.pid.store(child.id(), Ordering::Relaxed);
        state.child = Some(child);
        Ok(self.page.ifindex.load(Ordering::Relaxed) as u32)
    }

    /// Tells the guard to let go. Never waits; [`Guard::poll`] notices when it has.
    pub fn command_release(&self) {
        self.page.command.store(Command::Release as u64, Ordering::Release);
    }

    /// Whether a guard holds the device now.
    pub fn holding(&self) -> bool {
        self.page.guard_state() == GuardState::Holding
    }

    /// Ends a guard that has not looked for this long: a frozen one would hold the routes of a dead
    /// daemon. Tells whether it did; [`Guard::poll`] then notices the release.
    pub fn end_if_frozen(&self, longer_than: Duration) -> bool {
        let beat_ns = self.page.guard_beat_ns.load(Ordering::Relaxed);
        let silent = Duration::from_nanos(mono_ns().saturating_sub(beat_ns));
        if !self.holding() || beat_ns == 0 || silent < longer_than {
            return false;
        }
        let Some(mut state) = self.state.try_lock() else { return false };
        // It may have ended by itself meanwhile; then there is nothing to kill.
        state.child.as_mut().is_some_and(|child| child.kill().is_ok())
    }

    /// The guard's process id, if one runs.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Tells once per guard that it has let go, and why. Never waits.
    pub fn poll(&self) -> Option<Reason> {
        let mut state = self.state.try_lock()?;
        let child = state.child.as_mut()?;
        let ended = match child.try_wait() {
            Ok(status) => status.is_some(),
            Err(_) => true,
        };
        let released = self.page.guard_state() == GuardState::Released;
        if !ended {
            // It has let go and is about to end: noticed at the next look, with the child reaped.
            return None;
        }
        state.child = None;
        self.pid.store(0, Ordering::Relaxed);
        // A guard that ended without saying why was killed, and the device went with it.
        let reason = match released {
            true => Reason::of(self.page.reason.load(Ordering::Relaxed)),
            false => Reason::GuardFailed,
        };
        self.page.state.store(GuardState::Released as u64, Ordering::Release);
        *state.releases.entry(reason).or_default() += 1;
        Some(reason)
    }

    /// How often guards let go, by reason.
    pub fn releases(&self) -> BTreeMap<Reason, u64> {
        let counted = &self.state.lock().releases;
        Reason::ALL.into_iter().map(|r| (r, counted.get(&r).copied().unwrap_or(0))).collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.command_release();
        if let Some(mut child) = self.state.lock().child.take() {
            let deadline = Instant::now() + Duration::from_millis(500);
            while Instant::now() < deadline {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
