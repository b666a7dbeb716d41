//! The sending side: per peer and lane a queue, and a task that dials and keeps dialling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, VarInt};
use rand::Rng;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error::{NetError, close, closed_with, describe, failed_in_tls, says_gone};
use super::metrics::{HandshakeFailure, add};
use super::network::Shared;
use super::queue::SendQueue;
use super::registry::Entry;
use super::wire::{HELLO_LEN, Hello, Purpose, kind};
use super::{Lane, PeerInfo, tls};
use crate::pki::{director_name, inspect};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_millis(1_500);
/// An attempt this young is not given up when the peer shows signs of life.
const ATTEMPT_MIN: Duration = Duration::from_millis(200);
/// A connection that lived this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(1);
/// Messages that waited longer for a connection are of no use any more.
const STALE: Duration = Duration::from_secs(2);
/// How much is handed to a stream at once (bytes).
const BATCH: usize = 256 << 10;
/// Messages up to this are copied together instead of being handed over one by one (bytes).
const SMALL: usize = 8 << 10;

impl From<Lane> for Purpose {
    fn from(lane: Lane) -> Purpose {
        match lane {
            Lane::Control => Purpose::Control,
            Lane::Log => Purpose::Log,
        }
    }
}

/// A member and our two standing connections to it.
pub(super) struct Peer {
    pub(super) info: PeerInfo,
    links: [Arc<Link>; 2],
    tasks: [AbortHandle; 2],
}

impl Peer {
    /// Begins to dial.
    pub(super) fn start(shared: &Arc<Shared>, info: PeerInfo) -> Arc<Peer> {
        let start = |lane: Lane| {
            let (limits, on) = match lane {
                Lane::Control => (shared.limits.control_queue, &shared.own),
                Lane::Log => (shared.limits.log_queue, &shared.main),
            };
            let link = Arc::new(Link {
                lane,
                queue: SendQueue::new(limits),
                connection: watch::Sender::new(None),
                error: Mutex::new(Some("not dialled yet".to_owned())),
                sign_of_life: Notify::new(),
                stopped: AtomicBool::new(false),
            });
            let task = shared.spawn(on, run(shared.clone(), link.clone(), info.clone()));
            (link, task)
        };
        let ((control, control_task), (log, log_task)) = (start(Lane::Control), start(Lane::Log));
        Arc::new(Peer { info, links: [control, log], tasks: [control_task, log_task] })
    }

    pub(super) fn link(&self, lane: Lane) -> &Arc<Link> {
        &self.links[lane as usize]
    }

    /// The peer has reached us, so it can be reached: dial now.
    pub(super) fn sign_of_life(&self) {
        self.links.iter().for_each(|link| link.sign_of_life.notify_one());
    }

    /// Closes both connections and dials no more.
    pub(super) fn stop(&self, code: VarInt, reason: &str) {
        self.tasks.iter().for_each(AbortHandle::abort);
        for link in &self.links {
            link.stopped.store(true, Ordering::SeqCst);
            if let Some(connection) = link.connection.send_replace(None) {
                connection.close(code, reason.as_bytes());
            }
        }
    }
}

/// One standing connection to a peer and the messages that wait for it.
pub(super) struct Link {
    pub(super) lane: Lane,
    pub(super) queue: SendQueue,
    connection: watch::Sender<Option<Connection>>,
    error: Mutex<Option<String>>,
    sign_of_life: Notify,
    stopped: AtomicBool,
}

impl Link {
    /// The connection, if it stands.
    pub(super) fn connection(&self) -> Option<Connection> {
        self.connection.borrow().clone()
    }

    /// The latest failure, if it does not stand.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// The connection; waits for it up to `grace`.
    pub(super) async fn connected(&self, grace: Duration) -> Option<Connection> {
        let mut watch = self.connection.subscribe();
        let waited = timeout(grace, watch.wait_for(Option::is_some)).await;
        waited.ok()?.ok()?.clone()
    }

    fn publish(&self, connection: Connection) {
        *self.error.lock() = None;
        self.connection.send_replace(Some(connection.clone()));
        // `Peer::stop` may have run on another thread in between.
        if self.stopped.load(Ordering::SeqCst) {
            self.connection.send_replace(None);
            connection.close(close::REMOVED, b"removed from the cluster");
        }
    }

    fn retract(&self, error: String) {
        self.connection.send_replace(None);
        *self.error.lock() = Some(error);
    }
}

/// Why an attempt failed: the counted reason and the words.
pub(super) struct Failure {
    pub(super) reason: HandshakeFailure,
    pub(super) text: String,
}

