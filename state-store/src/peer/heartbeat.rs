//! Heartbeats: ten a second to each peer, from a thread that does nothing that could wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, RecvStream, VarInt};
use tokio::time::MissedTickBehavior;

use super::Lane;
use super::metrics::add;
use super::network::Shared;
use super::registry::Entry;
use super::wire::{Heartbeat, MAX_HEARTBEAT};

/// Time between two heartbeats.
const INTERVAL: Duration = Duration::from_millis(100);

/// Sends heartbeats, and lets the liveness core notice when we have slept.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequence = 0;
    loop {
        ticks.tick().await;
        let (slept, views) = {
            let mut liveness = shared.liveness.lock();
            let now_ms = shared.now_ms();
            (liveness.advance(now_ms), liveness.views(now_ms))
        };
        if let Some(slept_ms) = slept {
            add(&shared.metrics.stalls, 1);
            tracing::warn!(slept_ms, "this director was stalled; nobody is judged by that time");
        }
        let incarnation = shared.incarnation.load(Ordering::Relaxed);
        if incarnation == 0 {
            continue;
        }
        sequence += 1;
        let payload = shared.payload.lock().clone();
        let beat = Heartbeat { incarnation, sequence, views, payload }.encode();
        let connections: Vec<Connection> = {
            let peers = shared.peers.read();
            peers.values().filter_map(|peer| peer.link(Lane::Control).connection()).collect()
        };
        for connection in connections {
            let sent = send(&connection, beat.clone());
            let metrics = &shared.metrics;
            add(if sent { &metrics.heartbeats_out } else { &metrics.heartbeats_skipped }, 1);
        }
    }
}

/// Sends without waiting, or not at all.
fn send(connection: &Connection, beat: Bytes) -> bool {
    let Some(Ok(mut stream)) = connection.open_uni().now_or_never() else { return false };
    // Before the messages that wait on the same connection.
    let _ = stream.set_priority(1);
    match stream.write_chunk(beat).now_or_never() {
        Some(Ok(())) => stream.finish().is_ok(),
        _ => {
            // Half a heartbeat must not look like a whole one.
            let _ = stream.reset(VarInt::from_u32(0));
            false
        }
    }
}

/// Takes a heartbeat (its kind byte has been read).
pub(super) async fn receive(shared: &Shared, entry: &Entry, mut stream: RecvStream) {
    let Ok(bytes) = stream.read_to_end(MAX_HEARTBEAT).await else { return };
    let beat = match Heartbeat::decode(bytes.into()) {
        Ok(beat) => beat,
        Err(malformed) => {
            add(&shared.metrics.heartbeats_malformed, 1);
            tracing::debug!(from = %entry.peer, reason = %malformed, "a heartbeat makes no sense");
            return;
        }
    };
    let known = {
        let mut liveness = shared.liveness.lock();
        let now_ms = shared.now_ms();
        liveness.heard(now_ms, entry.peer, beat.incarnation, beat.sequence, &beat.views)
    };
    if known {
        add(&shared.metrics.heartbeats_in, 1);
        // When the handler lags behind, it does without this one: the next comes in 100 ms.
        if shared.heard.try_send((entry.peer, beat.incarnation, beat.payload)).is_err() {
            add(&shared.metrics.heartbeats_unhandled, 1);
        }
    }
}
