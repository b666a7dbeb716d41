//! Snapshots: each on a connection of its own, paced, with an answer at the end.
//!
//! A two-way stream: kind, length and bytes of the header, then chunks (length, bytes), then
//! [`SNAPSHOT_END`] in the place of a length. The answer is a status, and behind an error its words.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use holdfast_schema::cluster::DirectorId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::error::{NetError, close, describe};
use super::link::dial_once;
use super::metrics::{NetMetrics, add};
use super::network::Shared;
use super::registry::Entry;
use super::wire::{Purpose, SNAPSHOT_END, kind, status};

/// The largest piece that travels as one chunk; larger ones are cut (bytes).
const MAX_CHUNK: usize = 1 << 20;

/// A transfer fails when nothing moves for this long.
const PROGRESS: Duration = Duration::from_secs(30);

/// How long the receiver may take to answer after the last chunk.
const ANSWER: Duration = Duration::from_secs(120);

/// Most bytes of an answer.
const MAX_ANSWER: usize = 4 << 10;

pub(super) async fn send<S>(
    shared: &Shared,
    to: DirectorId,
    header: Bytes,
    chunks: S,
) -> Result<(), NetError>
where
    S: Stream<Item = Result<Bytes, String>> + Send,
{
    let limit = shared.limits.max_message;
    if header.len() > limit {
        let bytes = header.len();
        return Err(NetError::TooLarge { what: "a snapshot's header", bytes, limit });
    }
    let info = shared.peer(to)?.info.clone();
    // Never closed, so this only waits.
    let _turn = shared.snapshots_out.acquire().await;
    let connection = dial_once(shared, &info, Purpose::Snapshot).await?;
    let result = transfer(shared, to, &connection, header, chunks).await;
    shared.registry.remove(&connection);
    connection.close(close::DONE, b"");
    result
}

async fn transfer<S>(
    shared: &Shared,
    to: DirectorId,
    connection: &Connection,
    header: Bytes,
    chunks: S,
) -> Result<(), NetError>
where
    S: Stream<Item = Result<Bytes, String>> + Send,
{
    let broken = |e: &dyn std::fmt::Display| NetError::Broken {
        peer: to,
        cause: connection.close_reason().map_or_else(|| e.to_string(), |r| describe(&r)),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(&e))?;
    let written = write(shared, to, &mut send, header, chunks).await;
    match written {
        Ok(()) => {}
        // The receiver has had enough; its answer says why.
        Err(Stopped::ByReceiver) => {}
        Err(Stopped::By(error)) => {
            // So that what has arrived is not taken for the whole.
            let _ = send.reset(VarInt::from_u32(0));
            return Err(error);
        }
    }
    let answer = timeout(ANSWER, recv.read_to_end(MAX_ANSWER + 1));
    let late = |_| NetError::Timeout { peer: to, what: "installing a snapshot", after: ANSWER };
    let answer = answer.await.map_err(late)?.map_err(|e| broken(&e))?;
    match answer.split_first() {
        Some((&status::OK, [])) => Ok(()),
        Some((&status::ERROR, cause)) => {
            let cause = String::from_utf8_lossy(cause).into_owned();
            Err(NetError::Refused { peer: to, cause })
        }
        _ => {
            let cause = "an answer to a snapshot without status".to_owned();
            Err(NetError::Protocol { peer: to, cause })
        }
    }
}

enum Stopped {
    ByReceiver,
    By(NetError),
}

async fn write<S>(
    shared: &Shared,
    to: DirectorId,
    send: &mut SendStream,
    header: Bytes,
    chunks: S,
) -> Result<(), Stopped>
where
    S: Stream<Item = Result<Bytes, String>> + Send,
{
    let counters = shared.metrics.lane(Purpose::Snapshot);
    let mut first = BytesMut::with_capacity(5);
    first.put_u8(kind::SNAPSHOT);
    first.put_u32(header.len() as u32);
    put(to, send, &mut [first.freeze(), header]).await?;
    let mut chunks = pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let mut chunk = chunk.map_err(|cause| Stopped::By(NetError::Source(cause)))?;
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(MAX_CHUNK));
            let length = piece.len();
            let wait = shared.snapshot_pacer.lock().book(shared.now(), length as u64);
            tokio::time::sleep(wait).await;
            let before = Bytes::copy_from_slice(&(length as u32).to_be_bytes());
            put(to, send, &mut [before, piece]).await?;
            add(&counters.messages_out, 1);
            add(&counters.bytes_out, length as u64);
        }
    }
    let end = Bytes::copy_from_slice(&SNAPSHOT_END.to_be_bytes());
    put(to, send, &mut [end]).await?;
    // Fails only if the stream was stopped, and then the answer says why.
    let _ = send.finish();
    Ok(())
}