impl Failure {
    fn new(reason: HandshakeFailure, text: impl Into<String>) -> Failure {
        Failure { reason, text: text.into() }
    }

    /// Classifies the end of a connection before it was established.
    pub(super) fn of(error: &ConnectionError) -> Failure {
        let reason = match error {
            ConnectionError::TimedOut => HandshakeFailure::Timeout,
            ConnectionError::TransportError(_) if failed_in_tls(error) => {
                HandshakeFailure::Certificate
            }
            ConnectionError::ConnectionClosed(_) if failed_in_tls(error) => {
                HandshakeFailure::Refused
            }
            _ => match closed_with(error) {
                Some(close::SHUTDOWN) | None => HandshakeFailure::Other,
                Some(close::BUSY) => HandshakeFailure::Busy,
                Some(close::GONE) => HandshakeFailure::Removed,
                Some(_) => HandshakeFailure::Refused,
            },
        };
        Failure::new(reason, describe(error))
    }
}

/// Dials a peer for `purpose`: TLS, its pinned key, our hello, its welcome.
pub(super) async fn dial(
    shared: &Shared,
    info: &PeerInfo,
    purpose: Purpose,
) -> Result<Connection, Failure> {
    let attempt = async {
        let other =
            |e: &dyn std::fmt::Display| Failure::new(HandshakeFailure::Other, e.to_string());
        let config = shared.tls.read().client(purpose);
        let name = director_name(info.id, shared.cluster);
        let endpoint = shared.endpoint().ok_or_else(|| other(&"this director stops"))?;
        let connection = endpoint
            .connect_with(config, info.address, &name)
            .map_err(|e| other(&e))?
            .await
            .map_err(|e| Failure::of(&e))?;
        // The authority's signature and the name have been judged by TLS.
        let facts = tls::certificate(&connection).and_then(|c| inspect(&c).ok());
        if facts.is_none_or(|facts| facts.key_fingerprint != info.key_fingerprint) {
            connection.close(close::NOT_ALLOWED, b"your key is not the one pinned for you");
            return Err(Failure::new(
                HandshakeFailure::KeyNotPinned,
                format!("the key at {} is not the one pinned for {}", info.address, info.name),
            ));
        }
        // A stream's error may come before the connection knows why it ended: ask the connection.
        let ended = async || Failure::of(&connection.closed().await);
        let exchange = async {
            let (mut send, mut recv) = connection.open_bi().await.ok()?;
            let hello = Hello { director: shared.me, purpose }.encode();
            send.write_all(&[kind::HELLO]).await.ok()?;
            send.write_all(&hello).await.ok()?;
            send.finish().ok()?;
            recv.read_to_end(HELLO_LEN).await.ok()
        };
        let Some(answer) = exchange.await else { return Err(ended().await) };
        match Hello::decode(&answer) {
            Ok(welcome) if welcome == (Hello { director: info.id, purpose }) => Ok(connection),
            Ok(_) => {
                connection.close(close::PROTOCOL, b"the welcome is of somebody else");
                let text = "the welcome is of somebody else";
                Err(Failure::new(HandshakeFailure::Protocol, text))
            }
            Err(_) if connection.close_reason().is_some() => Err(ended().await),
            Err(malformed) => {
                connection.close(close::PROTOCOL, b"the welcome makes no sense");
                let text = format!("its welcome makes no sense: {malformed}");
                Err(Failure::new(HandshakeFailure::Protocol, text))
            }
        }
    };
    timeout(ATTEMPT, attempt)
        .await
        .unwrap_or_else(|_| Err(Failure::new(HandshakeFailure::Timeout, "no answer in time")))
}

