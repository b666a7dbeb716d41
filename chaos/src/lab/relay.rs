//! A bad network between directors: their datagrams come here, where some are lost and the others are late
//! by different times, so that they overtake each other. (The kernel's netem is missing on many machines.)
//!
//! The router rewrites the destination of what one director sends to another to a port of this program,
//! which sends it on with the director's own address as the source.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::UdpSocket;
use tokio::task::spawn_local;

use super::plan::PEER_PORT;

/// How bad the network is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Badness {
    /// How many of a hundred datagrams are lost
    #[arg(long, default_value_t = 10)]
    pub loss_percent: u32,
    /// The least delay (ms)
    #[arg(long, default_value_t = 2)]
    pub least_ms: u64,
    /// The longest delay (ms)
    #[arg(long, default_value_t = 8)]
    pub most_ms: u64,
    /// Decides which are lost, and how late the others are
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// The port that takes what the director `from` sends to `to` (their places in the list).
pub fn port(from: usize, to: usize) -> u16 {
    20_000 + (from * 64 + to) as u16
}

impl Badness {
    /// What becomes of a datagram: how late it is, or none: it is lost.
    fn fate(&self, random: &mut SmallRng) -> Option<Duration> {
        if random.random_range(0..100) < self.loss_percent {
            return None;
        }
        let micros = random.random_range(self.least_ms * 1000..=self.most_ms * 1000);
        Some(Duration::from_micros(micros))
    }
}

/// Passes datagrams on until the process ends. Runs in a `LocalSet`.
pub async fn main(directors: Vec<Ipv4Addr>, badness: Badness) -> Result<()> {
    let senders: Vec<Rc<UdpSocket>> =
        directors.iter().map(|d| as_director(*d).map(Rc::new)).collect::<Result<_>>()?;
    for (from, sender) in senders.iter().enumerate() {
        for (to, target) in directors.iter().enumerate().filter(|(to, _)| *to != from) {
            let place = (Ipv4Addr::UNSPECIFIED, port(from, to));
            let taker = UdpSocket::bind(place).await.context("a port of the relay")?;
            let target = SocketAddrV4::new(*target, PEER_PORT);
            let random = SmallRng::seed_from_u64(badness.seed ^ u64::from(port(from, to)));
            spawn_local(pass_on(taker, sender.clone(), target, badness, random));
        }
    }
    println!("ready");
    std::future::pending().await
}

/// A socket that sends with a director's address.
fn as_director(director: Ipv4Addr) -> Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    let address = SockaddrIn::from(SocketAddrV4::new(director, PEER_PORT));
    bind(socket.as_raw_fd(), &address).with_context(|| format!("sending as {director}"))?;
    Ok(UdpSocket::from_std(StdSocket::from(socket))?)
}

async fn pass_on(
    taker: UdpSocket,
    sender: Rc<UdpSocket>,
    target: SocketAddrV4,
    badness: Badness,
    mut random: SmallRng,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok((got, _)) = taker.recv_from(&mut bytes).await else { continue };
        let Some(late) = badness.fate(&mut random) else { continue };
        let (datagram, sender) = (bytes[..got].to_vec(), sender.clone());
        spawn_local(async move {
            tokio::time::sleep(late).await;
            sender.send_to(&datagram, target).await.ok();
        });
    }
}

/// The router's rules that bring what directors send to each other here, but not what comes from here; to be
/// given one after another. Until the last one no packet is tracked: one that came while half of them are
/// there would make its flow known without a new destination, and all that follow would go past.
pub fn rules(directors: &[(String, Ipv4Addr, Ipv4Addr)]) -> [String; 3] {
    let not_yet = format!(
        "add table ip relay\n\
         add chain ip relay early {{ type filter hook prerouting priority -300; }}\n\
         add rule ip relay early udp dport {PEER_PORT} notrack\n"
    );
    let mut text = format!(
        "add chain ip relay in {{ type nat hook prerouting priority -100; }}\n\
         add chain ip relay own {{ type filter hook output priority -300; }}\n\
         add rule ip relay own udp dport {PEER_PORT} notrack\n"
    );
    for (from, (device, source, gateway)) in directors.iter().enumerate() {
        for (to, (_, target, _)) in directors.iter().enumerate().filter(|(to, _)| *to != from) {
            let port = port(from, to);
            text += &format!(
                "add rule ip relay in iif \"{device}\" ip saddr {source} ip daddr {target} \
                 udp dport {PEER_PORT} counter dnat to {gateway}:{port}\n"
            );
        }
    }
    [not_yet, text, "flush chain ip relay early\n".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_lost_and_the_others_late_by_different_times() {
        let badness = Badness { loss_percent: 10, least_ms: 2, most_ms: 8, seed: 1 };
        let mut random = SmallRng::seed_from_u64(1);
        let fates: Vec<_> = (0..10_000).map(|_| badness.fate(&mut random)).collect();
        let lost = fates.iter().filter(|f| f.is_none()).count();
        assert!((800..1_200).contains(&lost), "{lost}");
        let late: Vec<Duration> = fates.into_iter().flatten().collect();
        assert!(late.iter().all(|d| (2_000..=8_000).contains(&(d.as_micros() as u64))));
        assert!(late.windows(2).any(|w| w[0] > w[1] + Duration::from_millis(1)), "overtaking");
    }

    #[test]
    fn each_pair_has_a_port_of_its_own() {
        let mut ports: Vec<u16> =
            (0..16).flat_map(|from| (0..16).map(move |to| port(from, to))).collect();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 256);
    }
}
