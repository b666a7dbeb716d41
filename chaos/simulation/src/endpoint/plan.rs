//! What a client host does, drawn from a seed.

use std::net::{IpAddr, SocketAddr};

use super::dialogue::{Dialogue, Ending, Volume};
use super::event::ConnectionId;
use super::tcp::TcpConfig;
use crate::rng::Rng;

/// The protocol of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Address and port, of the clients' family.
    pub address: SocketAddr,
    /// The listener's protocol.
    pub transport: Transport,
    /// The listener's idle timeout: idle connections stay idle for less than that by a few retransmissions.
    pub idle_timeout_us: u64,
}

/// What kind of connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A few requests without pause.
    Short,
    /// Many requests with pauses.
    Long,
    /// Two or three requests, idle between them for almost the whole idle timeout.
    Idle,
    /// A SYN, or a few, and silence.
    HalfOpen,
    /// Much data.
    Bulk,
    /// A UDP flow: numbered requests, sent again until they are answered.
    Udp,
}

/// One connection, or UDP flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionPlan {
    /// What kind it is; for reports, all that matters is in the other fields.
    pub kind: Kind,
    /// What is said, and how it ends.
    pub dialogue: Dialogue,
    /// To where.
    pub target: SocketAddr,
    /// Begins at this time; behind a predecessor, this long after that has ended.
    pub start_us: u64,
    /// The connection that has the same port before.
    pub after: Option<ConnectionId>,
    /// Pauses before each request, from and to.
    pub pause_us: (u64, u64),
    /// The initial sequence number. Of a successor: how much it lies beyond the predecessor's last.
    pub isn: u32,
    /// How often the SYN is sent at once.
    pub syn_copies: u8,
    /// Whether its segments pretend a client address of their own (an option that must not get through).
    pub forges_address: bool,
}

/// What [`ClientPlan::draw`] draws from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The client host's address.
    pub address: IpAddr,
    /// Where it connects to.
    pub targets: Vec<Target>,
    /// How many connections and flows.
    pub connections: u32,
    /// The number of the first; the host takes up to `connections` numbers from there.
    pub first_id: u64,
    /// Connections begin between these times.
    pub begin_us: (u64, u64),
    /// Times and sizes of its TCP.
    pub tcp: TcpConfig,
    /// How long it waits for what has to come before it calls the connection stalled.
    pub patience_us: u64,
}

/// All that a client host does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientPlan {
    /// The host's address.
    pub address: IpAddr,
    /// Its connections.
    pub connections: Vec<ConnectionPlan>,
    /// Times and sizes of its TCP.
    pub tcp: TcpConfig,
    /// How long it waits for what has to come before it calls the connection stalled.
    pub patience_us: u64,
}

/// The first local port.
const FIRST_PORT: u64 = 20_000;

impl ClientPlan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(setting: &Setting, seed: u64) -> ClientPlan {
        let mut rng = Rng::new(seed, "client plan");
        let mut connections: Vec<ConnectionPlan> = Vec::new();
        let mut port = FIRST_PORT + rng.below(1_000);
        let mut number = 0;
        while number < u64::from(setting.connections) {
            let Some(target) = rng.pick(&setting.targets).copied() else { break };
            port += rng.between(1, 9);
            let client = SocketAddr::new(setting.address, port as u16);
            let mut plan =
                draw_connection(setting, &target, client, setting.first_id + number, &mut rng);
            number += 1;
            // Successors on the same port, soon after.
            let mut successors = 0;
            let reuses = plan.kind != Kind::Udp
                && plan.kind != Kind::HalfOpen
                && plan.dialogue.ending != Ending::Vanish
                && rng.chance(1, 6);
            if reuses {
                successors = rng.between(1, 3);
            }
            connections.push(plan.clone());
            for _ in 0..successors {
                if number == u64::from(setting.connections) {
                    break;
                }
                plan.after = Some(plan.dialogue.id);
                plan.start_us = rng.below(300_000);
                plan.dialogue.id = ConnectionId(setting.first_id + number);
                // Mostly ahead of the last number, by some seconds of the clock that numbers are made
                // from (RFC 6528; Linux counts every 64 ns); sometimes behind it, or anywhere.
                plan.isn = match rng.below(4) {
                    0 => 0_u32.wrapping_sub(rng.between(1 << 25, 1 << 30) as u32),
                    1 => rng.between(1 << 25, (1 << 32) - (1 << 25)) as u32,
                    _ => rng.between(1 << 25, 1 << 27) as u32,
                };
                number += 1;
                connections.push(plan.clone());
            }
        }
        ClientPlan {
            address: setting.address,
            connections,
            tcp: setting.tcp,
            patience_us: setting.patience_us,
        }
    }
}

