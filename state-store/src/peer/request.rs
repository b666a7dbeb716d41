//! Requests: one two-way stream each, with a deadline that travels along.

use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use super::Lane;
use super::error::{NetError, describe};
use super::metrics::add;
use super::network::Shared;
use super::registry::Entry;
use super::wire::{REQUEST_HEADER_LEN, request_header, status};

/// How long a request waits for a connection that does not stand.
const GRACE: Duration = Duration::from_millis(250);

/// No handler works longer than this on one request, whatever the asker says.
const LONGEST: Duration = Duration::from_secs(120);

pub(super) async fn ask(
    shared: &Shared,
    to: DirectorId,
    lane: Lane,
    body: Bytes,
    deadline: Duration,
) -> Result<Bytes, NetError> {
    let limit = shared.limits.max_message;
    if body.len() > limit {
        return Err(NetError::TooLarge { what: "a request", bytes: body.len(), limit });
    }
    let peer = shared.peer(to)?;
    let link = peer.link(lane);
    let answer = timeout(deadline, async {
        let Some(connection) = link.connected(GRACE).await else {
            let cause = link.error().unwrap_or_else(|| "no connection".to_owned());
            return Err(NetError::NotConnected { peer: to, cause });
        };
        let broken = |e: &dyn std::fmt::Display| NetError::Broken {
            peer: to,
            cause: connection.close_reason().map_or_else(|| e.to_string(), |r| describe(&r)),
        };
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(&e))?;
        let counters = shared.metrics.lane(lane.into());
        add(&counters.messages_out, 1);
        add(&counters.bytes_out, body.len() as u64);
        let deadline_ms = deadline.as_millis().try_into().unwrap_or(u32::MAX);
        let header = request_header(deadline_ms, body.len());
        send.write_all_chunks(&mut [header, body]).await.map_err(|e| broken(&e))?;
        send.finish().map_err(|e| broken(&e))?;
        recv.read_to_end(limit + 1).await.map_err(|e| broken(&e))
    });
    let Ok(answer) = answer.await else {
        add(&shared.metrics.request_timeouts, 1);
        return Err(NetError::Timeout { peer: to, what: "its answer", after: deadline });
    };
    let answer = Bytes::from(answer?);
    match answer.first() {
        Some(&status::OK) => Ok(answer.slice(1..)),
        Some(&status::ERROR) => {
            let cause = String::from_utf8_lossy(&answer[1..]).into_owned();
            Err(NetError::Refused { peer: to, cause })
        }
        _ => Err(NetError::Protocol { peer: to, cause: "an answer without status".to_owned() }),
    }
}

pub(super) async fn answer(
    shared: &Shared,
    entry: &Entry,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let limit = shared.limits.max_message;
    let mut header = [0; REQUEST_HEADER_LEN];
    if recv.read_exact(&mut header).await.is_err() {
        return;
    }
    let [a, b, c, d, e, f, g, h] = header;
    let deadline = Duration::from_millis(u32::from_be_bytes([a, b, c, d]).into()).min(LONGEST);
    let length = u32::from_be_bytes([e, f, g, h]) as usize;
    let reply = async {
        if length > limit {
            return Err(format!("a request of {length} bytes is above the limit of {limit}"));
        }
        let body = recv.read_to_end(length).await.map_err(|e| format!("the request broke: {e}"))?;
        if body.len() != length {
            return Err("the request was cut off".to_owned());
        }
        let counters = shared.metrics.lane(entry.purpose);
        add(&counters.messages_in, 1);
        add(&counters.bytes_in, length as u64);
        let answer = shared.handler.request(entry.peer, body.into()).await;
        if answer.len() > limit {
            let bytes = answer.len();
            return Err(format!("an answer of {bytes} bytes is above the limit of {limit}"));
        }
        Ok(answer)
    };
    let reply = timeout(deadline, reply).await;
    let reply = reply.unwrap_or_else(|_| Err("not answered by the deadline".to_owned()));
    let mut chunks = match reply {
        Ok(answer) => [Bytes::from_static(&[status::OK]), answer],
        Err(cause) => [Bytes::from_static(&[status::ERROR]), cause.into_bytes().into()],
    };
    // An asker that has gone away needs no answer.
    if send.write_all_chunks(&mut chunks).await.is_ok() {
        let _ = send.finish();
    }
}
