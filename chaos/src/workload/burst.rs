//! Bursts of short connections from ports that are chosen beforehand: which path the router gives to a
//! connection follows from its ports, so it can be asked for before the connection is there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use tokio::net::TcpSocket;
use tokio::task::spawn_local;

use super::book::Book;
use super::echo::{Pace, connected, talk};
use super::record::{Cohort, Transport};

/// Sockets that are bound and not connected yet.
#[derive(Default)]
pub struct Reserved(BTreeMap<SocketAddrV4, TcpSocket>);

impl Reserved {
    /// Binds sockets to the address that leads to the target, each to a port of its own.
    pub fn bind(count: u32, target: SocketAddrV4) -> Result<Reserved> {
        let source = source(target).with_context(|| format!("the way to {target}"))?;
        let one = || -> Result<_> {
            let socket = bound(source)?;
            match socket.local_addr()? {
                SocketAddr::V4(local) => Ok((local, socket)),
                SocketAddr::V6(local) => bail!("{local} is no IPv4 address"),
            }
        };
        let bound = (0..count).map(|_| one()).collect::<Result<_>>();
        bound.map(Reserved).with_context(|| format!("binding {count} sockets"))
    }

    /// Their addresses.
    pub fn locals(&self) -> Vec<SocketAddrV4> {
        self.0.keys().copied().collect()
    }

    /// Opens connections from those of these ports, evenly over a time; the others are given up. Runs in
    /// a `LocalSet`.
    pub fn open(
        self,
        book: &Book,
        ports: &[u16],
        target: SocketAddrV4,
        over_ms: u64,
    ) -> Result<()> {
        let mut sockets: BTreeMap<u16, (SocketAddrV4, TcpSocket)> =
            self.0.into_iter().map(|(local, socket)| (local.port(), (local, socket))).collect();
        for (number, port) in (0..).zip(ports) {
            let (local, socket) =
                sockets.remove(port).with_context(|| format!("port {port} is not reserved"))?;
            let wait = Duration::from_micros(over_ms * 1000 * number / ports.len() as u64);
            let book = book.clone();
            spawn_local(async move {
                tokio::time::sleep(wait).await;
                let page = book.open(Cohort::Young, Transport::Tcp, target);
                page.local(Ok(SocketAddr::V4(local)));
                match socket.connect(SocketAddr::V4(target)).await {
                    Ok(stream) => talk(&page, connected(&page, stream), pace()).await,
                    Err(error) => page.broke("connecting", &error),
                }
            });
        }
        Ok(())
    }
}

/// Our address on the way to a target.
pub fn source(target: SocketAddrV4) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(target)?;
    socket.local_addr().map(|local| local.ip())
}

/// A socket with a port of its own that is not connected yet.
pub fn bound(source: IpAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    Ok(socket)
}

/// They live for six to ten seconds: young when the fault comes, and with something to say after it.
fn pace() -> Pace {
    Pace { every_ms: 500..=900, exchanges: Some(rand::rng().random_range(10..=13)) }
}