/// Keeps one link up until its task is aborted.
async fn run(shared: Arc<Shared>, link: Arc<Link>, info: PeerInfo) {
    let (peer, lane) = (info.name.as_str(), Purpose::from(link.lane).name());
    let (mut backoff, mut connected_before) = (BACKOFF_MIN, false);
    loop {
        match attempt(&shared, &link, &info).await {
            None => continue,
            Some(Err(failure)) => {
                shared.metrics.failed(failure.reason);
                if failure.reason == HandshakeFailure::Removed {
                    shared.told_gone(info.id);
                }
                // Say it once, not at every attempt.
                if link.error().as_ref() != Some(&failure.text) {
                    tracing::warn!(peer, lane, address = %info.address, reason = failure.text,
                        "cannot connect to peer");
                }
                link.retract(failure.text);
            }
            Some(Ok(connection)) => {
                add(&shared.metrics.connects, 1);
                add(&shared.metrics.reconnects, u64::from(connected_before));
                connected_before = true;
                let stale = link.queue.drop_stale(STALE);
                add(&shared.metrics.lane(link.lane.into()).dropped_stale, stale);
                tracing::info!(peer, lane, address = %info.address, "connected to peer");
                let since = Instant::now();
                link.publish(connection.clone());
                let error = serve(&shared, &link, &connection).await;
                if connection.close_reason().is_some_and(|reason| says_gone(&reason)) {
                    shared.told_gone(info.id);
                }
                tracing::info!(peer, lane, reason = error, "connection to peer ended");
                link.retract(error);
                if since.elapsed() > GOOD {
                    backoff = BACKOFF_MIN;
                }
            }
        }
        let jittered = backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        let _ = timeout(jittered, link.sign_of_life.notified()).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One attempt; none if it was given up because the peer showed signs of life meanwhile. (Our first
/// packets may have been lost while it was away, and the next ones are sent at growing intervals.)
async fn attempt(
    shared: &Shared,
    link: &Link,
    info: &PeerInfo,
) -> Option<Result<Connection, Failure>> {
    let interrupted = async {
        tokio::time::sleep(ATTEMPT_MIN).await;
        link.sign_of_life.notified().await;
    };
    tokio::select! {
        result = dial(shared, info, link.lane.into()) => Some(result),
        () = interrupted => None,
    }
}

/// Writes messages until the connection ends; says why it did.
async fn serve(shared: &Shared, link: &Link, connection: &Connection) -> String {
    let counters = shared.metrics.lane(link.lane.into());
    let write = async {
        let mut stream = connection.open_uni().await.ok()?;
        stream.write_all(&[kind::MESSAGES]).await.ok()?;
        loop {
            let messages = link.queue.take(BATCH).await;
            let (count, mut bytes) = (messages.len() as u64, 0);
            let mut chunks = frames(messages, &mut bytes);
            stream.write_all_chunks(&mut chunks).await.ok()?;
            add(&counters.messages_out, count);
            add(&counters.bytes_out, bytes);
        }
    };
    let never: Option<()> = tokio::select! {
        ended = write => ended,
        _ = connection.closed() => None,
    };
    debug_assert!(never.is_none());
    match connection.close_reason() {
        Some(reason) => describe(&reason),
        None => {
            // The peer refuses the stream but not the connection: that is no peer of ours.
            connection.close(close::PROTOCOL, b"the message stream was stopped");
            "the peer stopped the message stream".to_owned()
        }
    }
}

/// Puts its length before each message; small ones are copied together.
fn frames(messages: Vec<Bytes>, bytes: &mut u64) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut small = BytesMut::new();
    for message in messages {
        *bytes += message.len() as u64;
        small.put_u32(message.len() as u32);
        if message.len() <= SMALL {
            small.put_slice(&message);
        } else {
            chunks.push(small.split().freeze());
            chunks.push(message);
        }
    }
    if !small.is_empty() {
        chunks.push(small.freeze());
    }
    chunks
}

/// A connection for one purpose of its own (a snapshot), closed when the peer is removed.
pub(super) async fn dial_once(
    shared: &Shared,
    info: &PeerInfo,
    purpose: Purpose,
) -> Result<Connection, NetError> {
    let connection = dial(shared, info, purpose).await.map_err(|failure| {
        shared.metrics.failed(failure.reason);
        NetError::NotConnected { peer: info.id, cause: failure.text }
    })?;
    let entry = Entry {
        peer: info.id,
        key: info.key_fingerprint,
        purpose,
        accepted: false,
        connection: connection.clone(),
    };
    let pinned = || shared.pinned(info.id) == Some(info.key_fingerprint);
    if !shared.registry.add(entry, pinned) {
        connection.close(close::REMOVED, b"removed from the cluster");
        return Err(NetError::UnknownPeer(info.id));
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::wire::take_frame;

    #[test]
    fn frames_of_all_sizes_come_back_in_order() {
        let sizes = [0, 1, SMALL, SMALL + 1, 5, 100_000, 2];
        let messages: Vec<Bytes> =
            sizes.iter().enumerate().map(|(i, &n)| vec![i as u8; n].into()).collect();
        let mut bytes = 0;
        let mut stream = BytesMut::new();
        for chunk in frames(messages.clone(), &mut bytes) {
            stream.extend_from_slice(&chunk);
        }
        assert_eq!(bytes as usize, sizes.iter().sum::<usize>());
        for message in messages {
            assert_eq!(take_frame(&mut stream, 1 << 20), Ok(Some(message)));
        }
        assert!(stream.is_empty());
    }
}
