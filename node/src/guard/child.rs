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
    /// The guard before it let go, and nobody has been told yet.
    #[error("the guard let go a moment ago, which has to be noticed first")]
    Unnoticed,
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
    /// The guard whose end has not been told yet.
    child: Option<Child>,
    /// The one before it: its release has been told, its process may be about to end.
    ending: Option<Child>,
    /// How often guards let go, by reason. Counted when the daemon notices it.
    releases: BTreeMap<Reason, u64>,
}

/// Whether a process has ended; it is reaped then.
fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
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
    /// Refuses while [`Guard::poll`] has a release to tell: a guard that is replaced first would
    /// have let go unnoticed.
    ///
    /// Blocks for up to three seconds: not for the control loop.
    pub fn start(&self) -> Result<u32, GuardError> {
        let mut state = self.state.lock();
        if state.child.is_some() {
            return match self.page.guard_state() {
                GuardState::Holding => Ok(self.page.ifindex.load(Ordering::Relaxed) as u32),
                _ => Err(GuardError::Unnoticed),
            };
        }
        if let Some(mut old) = state.ending.take() {
            // It has let go; there must not be two on one page.
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

    /// Tells the guard to let go because this daemon was stalled. Never waits.
    pub fn release_stalled(&self) {
        self.page.command.store(Command::Stalled as u64, Ordering::Release);
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
        if state.ending.as_mut().is_some_and(has_ended) {
            state.ending = None;
        }
        // Looked at in this order: a guard says that it has let go before it ends. It may take its
        // time to end, but the routes are gone already.
        let ended = has_ended(state.child.as_mut()?);
        let released = self.page.guard_state() == GuardState::Released;
        if !ended && !released {
            return None;
        }
        state.ending = state.child.take().filter(|_| !ended);
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
        let state = self.state.get_mut();
        let deadline = Instant::now() + Duration::from_millis(500);
        for mut child in [state.child.take(), state.ending.take()].into_iter().flatten() {
            while Instant::now() < deadline && !has_ended(&mut child) {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guard whose process does nothing, ever; the test says on the page what it would say.
    fn lingering() -> Guard {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lingering-guard");
        Guard::new(&program, "hf0", 50).unwrap()
    }

    fn start(guard: &Guard) {
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| guard.start().unwrap());
            while !starting.is_finished() {
                guard.page.state.store(GuardState::Holding as u64, Ordering::Release);
                std::thread::yield_now();
            }
        });
    }

    fn let_go(guard: &Guard, reason: Reason) {
        guard.page.reason.store(reason as u64, Ordering::Relaxed);
        guard.page.state.store(GuardState::Released as u64, Ordering::Release);
    }

    #[test]
    fn a_release_is_told_although_the_guard_takes_its_time_to_end() {
        let guard = lingering();
        start(&guard);
        assert_eq!(guard.poll(), None);
        let_go(&guard, Reason::ControlSilent);
        assert_eq!(guard.poll(), Some(Reason::ControlSilent));
        assert_eq!(guard.poll(), None, "told once");
        assert_eq!((guard.pid(), guard.releases()[&Reason::ControlSilent]), (None, 1));
        start(&guard);
        assert_eq!(guard.poll(), None, "the new one holds");
    }

    #[test]
    fn no_guard_takes_the_place_of_one_whose_release_is_untold() {
        let guard = lingering();
        start(&guard);
        let pid = guard.pid();
        let_go(&guard, Reason::WorkerSilent);
        assert!(matches!(guard.start(), Err(GuardError::Unnoticed)));
        assert_eq!(guard.pid(), pid);
        assert_eq!(guard.poll(), Some(Reason::WorkerSilent));
    }
}
