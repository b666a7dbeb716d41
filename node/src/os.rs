//! Small pieces of glue to the operating system that `nix` does not wrap.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// A pidfd of a process (pidfd_open(2)). It is readable once the process has ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes possession of a descriptor that the parent process left open for us.
///
/// Fails when the number is not an open descriptor.
pub fn adopt_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD on an arbitrary number is harmless; it fails with EBADF when it is not open.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: it is open (checked above), it was handed to us by number on the command line, and
    // this is called once per number at the very start, before anything else opens descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above 2 except the two that are named. For a child that must not keep
/// its parent's sockets alive. Only for the very start of a program that owns no others yet.
pub fn close_all_but(keep: [i32; 2]) {
    let (low, high) = (keep[0].min(keep[1]), keep[0].max(keep[1]));
    for (from, to) in [(3, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
        if from <= to {
            // SAFETY: nothing in this process owns these descriptors yet: see the function's condition.
            unsafe { libc::close_range(from as u32, to as u32, 0) };
        }
    }
}

/// A copy of a descriptor that a child process will inherit.
pub fn inheritable(fd: impl AsFd) -> io::Result<OwnedFd> {
    let copy = fd.as_fd().try_clone_to_owned()?;
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

/// Gives the calling thread a real-time priority (SCHED_FIFO).
pub fn realtime_priority(priority: i32) -> io::Result<()> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is a valid sched_param that lives across the call; pid 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the calling thread's nice value (-20 to 19).
pub fn nice_thread(nice: i32) -> io::Result<()> {
    // SAFETY: takes and returns integers; on Linux, PRIO_PROCESS with a thread id concerns that thread.
    let tid = unsafe { libc::gettid() };
    // SAFETY: as above.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, tid as libc::id_t, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts the session's scheduling group before those of ordinary sessions. With autogroups (Linux's
/// default outside of cgroups) a nice value only counts within its own group.
pub fn raise_autogroup() -> io::Result<()> {
    std::fs::write("/proc/self/autogroup", "-10")
}

/// No core dumps of this process: writing one would keep its descriptors open for seconds.
pub fn forbid_core_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that lives across the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) } != 0 {
        return Err(io::Error::last_os_error());
    }
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Raises the limit of open files to what the kernel allows this process.
pub fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that the call fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit that lives across the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_tells_the_death_of_a_child() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut child =
            std::process::Command::new("/bin/sleep").arg("1000").spawn().expect("sleep exists");
        let fd = pidfd_open(child.id()).unwrap();
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 0);
        child.kill().unwrap();
        assert_eq!(poll(&mut fds, PollTimeout::from(5_000u16)).unwrap(), 1);
        child.wait().unwrap();
    }

    #[test]
    fn numbers_that_are_not_open_are_not_adopted() {
        assert!(adopt_fd(0).is_err());
        assert!(adopt_fd(100_000).is_err());
    }
}
