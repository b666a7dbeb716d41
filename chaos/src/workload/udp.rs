//! UDP flows: half of them are asked by the client, half are sent datagrams by the backend.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rand::{Rng, RngCore};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::book::{Book, Page};
use super::record::{Cohort, Transport};
use super::wire::{Frame, HEADER, Kind, MAX_PAYLOAD};
use crate::clock::now_ms;

/// Time between two questions of a client, or two datagrams of a backend (ms).
pub const EVERY_MS: u64 = 250;
/// How often a client says that it still listens (ms).
const SUBSCRIBE_MS: u64 = 5_000;

/// Who speaks in a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    /// The client asks.
    Client,
    /// The backend sends by itself; the client only says now and then that it listens.
    Backend,
}

/// Opens a flow and keeps it going.
pub async fn run(book: Book, target: SocketAddrV4, speaker: Speaker) {
    let page = book.open(Cohort::Udp, Transport::Udp, target);
    let socket = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(target).await?;
        Ok::<_, std::io::Error>(socket)
    };
    let error = match socket.await {
        Ok(socket) => {
            page.local(socket.local_addr());
            let mut flow = Flow { page: &page, socket, source: None, seq: 0 };
            match flow.keep_going(speaker).await {
                Ok(never) => match never {},
                Err(error) => error,
            }
        }
        Err(error) => error.to_string(),
    };
    page.failed(error);
}

struct Flow<'a> {
    page: &'a Page,
    socket: UdpSocket,
    /// The source that the backend saw first.
    source: Option<SocketAddrV4>,
    seq: u64,
}

impl Flow<'_> {
    async fn keep_going(&mut self, speaker: Speaker) -> Result<std::convert::Infallible, String> {
        loop {
            let (frame, again) = match speaker {
                Speaker::Client => (self.question(), EVERY_MS),
                Speaker::Backend => {
                    (Frame::ask(Kind::Subscribe, EVERY_MS, Vec::new()), SUBSCRIBE_MS)
                }
            };
            // A flow whose first datagram was lost begins again soon.
            let again = if self.source.is_none() { EVERY_MS } else { again };
            let until = Instant::now() + Duration::from_millis(again);
            self.socket.send(&frame.encode()).await.map_err(|e| e.to_string())?;
            self.listen(until, &frame).await?;
        }
    }

    fn question(&mut self) -> Frame {
        self.seq += 1;
        let mut payload = vec![0; rand::rng().random_range(64..=512)];
        rand::rng().fill_bytes(&mut payload);
        Frame::ask(Kind::Ask, self.seq, payload)
    }

    /// Takes what comes until then.
    async fn listen(&mut self, until: Instant, asked: &Frame) -> Result<(), String> {
        let mut bytes = vec![0; HEADER + MAX_PAYLOAD];
        while let Ok(got) = timeout_at(until, self.socket.recv(&mut bytes)).await {
            let got = got.map_err(|e| e.to_string())?;
            self.take(&bytes[..got], asked)?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], asked: &Frame) -> Result<(), String> {
        let now = now_ms();
        let Ok(frame) = Frame::decode(bytes) else {
            self.page.note(|r| r.corrupt(now));
            return Ok(());
        };
        let first = *self.source.get_or_insert(frame.source);
        self.page.note(|r| {
            if r.connected_ms.is_none() {
                r.connected(now);
            }
            r.progress(now, now + EVERY_MS);
            r.answered_by(&frame.name, now);
            // An answer to an earlier question is late, not damaged.
            let ours = frame.kind == Kind::Push || frame.seq < asked.seq;
            if !ours && (frame.seq != asked.seq || frame.payload != asked.payload) {
                r.corrupt(now);
            }
        });
        if frame.source != first {
            return Err(format!("the backend sees {}, it saw {first} before", frame.source));
        }
        Ok(())
    }
}
