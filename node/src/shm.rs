//! The memory that the daemon and its guard share: heartbeats, one command word, and what the
//! guard has to say.
//!
//! It is a memfd, mapped for the rest of the process's life, so references into it are `'static`
//! and may be given to worker threads. All words are atomics: either side may die between any two
//! stores.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// How many heartbeat slots there are: slot 0 is the control loop, the others are workers (64 at most,
/// see the limits of the node file).
pub const SLOTS: usize = 1 + 64;

/// Changes when the layout or the meaning of a word changes: a daemon and a guard of different builds
/// must not misread each other.
const MAGIC: u64 = 0x686f_6c64_6661_0003;

/// A heartbeat in a cache line of its own, so that workers do not slow each other down.
#[repr(C, align(64))]
struct Slot {
    beat_ns: AtomicU64,
}

/// The shared page. Every field is an atomic; zero is the initial value of all.
#[repr(C)]
pub struct SharedPage {
    magic: AtomicU64,
    /// What the daemon wants of the guard: a [`Command`].
    pub command: AtomicU64,
    /// A [`GuardState`].
    pub state: AtomicU64,
    /// A [`crate::guard::Reason`], once released.
    pub reason: AtomicU64,
    /// The slot that was silent (released), or the errno (failed).
    pub detail: AtomicU64,
    /// When it was released (monotonic ns).
    pub released_ns: AtomicU64,
    /// Index of the TUN device.
    pub ifindex: AtomicU64,
    /// The guard's own heartbeat (monotonic ns).
    pub guard_beat_ns: AtomicU64,
    slots: [Slot; SLOTS],
}

/// Values of [`SharedPage::command`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Command {
    /// Hold the routes.
    Hold = 0,
    /// Let go and end.
    Release = 1,
    /// Let go and end, because the daemon found that it had been stalled.
    Stalled = 2,
}

impl Command {
    fn of(word: u64) -> Command {
        match word {
            1 => Command::Release,
            2 => Command::Stalled,
            _ => Command::Hold,
        }
    }
}

/// Values of [`SharedPage::state`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum GuardState {
    /// Not there yet.
    Starting = 0,
    /// It holds the TUN device.
    Holding = 1,
    /// It has let go.
    Released = 2,
}

impl GuardState {
    fn of(word: u64) -> GuardState {
        match word {
            1 => GuardState::Holding,
            2 => GuardState::Released,
            _ => GuardState::Starting,
        }
    }
}

impl SharedPage {
    /// Makes a new page; the descriptor is for the guard.
    pub fn create() -> io::Result<(&'static SharedPage, OwnedFd)> {
        let fd = memfd_create(c"holdfast-guard", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, size_of::<SharedPage>() as i64)?;
        let page = Self::map(&fd)?;
        page.magic.store(MAGIC, Ordering::Release);
        Ok((page, fd))
    }

    /// Maps a page that somebody else made.
    pub fn open(fd: &OwnedFd) -> io::Result<&'static SharedPage> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        if size != size_of::<SharedPage>() as i64 {
            return Err(io::Error::other("the shared page has another size than this build's"));
        }
        let page = Self::map(fd)?;
        if page.magic.load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::other("the shared page has another layout than this build's"));
        }
        Ok(page)
    }

    fn map(fd: &OwnedFd) -> io::Result<&'static SharedPage> {
        let length = NonZeroUsize::new(size_of::<SharedPage>()).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                fd,
                0,
            )
        }?;
        // SAFETY: the mapping is page-aligned (more than the 64 bytes we need), as long as
        // SharedPage (both callers have made sure of the file's size), readable and writable, and
        // never unmapped, so 'static holds. Every field is an atomic for which all bit patterns
        // are valid, so stores of the other process are no data race.
        Ok(unsafe { start.cast::<SharedPage>().as_ref() })
    }

    /// The heartbeat of slot `index`; the last slot stands in for indexes beyond the end.
    pub fn beat(&self, index: usize) -> &AtomicU64 {
        &self.slots[index.min(SLOTS - 1)].beat_ns
    }

    /// What the daemon wants of the guard.
    pub fn wanted(&self) -> Command {
        Command::of(self.command.load(Ordering::Acquire))
    }

    /// The guard's state.
    pub fn guard_state(&self) -> GuardState {
        GuardState::of(self.state.load(Ordering::Acquire))
    }

    /// Makes the page ready for a new guard. No guard may be alive.
    pub fn reset_guard(&self) {
        for word in
            [&self.reason, &self.detail, &self.released_ns, &self.ifindex, &self.guard_beat_ns]
        {
            word.store(0, Ordering::Relaxed);
        }
        self.command.store(Command::Hold as u64, Ordering::Relaxed);
        self.state.store(GuardState::Starting as u64, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mappings_see_the_same_words() {
        let (ours, fd) = SharedPage::create().unwrap();
        let theirs = SharedPage::open(&fd).unwrap();
        ours.beat(3).store(77, Ordering::Relaxed);
        theirs.state.store(GuardState::Holding as u64, Ordering::Release);
        assert_eq!(theirs.beat(3).load(Ordering::Relaxed), 77);
        assert_eq!(ours.guard_state(), GuardState::Holding);
        ours.reset_guard();
        assert_eq!(theirs.guard_state(), GuardState::Starting);
    }

    #[test]
    fn a_page_of_another_build_is_refused() {
        let (page, fd) = SharedPage::create().unwrap();
        page.magic.store(1, Ordering::Relaxed);
        assert!(SharedPage::open(&fd).is_err());
        let short = memfd_create(c"short", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(SharedPage::open(&short).is_err());
    }
}
