//! What runs on a backend: the echo and drip services over TCP, and the UDP service.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::drip;
use super::wire::{Frame, HEADER, Kind, MAX_NAME, MAX_PAYLOAD};

/// How long datagrams are sent to a client that says nothing.
const SUBSCRIBED: Duration = Duration::from_secs(30);
/// Most clients that datagrams are sent to.
const MAX_SUBSCRIBERS: usize = 10_000;

/// The sockets of a backend.
pub struct Services {
    /// Echo over TCP.
    pub echo: TcpListener,
    /// A byte every 2 s.
    pub drip: TcpListener,
    /// UDP.
    pub udp: UdpSocket,
}

impl Services {
    /// Binds them; port 0 takes any.
    pub async fn bind(address: Ipv4Addr, ports: [u16; 3]) -> Result<Services> {
        let [echo, drip, udp] = ports;
        let place = |port| format!("listening on {address}:{port}");
        Ok(Services {
            echo: TcpListener::bind((address, echo)).await.with_context(|| place(echo))?,
            drip: TcpListener::bind((address, drip)).await.with_context(|| place(drip))?,
            udp: UdpSocket::bind((address, udp)).await.with_context(|| place(udp))?,
        })
    }

    /// Serves until the process ends. Runs in a `LocalSet`.
    pub async fn serve(self, name: &str) -> Result<()> {
        let name: Rc<str> = name.into();
        let udp = udp_service(Rc::new(self.udp), name.clone());
        let (echo_name, drip_name) = (name.clone(), name);
        tokio::try_join!(
            accept(self.echo, move |stream| echo(stream, echo_name.clone())),
            accept(self.drip, move |stream| drip(stream, drip_name.clone())),
            udp
        )?;
        Ok(())
    }
}

async fn accept<F: Future<Output = std::io::Result<()>> + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) -> Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                stream.set_nodelay(true).ok();
                // What becomes of a connection is the client's to notice.
                spawn_local(serve(stream));
            }
            // Out of file descriptors, or the client is gone already: others still want service.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn echo(mut stream: TcpStream, name: Rc<str>) -> std::io::Result<()> {
    let source = v4(stream.peer_addr()?);
    let mut bytes = vec![0; HEADER];
    loop {
        bytes.resize(HEADER, 0);
        match stream.read_exact(&mut bytes).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let head: [u8; HEADER] = bytes[..].try_into().expect("a header");
        let length = Frame::payload_len(&head).map_err(std::io::Error::other)?;
        bytes.resize(HEADER + length, 0);
        stream.read_exact(&mut bytes[HEADER..]).await?;
        // A damaged question ends the connection; the client sees that.
        let question = Frame::decode(&bytes).map_err(std::io::Error::other)?;
        let answer = Frame { kind: Kind::Answer, name: name.to_string(), source, ..question };
        stream.write_all(&answer.encode()).await?;
    }
}

async fn drip(mut stream: TcpStream, name: Rc<str>) -> std::io::Result<()> {
    let mut greeting = name.as_bytes().to_vec();
    greeting.resize(MAX_NAME, 0);
    stream.write_all(&greeting).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(drip::EVERY_MS));
    ticks.tick().await;
    let mut byte: u8 = 0;
    let mut ignored = [0; 16];
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                stream.write_all(&[byte]).await?;
                byte = byte.wrapping_add(1);
            }
            got = stream.read(&mut ignored) => if got? == 0 { return Ok(()) },
        }
    }
}

struct Subscriber {
    every: Duration,
    next: Instant,
    until: Instant,
    seq: u64,
}

async fn udp_service(socket: Rc<UdpSocket>, name: Rc<str>) -> Result<()> {
    let mut subscribers: HashMap<SocketAddr, Subscriber> = HashMap::new();
    let mut bytes = vec![0; HEADER + MAX_PAYLOAD];
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            got = socket.recv_from(&mut bytes) => {
                // Errors are ICMP messages about clients that went away.
                let Ok((got, from)) = got else { continue };
                let Ok(frame) = Frame::decode(&bytes[..got]) else { continue };
                match frame.kind {
                    Kind::Ask => {
                        let source = v4(from);
                        let name = name.to_string();
                        let answer = Frame { kind: Kind::Answer, name, source, ..frame };
                        socket.send_to(&answer.encode(), from).await.ok();
                    }
                    Kind::Subscribe if subscribers.len() < MAX_SUBSCRIBERS => {
                        let now = Instant::now();
                        let every = Duration::from_millis(frame.seq.clamp(20, 60_000));
                        let new = Subscriber { every, next: now, until: now, seq: 0 };
                        let subscriber = subscribers.entry(from).or_insert(new);
                        subscriber.until = now + SUBSCRIBED;
                    }
                    _ => {}
                }
            }
            _ = ticks.tick() => push(&socket, &name, &mut subscribers).await,
        }
    }
}

async fn push(socket: &UdpSocket, name: &str, subscribers: &mut HashMap<SocketAddr, Subscriber>) {
    let now = Instant::now();
    subscribers.retain(|_, s| s.until > now);
    for (to, subscriber) in subscribers.iter_mut().filter(|(_, s)| s.next <= now) {
        subscriber.next = now + subscriber.every;
        subscriber.seq += 1;
        let frame = Frame {
            kind: Kind::Push,
            seq: subscriber.seq,
            name: name.to_owned(),
            source: v4(*to),
            payload: vec![subscriber.seq as u8; 64],
        };
        socket.send_to(&frame.encode(), to).await.ok();
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(v4) => v4,
        // The lab has no IPv6.
        SocketAddr::V6(_) => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
    }
}