async fn put(to: DirectorId, send: &mut SendStream, chunks: &mut [Bytes]) -> Result<(), Stopped> {
    let late = || NetError::Timeout { peer: to, what: "taking a snapshot", after: PROGRESS };
    match timeout(PROGRESS, send.write_all_chunks(chunks)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(quinn::WriteError::Stopped(_))) => Err(Stopped::ByReceiver),
        Ok(Err(quinn::WriteError::ConnectionLost(lost))) => {
            Err(Stopped::By(NetError::Broken { peer: to, cause: describe(&lost) }))
        }
        Ok(Err(other)) => Err(Stopped::By(NetError::Broken { peer: to, cause: other.to_string() })),
        Err(_) => Err(Stopped::By(late())),
    }
}

/// The chunks of an arriving snapshot.
#[derive(Debug)]
pub struct SnapshotReader {
    from: DirectorId,
    stream: RecvStream,
    metrics: Arc<NetMetrics>,
    complete: bool,
}

impl SnapshotReader {
    /// The next chunk (not empty), none behind the last one. A snapshot that breaks off is an error,
    /// never an end. Chunks need not be cut where the sender cut them.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        if self.complete {
            return Ok(None);
        }
        let from = self.from;
        let late =
            NetError::Timeout { peer: from, what: "a snapshot's next chunk", after: PROGRESS };
        let chunk = timeout(PROGRESS, self.chunk()).await.map_err(|_| late)??;
        match &chunk {
            None => self.complete = true,
            Some(chunk) => {
                let counters = self.metrics.lane(Purpose::Snapshot);
                add(&counters.messages_in, 1);
                add(&counters.bytes_in, chunk.len() as u64);
            }
        }
        Ok(chunk)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, NetError> {
        let peer = self.from;
        let length = match read_u32(&mut self.stream, peer).await? {
            SNAPSHOT_END => return Ok(None),
            length => length as usize,
        };
        if length == 0 || length > MAX_CHUNK {
            let cause = format!("a snapshot's chunk of {length} bytes");
            return Err(NetError::Protocol { peer, cause });
        }
        read_bytes(&mut self.stream, length, peer).await.map(Some)
    }
}

fn broke_off(peer: DirectorId, error: &quinn::ReadExactError) -> NetError {
    let cause = match error {
        quinn::ReadExactError::FinishedEarly(_) => "the snapshot is cut off".to_owned(),
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost)) => describe(lost),
        other => other.to_string(),
    };
    NetError::Broken { peer, cause }
}

async fn read_u32(stream: &mut RecvStream, peer: DirectorId) -> Result<u32, NetError> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).await.map_err(|e| broke_off(peer, &e))?;
    Ok(u32::from_be_bytes(bytes))
}

async fn read_bytes(
    stream: &mut RecvStream,
    length: usize,
    peer: DirectorId,
) -> Result<Bytes, NetError> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|e| broke_off(peer, &e))?;
    Ok(bytes.into())
}

pub(super) async fn receive(
    shared: &Shared,
    entry: &Entry,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let (from, limit) = (entry.peer, shared.limits.max_message);
    let result = async {
        let _turn = shared.snapshots_in.acquire().await;
        let header = async {
            let length = read_u32(&mut recv, from).await? as usize;
            if length > limit {
                let what = "a snapshot's header";
                return Err(NetError::TooLarge { what, bytes: length, limit });
            }
            read_bytes(&mut recv, length, from).await
        };
        let header = timeout(PROGRESS, header).await;
        let header = header.map_err(|_| "no header came".to_owned())?.map_err(|e| e.to_string())?;
        let metrics = shared.metrics.clone();
        let reader = SnapshotReader { from, stream: recv, metrics, complete: false };
        shared.handler.snapshot(from, header, reader).await
    };
    let result = result.await;
    let answer = match result {
        Ok(()) => {
            add(&shared.metrics.snapshots_in, 1);
            vec![status::OK]
        }
        Err(cause) => {
            tracing::warn!(%from, reason = cause, "a snapshot was not installed");
            let mut answer = vec![status::ERROR];
            answer.extend_from_slice(&cause.as_bytes()[..cause.len().min(MAX_ANSWER)]);
            answer
        }
    };
    if send.write_all(&answer).await.is_ok() {
        let _ = send.finish();
    }
}
