//! The control loop's heartbeat: a thread of its own that beats, and notices when it could not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::mono_ns;
use crate::node::Node;
use crate::os;
use crate::shm::SharedPage;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(5);

/// A gap this long (ms) means that others have carried on without this director.
const STALL_MS: u64 = 300;

/// Its real-time priority: below the guard's. It does next to nothing, so it starves nobody.
const PRIORITY: i32 = 2;

/// The runtime that runs everything else must have turned within this time, or the service manager
/// is no longer told that all is well.
const RUNTIME_SILENT_NS: u64 = 10_000_000_000;

/// The thread that beats.
pub struct Heartbeat {
    thread: JoinHandle<()>,
    over: Arc<AtomicBool>,
}

impl Heartbeat {
    /// Beats no more. The guard must have been told to let go: it takes silence for a fault. Blocks
    /// for the rest of one beat.
    pub fn end(self) {
        self.over.store(true, Ordering::Release);
        // A panic has been reported where it happened.
        let _ = self.thread.join();
    }
}

/// Beats until it is ended: a daemon that is stopping withdraws, and its guard has to hold the
/// routes while it does. `stalled` is told how long (ms) nothing ran here, if that was too long.
pub fn start(
    page: Option<&'static SharedPage>,
    runtime_beat: Arc<AtomicU64>,
    stalled: impl Fn(u64) + Send + 'static,
) -> std::io::Result<Heartbeat> {
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let thread = std::thread::Builder::new().name("hf-control".to_owned()).spawn(move || {
        if let Err(error) = os::realtime_priority(PRIORITY) {
            tracing::warn!(%error, "the heartbeat has no real-time priority: give CAP_SYS_NICE");
            // Best effort; the warning above says what is missing.
            let _ = os::nice_thread(-10);
        }
        let watchdog = sd_notify::watchdog_enabled().map(|every| every / 2);
        let mut last_ns = mono_ns();
        let mut watchdog_ns = last_ns;
        while !until.load(Ordering::Acquire) {
            std::thread::sleep(BEAT);
            let now_ns = mono_ns();
            let gap_ms = (now_ns - last_ns) / 1_000_000;
            if gap_ms > STALL_MS {
                stalled(gap_ms);
            }
            last_ns = now_ns;
            if let Some(page) = page {
                page.beat(0).store(now_ns, Ordering::Release);
            }
            let runtime_alive =
                now_ns.saturating_sub(runtime_beat.load(Ordering::Relaxed)) < RUNTIME_SILENT_NS;
            if let Some(every) = watchdog
                && now_ns - watchdog_ns >= every.as_nanos() as u64
                && runtime_alive
            {
                watchdog_ns = now_ns;
                // Nobody to tell it to is no reason to stop.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
        }
    })?;
    Ok(Heartbeat { thread, over })
}

/// What waits in the rings belongs to connections that others carry by now.
pub fn stalled(node: &Node, gap_ms: u64) {
    if let Some(forwarder) = node.forwarder.get() {
        forwarder.discard_rings();
    }
    if let Some(guard) = &node.guard {
        guard.release_stalled();
    }
    node.counters.stalls.fetch_add(1, Ordering::Relaxed);
    node.stalled.store(true, Ordering::Release);
    tracing::warn!(gap_ms, "this director was stalled: it withdraws and comes back like a joiner");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn beats(page: &SharedPage, limit: Duration) -> bool {
        let (from, before) = (Instant::now(), page.beat(0).load(Ordering::Acquire));
        while from.elapsed() < limit {
            if page.beat(0).load(Ordering::Acquire) != before {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn it_beats_until_it_is_ended_and_not_longer() {
        let (page, _fd) = SharedPage::create().unwrap();
        let heart = start(Some(page), Arc::default(), |_| {}).unwrap();
        for _ in 0..3 {
            assert!(beats(page, Duration::from_secs(10)));
        }
        heart.end();
        assert!(!beats(page, Duration::from_millis(100)));
    }
}
