//! The thread of a worker.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::counters::{IoCounters, add};
use super::lane::Lane;
use super::{Beat, PacketCore};
use crate::xdp::Socket;
use crate::xdp::sys::{self, EventFd, Ready};

/// Longest wait without anything to do: the guard watches the beats.
const IDLE_WAIT_MS: i32 = 5;

/// Longest wait while packets wait for an answer or for the driver.
const BUSY_WAIT_MS: i32 = 1;

/// A worker that did not go round for this long was stalled; what waits for it is out of date.
const STALL: Duration = Duration::from_millis(300);

/// How others reach a worker.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) counters: Arc<IoCounters>,
    pub(crate) beat: Arc<Beat>,
    wake: EventFd,
    stop: AtomicBool,
    discard: AtomicBool,
    failure: OnceLock<String>,
}

impl Control {
    pub(crate) fn new(beat: Arc<Beat>) -> io::Result<Control> {
        Ok(Control {
            counters: Arc::default(),
            beat,
            wake: EventFd::new()?,
            stop: AtomicBool::new(false),
            discard: AtomicBool::new(false),
            failure: OnceLock::new(),
        })
    }

    /// Makes the worker go round at once.
    pub(crate) fn wake(&self) {
        self.wake.signal();
    }

    /// Ends the worker's thread after its current round.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Makes the worker throw away what waits in its receive ring.
    pub(crate) fn discard(&self) {
        self.discard.store(true, Ordering::Release);
        self.wake();
    }

    /// Why the worker has ended by itself, if it has.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

/// One worker: a lane, its socket, and a packet core.
pub(crate) struct Worker<C> {
    pub(crate) lane: Lane,
    pub(crate) socket: Arc<Socket>,
    pub(crate) control: Arc<Control>,
    pub(crate) core: C,
    /// Nice value of the thread, if it is to be changed.
    pub(crate) nice: Option<i32>,
}

impl<C: PacketCore> Worker<C> {
    /// Goes round until it is told to stop, or until the socket fails for good: then the beats end,
    /// and the guard lets go of the routes.
    pub(crate) fn run(mut self) {
        if let Some(nice) = self.nice
            && let Err(e) = sys::set_thread_nice(nice)
        {
            tracing::warn!(
                queue = self.socket.queue(),
                "the worker keeps its priority: nice {nice} failed: {e}; \
                 CAP_SYS_NICE (or LimitNICE) is needed"
            );
        }
        let mut last_ns = sys::monotonic_ns();
        loop {
            let now_ns = sys::monotonic_ns();
            self.control.beat.stamp(now_ns);
            if self.control.stop.load(Ordering::Acquire) {
                return;
            }
            self.throw_stale_away(now_ns, last_ns);
            last_ns = now_ns;
            if let Err(error) = self.round(now_ns) {
                let queue = self.socket.queue();
                tracing::error!(queue, "the worker ends, its AF_XDP socket failed: {error}");
                // Nobody else sets it.
                let _ = self.control.failure.set(format!("queue {queue}: {error}"));
                return;
            }
        }
    }

    /// What was received before a stall must not be acted upon: meanwhile others have taken over.
    fn throw_stale_away(&mut self, now_ns: u64, last_ns: u64) {
        let counters = &self.control.counters;
        let stalled = u128::from(now_ns - last_ns) >= STALL.as_nanos();
        if stalled {
            add(&counters.stalls, 1);
        }
        if self.control.discard.swap(false, Ordering::AcqRel) || stalled {
            let (frames, bytes) = self.lane.discard();
            self.core.discarded(frames, bytes);
        }
    }

    /// One round; an error is final.
    fn round(&mut self, now_ns: u64) -> io::Result<()> {
        add(&self.control.counters.rounds, 1);
        self.lane.recycle();
        let received = self.lane.forward(now_ns, &mut self.core);
        let lane = &mut self.lane;
        self.core.turn(now_ns, received, &mut |packet| lane.send_copy(packet));
        let left = self.lane.flush(|| self.socket.kick());
        if received > 0 {
            return Ok(()); // There may be more; an empty round is cheaper than a system call.
        }
        let patience = if left || self.core.waiting() { BUSY_WAIT_MS } else { IDLE_WAIT_MS };
        add(&self.control.counters.waits, 1);
        let ready = sys::wait(self.socket.as_fd(), self.control.wake.as_fd(), patience)?;
        self.after_wait(ready)
    }

    fn after_wait(&mut self, ready: Ready) -> io::Result<()> {
        if ready.second {
            self.control.wake.clear();
        }
        if ready.first {
            return Ok(());
        }
        // When the interface is unregistered its sockets get ENETDOWN, and for some kernels' poll()
        // they are just quiet for ever after. It comes back, if ever, as another interface.
        match self.socket.take_error() {
            Some(error) => Err(error),
            None if ready.first_failed => {
                Err(io::Error::other("poll() reports an error without a number"))
            }
            None => Ok(()),
        }
    }
}
