//! The system calls that rings and workers need, each behind a safe function.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// A piece of mapped memory; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread. The type itself gives no access to
// the bytes; whoever turns them into references answers for sharing them.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives addresses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed private memory.
    pub(crate) fn anonymous(length: usize) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        Mapping::checked(address, length)
    }

    /// What `fd` offers at `offset`, shared with the kernel and faulted in at once.
    pub(crate) fn shared(fd: BorrowedFd<'_>, length: usize, offset: i64) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        Mapping::checked(address, length)
    }

    fn checked(address: *mut libc::c_void, length: usize) -> io::Result<Mapping> {
        match NonNull::new(address.cast::<u8>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Mapping { address, length })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Asks for huge pages.
    pub(crate) fn advise_huge_pages(&self) -> io::Result<()> {
        // SAFETY: the range is exactly this mapping, and the advice does not change its contents.
        let result = unsafe {
            libc::madvise(self.address.as_ptr().cast(), self.length, libc::MADV_HUGEPAGE)
        };
        check(result).map(drop)
    }

    /// How long it is, in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Its first byte.
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.address
    }

    /// Where `count` values of `T` lie at `offset`, if they lie inside and aligned.
    pub(crate) fn at<T>(&self, offset: usize, count: usize) -> Option<NonNull<T>> {
        let end = offset.checked_add(count.checked_mul(size_of::<T>())?)?;
        if end > self.length || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` lies inside this mapping, so the sum is inside one allocation.
        let at = unsafe { self.address.add(offset) };
        Some(at.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what mmap gave, and nothing borrows from a dropped mapping.
        // A failure would leave it mapped, which harms nobody.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// Turns a C result into an `io::Result`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A new descriptor out of a C result.
pub(crate) fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the caller passes the result of a call that creates a descriptor, so it is open and
    // nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to be written to. CLOCK_MONOTONIC cannot fail (POSIX).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Wakes a thread out of [`wait`].
#[derive(Debug)]
pub(crate) struct EventFd(File);

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        // SAFETY: takes two integers, and creates a descriptor.
        let fd = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(EventFd(fd.into()))
    }

    /// Makes the next (or current) wait return. Never blocks.
    pub(crate) fn signal(&self) {
        use io::Write;
        // The only possible failure is a counter at its limit: then it is signalled already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Takes the signal back.
    pub(crate) fn clear(&self) {
        use io::Read;
        // Nothing to read means nothing to clear.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}

/// What ended a [`wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    /// The first descriptor can be read.
    pub(crate) first: bool,
    /// The first descriptor reports an error.
    pub(crate) first_failed: bool,
    /// The second descriptor can be read.
    pub(crate) second: bool,
}

/// Waits until one of two descriptors can be read, `timeout_ms` at the most.
pub(crate) fn wait(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    timeout_ms: i32,
) -> io::Result<Ready> {
    let entry =
        |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut fds = [entry(first), entry(second)];
    // SAFETY: `fds` is a valid array of two entries for the length of the call.
    let result = check(unsafe { libc::poll(fds.as_mut_ptr(), 2, timeout_ms) });
    match result {
        Ok(_) => Ok(Ready {
            first: fds[0].revents & libc::POLLIN != 0,
            first_failed: fds[0].revents & (libc::POLLERR | libc::POLLNVAL) != 0,
            second: fds[1].revents & libc::POLLIN != 0,
        }),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            Ok(Ready { first: false, first_failed: false, second: false })
        }
        Err(e) => Err(e),
    }
}

/// Sets the nice value of the calling thread.
pub(crate) fn set_thread_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes integers only; thread 0 is the calling one.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

/// Lifts the limit of locked memory of this process.
pub(crate) fn lift_memlock_limit() -> io::Result<()> {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `all` is a valid rlimit for the length of the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let before = monotonic_ns();
        assert!(before > 0);
        assert!(monotonic_ns() >= before);
    }

    #[test]
    fn a_signal_ends_a_wait_once() {
        let (one, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let idle = wait(one.as_fd(), other.as_fd(), 0).unwrap();
        assert!(!idle.first && !idle.second);
        other.signal();
        other.signal();
        let ready = wait(one.as_fd(), other.as_fd(), 1_000).unwrap();
        assert_eq!(ready, Ready { first: false, first_failed: false, second: true });
        other.clear();
        assert!(!wait(one.as_fd(), other.as_fd(), 0).unwrap().second);
    }

    #[test]
    fn a_mapping_gives_only_what_lies_inside() {
        let mapping = Mapping::anonymous(4096).unwrap();
        assert!(mapping.at::<u64>(0, 512).is_some());
        assert!(mapping.at::<u64>(8, 512).is_none());
        assert!(mapping.at::<u64>(4, 1).is_none(), "not aligned");
        assert!(mapping.at::<u64>(usize::MAX - 7, 1).is_none(), "overflow");
    }
}
