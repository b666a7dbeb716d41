//! The accepting side: who is let in, and where its streams go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use holdfast_schema::cluster::DirectorId;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{close, describe, says_gone};
use super::link::Failure;
use super::metrics::{HandshakeFailure, add};
use super::network::Shared;
use super::registry::Entry;
use super::wire::{ALPN_JOIN, ALPN_PEER, HELLO_LEN, Hello, Purpose, kind, take_frame};
use super::{Lane, heartbeat, join, request, snapshot, tls};
use crate::pki::{Fingerprint, inspect};

/// Handshakes at once. Above half of it, dialers first have to prove their address.
const HANDSHAKES: usize = 64;

/// How long a handshake, and then the hello, may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// How much is read from a stream at once (bytes).
const READ: usize = 256 << 10;

/// Accepts connections until the endpoint closes.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let complaints = Arc::new(Throttle::default());
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            shared.metrics.failed(HandshakeFailure::Busy);
            incoming.refuse();
            continue;
        };
        let busy = handshakes.available_permits() < HANDSHAKES / 2;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // Cannot fail: the address is not validated yet.
            let _ = incoming.retry();
            continue;
        }
        let task = {
            let (shared, complaints) = (shared.clone(), complaints.clone());
            async move {
                let from = incoming.remote_address();
                let result = admit(&shared, incoming).await;
                drop(permit);
                match result {
                    Ok(Admitted::Peer(entry)) => serve(shared, entry).await,
                    Ok(Admitted::Joiner(connection)) => join::serve(shared, connection).await,
                    Err(failure) => {
                        shared.metrics.failed(failure.reason);
                        if complaints.may_speak(shared.now_ms()) {
                            tracing::warn!(%from, reason = failure.text, "refused a connection");
                        }
                    }
                }
            }
        };
        shared.spawn(&shared.own, task);
    }
}

/// Lets somebody from outside fill the log with one line a second at the most.
#[derive(Default)]
struct Throttle {
    next_ms: AtomicU64,
}

impl Throttle {
    fn may_speak(&self, now_ms: u64) -> bool {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        now_ms >= next_ms
            && self
                .next_ms
                .compare_exchange(next_ms, now_ms + 1_000, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

enum Admitted {
    Peer(Entry),
    Joiner(Connection),
}

/// Refuses somebody who is not in the member list: for good if it was removed. A number that has not
/// been given out as far as is known here belongs to somebody whom others may know already.
fn refuse_unlisted(shared: &Shared, connection: &Connection, peer: DirectorId) -> Failure {
    let (code, text) = match shared.was_removed(peer) {
        true => (close::GONE, format!("director {peer} was removed from the cluster")),
        false => {
            let text = format!("director {peer} is not in the member list of {}", shared.me);
            (close::NOT_ALLOWED, text)
        }
    };
    connection.close(code, text.as_bytes());
    Failure { reason: HandshakeFailure::NotAMember, text }
}

/// Closes a connection with its reason and says so.
fn refuse(connection: &Connection, reason: HandshakeFailure, text: &str) -> Failure {
    let code = match reason {
        HandshakeFailure::Protocol => close::PROTOCOL,
        _ => close::NOT_ALLOWED,
    };
    connection.close(code, text.as_bytes());
    Failure { reason, text: text.to_owned() }
}

async fn admit(shared: &Shared, incoming: Incoming) -> Result<Admitted, Failure> {
    let late = || Failure {
        reason: HandshakeFailure::Timeout,
        text: "the handshake was not finished in time".to_owned(),
    };
    let connecting = incoming.accept().map_err(|e| Failure::of(&e))?;
    let connection =
        timeout(HANDSHAKE, connecting).await.map_err(|_| late())?.map_err(|e| Failure::of(&e))?;
    match tls::alpn(&connection).as_deref() {
        Some(ALPN_JOIN) => return Ok(Admitted::Joiner(connection)),
        Some(ALPN_PEER) => {}
        // TLS agrees on one of the two or fails; to be safe against a change there.
        _ => {
            let text = "no protocol was agreed on";
            return Err(refuse(&connection, HandshakeFailure::Protocol, text));
        }
    }
    let (peer, key) = identify(shared, &connection)?;
    let hello = timeout(HANDSHAKE, greet(shared, &connection, peer));
    let purpose = hello.await.map_err(|_| {
        connection.close(close::PROTOCOL, b"no hello came in time");
        late()
    })??;
    let entry = Entry { peer, key, purpose, accepted: true, connection };
    // The member list may have changed since `identify` looked at it.
    if !shared.registry.add(entry.clone(), || shared.pinned(peer) == Some(key)) {
        return Err(refuse_unlisted(shared, &entry.connection, peer));
    }
    Ok(Admitted::Peer(entry))
}

/// Finds out who it is by its certificate (whose signature TLS has judged) and its pinned key.
fn identify(
    shared: &Shared,
    connection: &Connection,
) -> Result<(DirectorId, Fingerprint), Failure> {
    let refuse = |reason, text: &str| refuse(connection, reason, text);
    let Some(certificate) = tls::certificate(connection) else {
        return Err(refuse(HandshakeFailure::NoCertificate, "you showed no certificate"));
    };
    let facts = inspect(&certificate);
    let named = facts.as_ref().ok().and_then(|facts| facts.director);
    let (Ok(facts), Some((peer, cluster))) = (&facts, named) else {
        return Err(refuse(HandshakeFailure::WrongName, "your certificate names no director"));
    };
    if cluster != shared.cluster {
        let text = format!("your certificate is of cluster {cluster}, this is {}", shared.cluster);
        return Err(refuse(HandshakeFailure::WrongName, &text));
    }
    match shared.pinned(peer) {
        None => Err(refuse_unlisted(shared, connection, peer)),
        Some(pinned) if pinned != facts.key_fingerprint => {
            let text = format!("your key is not the one pinned for director {peer}");
            Err(refuse(HandshakeFailure::KeyNotPinned, &text))
        }
        Some(pinned) => Ok((peer, pinned)),
    }
}

/// Reads the hello and answers it.
async fn greet(
    shared: &Shared,
    connection: &Connection,
    peer: DirectorId,
) -> Result<Purpose, Failure> {
    let lost = |e: quinn::ConnectionError| Failure::of(&e);
    let (mut send, mut recv) = connection.accept_bi().await.map_err(lost)?;
    let bytes = recv.read_to_end(1 + HELLO_LEN).await.unwrap_or_default();
    let hello = match bytes.split_first() {
        Some((&kind::HELLO, hello)) => Hello::decode(hello).map_err(|e| e.to_string()),
        _ => Err("it is none".to_owned()),
    };
    let purpose = match hello {
        Ok(hello) if hello.director == peer => hello.purpose,
        Ok(_) => {
            let text = "your hello is of another director than your certificate";
            return Err(refuse(connection, HandshakeFailure::Protocol, text));
        }
        Err(cause) => {
            let text = format!("your hello makes no sense: {cause}");
            return Err(refuse(connection, HandshakeFailure::Protocol, &text));
        }
    };
    let welcome = Hello { director: shared.me, purpose }.encode();
    // If this cannot be written, the connection has ended, and whoever reads next will see it.
    let _ = send.write_all(&welcome).await;
    let _ = send.finish();
    Ok(purpose)
}

/// Takes the streams of an admitted peer until its connection ends.
async fn serve(shared: Arc<Shared>, entry: Entry) {
    let (peer, purpose, connection) = (entry.peer, entry.purpose, &entry.connection);
    add(&shared.metrics.accepted, 1);
    tracing::debug!(%peer, lane = purpose.name(), "accepted a peer");
    if purpose == Purpose::Control {
        shared.liveness.lock().reconnected(peer);
        if let Ok(peer) = shared.peer(peer) {
            peer.sign_of_life();
        }
    }
    let ended = loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    let task = one_way(shared.clone(), entry.clone(), stream);
                    shared.spawn(&shared.own, task);
                }
                Err(ended) => break ended,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let task = both_ways(shared.clone(), entry.clone(), send, recv);
                    shared.spawn(&shared.main, task);
                }
                Err(ended) => break ended,
            },
        }
    };
    shared.registry.remove(connection);
    if says_gone(&ended) {
        shared.told_gone(peer);
    }
    tracing::debug!(%peer, lane = purpose.name(), reason = describe(&ended), "a peer's connection ended");
}

