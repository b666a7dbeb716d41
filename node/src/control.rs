//! The control loop's heartbeat: a thread of its own that beats, and notices when it could not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Beats until the daemon stops.
pub fn start(
    node: Arc<Node>,
    page: Option<&'static SharedPage>,
    runtime_beat: Arc<AtomicU64>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("hf-control".to_owned()).spawn(move || {
        if let Err(error) = os::realtime_priority(PRIORITY) {
            tracing::warn!(%error, "the heartbeat has no real-time priority: give CAP_SYS_NICE");
            // Best effort; the warning above says what is missing.
            let _ = os::nice_thread(-10);
        }
        let watchdog = sd_notify::watchdog_enabled().map(|every| every / 2);
        let mut last_ns = mono_ns();
        let mut watchdog_ns = last_ns;
        while !node.stopping.load(Ordering::Relaxed) {
            std::thread::sleep(BEAT);
            let now_ns = mono_ns();
            let gap_ms = (now_ns - last_ns) / 1_000_000;
            if gap_ms > STALL_MS {
                stalled(&node, gap_ms);
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
    })
}

/// What waits in the rings belongs to connections that others carry by now.
fn stalled(node: &Node, gap_ms: u64) {
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
