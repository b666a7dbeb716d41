//! Clients of the echo service over TCP: steady, idle and young ones.

use std::net::SocketAddrV4;
use std::ops::RangeInclusive;

use rand::{Rng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::book::{Book, Page};
use super::burst::{bound, source};
use super::record::{Cohort, Transport};
use super::wire::{Frame, HEADER, Kind};
use crate::clock::now_ms;

/// How a connection talks.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Time between an answer and the next question (ms).
    pub every_ms: RangeInclusive<u64>,
    /// After how many exchanges it is closed; none: never.
    pub exchanges: Option<u32>,
}

impl Pace {
    /// The pace of a kind of connection.
    pub fn of(cohort: Cohort) -> Pace {
        match cohort {
            Cohort::Idle => Pace { every_ms: 20_000..=20_000, exchanges: None },
            Cohort::Young => {
                Pace { every_ms: 400..=800, exchanges: Some(rand::rng().random_range(2..=5)) }
            }
            _ => Pace { every_ms: 200..=300, exchanges: None },
        }
    }
}

/// Connects and notes it; the error is noted too. Its port is known before it is there, so that its path
/// can be asked for even if it never comes to be.
pub async fn connect(page: &Page, target: SocketAddrV4) -> Option<TcpStream> {
    let opened = async {
        let socket = bound(source(target)?)?;
        page.local(socket.local_addr());
        socket.connect(target.into()).await
    };
    match opened.await {
        Ok(stream) => Some(connected(page, stream)),
        Err(error) => {
            page.broke("connecting", &error);
            None
        }
    }
}

/// Notes that the connection is there.
pub fn connected(page: &Page, stream: TcpStream) -> TcpStream {
    page.local(stream.local_addr());
    page.note(|r| r.connected(now_ms()));
    // A failure here costs a delay and no more.
    stream.set_nodelay(true).ok();
    stream
}

/// Opens a connection and talks at its pace to the end.
pub async fn run(book: Book, cohort: Cohort, target: SocketAddrV4) {
    let page = book.open(cohort, Transport::Tcp, target);
    if let Some(stream) = connect(&page, target).await {
        talk(&page, stream, Pace::of(cohort)).await;
    }
}

/// Talks at a pace to the end.
pub async fn talk(page: &Page, mut stream: TcpStream, pace: Pace) {
    let mut seq = 0;
    loop {
        seq += 1;
        let pause_ms = rand::rng().random_range(pace.every_ms.clone());
        if let Err(error) = exchange(page, &mut stream, seq, pause_ms).await {
            return page.broke("exchanging", &error);
        }
        if pace.exchanges.is_some_and(|most| seq >= u64::from(most)) {
            return close(page, stream).await;
        }
        page.pause(pause_ms).await;
    }
}

/// One question and its answer.
async fn exchange(
    page: &Page,
    stream: &mut TcpStream,
    seq: u64,
    pause_ms: u64,
) -> std::io::Result<()> {
    let mut payload = vec![0; rand::rng().random_range(64..=512)];
    rand::rng().fill_bytes(&mut payload);
    let question = Frame::ask(Kind::Ask, seq, payload);
    stream.write_all(&question.encode()).await?;
    let mut bytes = vec![0; HEADER];
    stream.read_exact(&mut bytes).await?;
    let head: [u8; HEADER] = bytes[..].try_into().expect("a header");
    match Frame::payload_len(&head) {
        Ok(length) => {
            bytes.resize(HEADER + length, 0);
            stream.read_exact(&mut bytes[HEADER..]).await?;
        }
        Err(error) => {
            // Out of step for good: where the next frame begins is unknown.
            page.note(|r| r.corrupt(now_ms()));
            return Err(std::io::Error::other(error));
        }
    }
    let now = now_ms();
    page.note(|r| {
        r.progress(now, now + pause_ms);
        match Frame::decode(&bytes) {
            Ok(a) if a.kind == Kind::Answer && a.seq == seq && a.payload == question.payload => {
                r.answered_by(&a.name, now);
            }
            _ => r.corrupt(now),
        }
    });
    Ok(())
}

/// Closes our side first and waits for the other, so that a reset on the way shows.
async fn close(page: &Page, mut stream: TcpStream) {
    page.note(|r| r.speaks(now_ms()));
    let mut rest = [0];
    let ended = async {
        stream.shutdown().await?;
        stream.read(&mut rest).await
    };
    match ended.await {
        Ok(0) => page.note(|r| {
            let now = now_ms();
            r.progress(now, now);
            r.finished(now);
        }),
        Ok(_) => {
            page.note(|r| r.corrupt(now_ms()));
            page.failed("bytes that nobody asked for");
        }
        Err(error) => page.broke("closing", &error),
    }
}