/// Ends a connection that talks nonsense.
fn nonsense(shared: &Shared, entry: &Entry, what: &str) {
    add(&shared.metrics.protocol_violations, 1);
    tracing::warn!(peer = %entry.peer, lane = entry.purpose.name(), what, "a peer broke the protocol");
    entry.connection.close(close::PROTOCOL, what.as_bytes());
}

async fn one_way(shared: Arc<Shared>, entry: Entry, mut stream: RecvStream) {
    let mut first = [0];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let lane = match entry.purpose {
        Purpose::Control => Some(Lane::Control),
        Purpose::Log => Some(Lane::Log),
        Purpose::Snapshot => None,
    };
    match (first[0], lane) {
        (kind::HEARTBEAT, Some(Lane::Control)) => heartbeat::receive(&shared, &entry, stream).await,
        (kind::MESSAGES, Some(lane)) => {
            // From here on the handler is called, so this goes on where the handler lives.
            let task = messages(shared.clone(), entry, lane, stream);
            shared.spawn(&shared.main, task);
        }
        (other, _) => nonsense(&shared, &entry, &format!("a one-way stream of kind {other} here")),
    }
}

async fn both_ways(shared: Arc<Shared>, entry: Entry, send: SendStream, mut recv: RecvStream) {
    let mut first = [0];
    if recv.read_exact(&mut first).await.is_err() {
        return;
    }
    match (first[0], entry.purpose) {
        (kind::REQUEST, Purpose::Control | Purpose::Log) => {
            request::answer(&shared, &entry, send, recv).await;
        }
        (kind::SNAPSHOT, Purpose::Snapshot) => {
            snapshot::receive(&shared, &entry, send, recv).await;
        }
        (other, _) => nonsense(&shared, &entry, &format!("a two-way stream of kind {other} here")),
    }
}

/// Hands messages to the handler, in order.
async fn messages(shared: Arc<Shared>, entry: Entry, lane: Lane, mut stream: RecvStream) {
    let counters = shared.metrics.lane(entry.purpose);
    let mut buffer = BytesMut::new();
    // An error is the end of the connection, which its own task reports.
    while let Ok(Some(chunk)) = stream.read_chunk(READ, true).await {
        buffer.extend_from_slice(&chunk.bytes);
        loop {
            match take_frame(&mut buffer, shared.limits.max_message) {
                Ok(Some(message)) => {
                    add(&counters.messages_in, 1);
                    add(&counters.bytes_in, message.len() as u64);
                    shared.handler.message(entry.peer, lane, message);
                }
                Ok(None) => break,
                Err(malformed) => {
                    return nonsense(&shared, &entry, &format!("a message: {malformed}"));
                }
            }
        }
    }
}
