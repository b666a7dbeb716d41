//! Joining: the only thing that somebody without a certificate may ask.
//!
//! A connection with the protocol `hf-join/1` carries one two-way stream: the request, and the
//! answer. The transport judges neither; it limits size, rate and number.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint, VarInt};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{JoinError, close, describe};
use super::metrics::{HandshakeFailure, add};
use super::network::Shared;
use super::tls;
use crate::pki::{JoinToken, director_name};

/// The largest join request (bytes).
pub const MAX_REQUEST: usize = 64 << 10;

/// The largest answer (bytes).
const MAX_ANSWER: usize = 16 << 20;

/// How long a joiner may take for its request.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the cluster may take for its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long one address may take to be connected.
const CONNECT: Duration = Duration::from_secs(3);

/// Serves one joiner.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let from = connection.remote_address();
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
    let in_rate = shared.join_pacer.lock().try_take(shared.now(), 1);
    let (true, Ok(_turn)) = (in_rate, shared.joins.try_acquire()) else {
        shared.metrics.failed(HandshakeFailure::Busy);
        connection.close(close::BUSY, b"too many join requests; try again in a moment");
        return;
    };
    let request = timeout(REQUEST, async {
        let (send, mut recv) = connection.accept_bi().await.ok()?;
        let request = recv.read_to_end(MAX_REQUEST).await.ok()?;
        Some((send, request))
    });
    let Ok(Some((mut send, request))) = request.await else {
        shared.metrics.failed(HandshakeFailure::Protocol);
        connection.close(close::PROTOCOL, b"no join request of a sensible size came in time");
        return;
    };
    tracing::info!(%from, "somebody asks to join");
    // The handler may take locks and wait for the cluster: not on this thread.
    let handler = shared.handler.clone();
    let answer = shared.main.spawn(async move { handler.join(from, request.into()).await });
    let Ok(Ok(answer)) = timeout(ANSWER, answer).await else {
        connection.close(close::BUSY, b"the cluster did not answer in time; try again");
        return;
    };
    add(&shared.metrics.joins, 1);
    if send.write_all(&answer).await.is_ok() && send.finish().is_ok() {
        // The joiner closes when it has read everything.
        let _ = timeout(REQUEST, connection.closed()).await;
    }
    connection.close(close::DONE, b"");
}

/// Asks the members that `token` names, one after the other, until one answers; returns its answer.
/// A member counts only if it shows the authority that the token names. To be called on a tokio
/// runtime.
pub async fn join(
    token: &JoinToken,
    request: Bytes,
    deadline: Duration,
) -> Result<Bytes, JoinError> {
    if request.len() > MAX_REQUEST {
        return Err(JoinError::TooLarge { bytes: request.len(), limit: MAX_REQUEST });
    }
    let until = Instant::now() + deadline;
    let mut failures = Vec::new();
    for &address in &token.addresses {
        let one = timeout_at(until, ask(token, address, &request)).await;
        match one.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(answer) => return Ok(answer),
            Err(cause) => {
                tracing::warn!(%address, cause, "a member could not be asked to join");
                failures.push((address, cause));
            }
        }
    }
    Err(JoinError::Unreachable(failures))
}

async fn ask(token: &JoinToken, address: SocketAddr, request: &[u8]) -> Result<Bytes, String> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(any).map_err(|e| format!("no socket: {e}"))?;
    let config = tls::joiner(token.cluster, token.authority).map_err(|e| e.to_string())?;
    // Which director answers at the address is not known; the verifier accepts any of the cluster.
    let name = director_name(Default::default(), token.cluster);
    let connecting = endpoint.connect_with(config, address, &name).map_err(|e| e.to_string())?;
    let connection = timeout(CONNECT, connecting)
        .await
        .map_err(|_| "nobody answers there".to_owned())?
        .map_err(|e| describe(&e))?;
    let ended = |e: &dyn std::fmt::Display| {
        connection.close_reason().map_or_else(|| e.to_string(), |reason| describe(&reason))
    };
    let answer = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| ended(&e))?;
        send.write_all(request).await.map_err(|e| ended(&e))?;
        send.finish().map_err(|e| ended(&e))?;
        recv.read_to_end(MAX_ANSWER).await.map_err(|e| ended(&e))
    };
    let answer = answer.await;
    connection.close(close::DONE, b"");
    // Lets the farewell leave before the socket goes.
    let _ = timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
    answer.map(Bytes::from)
}