fn draw_connection(
    setting: &Setting,
    target: &Target,
    client: SocketAddr,
    id: u64,
    rng: &mut Rng,
) -> ConnectionPlan {
    let kind = match (target.transport, rng.below(16)) {
        (Transport::Udp, _) => Kind::Udp,
        (Transport::Tcp, 0..=5) => Kind::Short,
        (Transport::Tcp, 6..=9) => Kind::Long,
        (Transport::Tcp, 10..=12) => Kind::Idle,
        (Transport::Tcp, 13) => Kind::HalfOpen,
        (Transport::Tcp, _) => Kind::Bulk,
    };
    let idle = target.idle_timeout_us;
    // Time for a few retransmissions is left: a network may lose what ends the silence.
    let longest = idle.saturating_sub((idle / 16).max(setting.tcp.retransmit_us * 4));
    let (requests, pause_us) = match kind {
        Kind::Short => (rng.between(1, 4), (0, 2_000)),
        Kind::Long => (rng.between(5, 40), (0, idle / 8)),
        Kind::Idle => (rng.between(2, 3), (longest - longest / 4, longest)),
        Kind::HalfOpen => (1, (0, 0)),
        Kind::Bulk => (rng.between(1, 3), (0, 1_000)),
        Kind::Udp if rng.chance(1, 4) => (rng.between(2, 3), (longest / 2, longest)),
        Kind::Udp => (rng.between(1, 30), (0, idle / 8)),
    };
    let volume = match kind {
        Kind::Bulk if rng.chance(1, 2) => Volume::Up,
        Kind::Bulk => Volume::Down,
        _ => Volume::Small,
    };
    let ending = match rng.below(20) {
        0..=6 => Ending::ClientCloses,
        7..=11 => Ending::BackendCloses,
        12..=13 => Ending::HalfClose,
        14..=15 => Ending::Simultaneous,
        16..=17 => Ending::Reset,
        18 => Ending::ResetInResponse,
        _ => Ending::Vanish,
    };
    ConnectionPlan {
        kind,
        dialogue: Dialogue {
            id: ConnectionId(id),
            client,
            requests: requests as u16,
            volume,
            ending: if kind == Kind::Udp { Ending::ClientCloses } else { ending },
        },
        target: target.address,
        start_us: rng.between(setting.begin_us.0, setting.begin_us.1),
        after: None,
        pause_us,
        isn: draw_isn(rng),
        syn_copies: if rng.chance(1, 8) { rng.between(2, 4) as u8 } else { 1 },
        forges_address: rng.chance(1, 12),
    }
}

/// An initial sequence number, often so near to 2^32 that it wraps during the connection.
pub(super) fn draw_isn(rng: &mut Rng) -> u32 {
    match rng.below(4) {
        0 => rng.draw() as u32,
        1 => 0_u32.wrapping_sub(rng.between(1, 3) as u32),
        _ => 0_u32.wrapping_sub(rng.between(1, 60_000) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        let target = |port, transport| Target {
            address: SocketAddr::new("203.0.113.1".parse().unwrap(), port),
            transport,
            idle_timeout_us: 3_000_000,
        };
        Setting {
            address: "192.0.2.1".parse().unwrap(),
            targets: vec![target(80, Transport::Tcp), target(53, Transport::Udp)],
            connections: 40,
            first_id: 1_000,
            begin_us: (5, 9_000),
            tcp: TcpConfig::default(),
            patience_us: 1,
        }
    }

    #[test]
    fn plans_repeat_and_keep_within_their_setting() {
        let mut met = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let plan = ClientPlan::draw(&setting(), seed);
            assert_eq!(plan, ClientPlan::draw(&setting(), seed));
            assert_eq!(plan.connections.len(), 40);
            for (connection, id) in plan.connections.iter().zip(1_000..) {
                assert_eq!(connection.dialogue.id, ConnectionId(id));
                assert!(connection.dialogue.requests > 0 && connection.syn_copies > 0);
                assert!(connection.pause_us.0 <= connection.pause_us.1);
                assert!(connection.pause_us.1 <= 2_200_000, "{connection:?}");
                met.insert(format!("{:?}", connection.kind));
                met.insert(format!("{:?}", connection.dialogue.ending));
                met.insert(format!("{:?}", connection.dialogue.volume));
                match connection.after {
                    None => assert!((5..=9_000).contains(&connection.start_us)),
                    // The predecessor is on the same port, and will end.
                    Some(before) => {
                        let before = (before.0 - 1_000) as usize;
                        let before = &plan.connections[before];
                        assert_eq!(before.dialogue.client, connection.dialogue.client);
                        assert_eq!(before.target, connection.target);
                        assert_ne!(before.dialogue.ending, Ending::Vanish);
                        met.insert("successor".to_owned());
                    }
                }
            }
        }
        assert_eq!(met.len(), 6 + 7 + 3 + 1, "{met:?}");
    }

    #[test]
    fn no_targets_no_connections() {
        let setting = Setting { targets: Vec::new(), ..setting() };
        assert!(ClientPlan::draw(&setting, 1).connections.is_empty());
    }
}
