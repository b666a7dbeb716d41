//! What a seed stands for: the cluster, its network, its clients, and what goes wrong when.

pub mod cluster;
pub mod faults;
mod harsh;

use crate::rng::Rng;
pub use faults::{Fault, Planned, Stream};

const MS: u64 = 1_000;
const S: u64 = 1_000_000;

/// What is switched off, so that a check can be seen to fail.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Without {
    /// Nothing is ever proposed to the store.
    Replication,
    /// Homes are told of nothing.
    Tier1,
    /// Two sessions of one opening are not recognised.
    Twins,
    /// Every *no* counts.
    Authority,
    /// What the store has expired ends, whatever was seen of it here.
    Veto,
    /// What the store says of a key is taken for any use of it.
    Incarnations,
    /// A replica that has lost its memory comes back under its old number.
    ReplicaIds,
    /// Planned changes do not wait until everything is replicated.
    Flush,
}

impl Without {
    /// All of them.
    pub const ALL: [Without; 8] = [
        Without::Replication,
        Without::Tier1,
        Without::Twins,
        Without::Authority,
        Without::Veto,
        Without::Incarnations,
        Without::ReplicaIds,
        Without::Flush,
    ];

    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Without::Replication => "replication",
            Without::Tier1 => "tier1",
            Without::Twins => "twins",
            Without::Authority => "authority",
            Without::Veto => "veto",
            Without::Incarnations => "incarnations",
            Without::ReplicaIds => "replica-ids",
            Without::Flush => "flush",
        }
    }
}

/// How packets travel between clients, router, directors and backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketWeather {
    /// Shortest way (us).
    pub least_us: u64,
    /// Longest way (us): packets overtake each other.
    pub most_us: u64,
    /// Lost, of a million.
    pub lost: u32,
    /// Delivered twice, of a million.
    pub twice: u32,
}

/// Everything a seed decides before the first event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What is switched off.
    pub without: Option<Without>,
    /// The client socket of which the trace tells who knows it, and more. Changes nothing else.
    pub watch: Option<u64>,
    /// Whether it was drawn without the harsher faults ([`Plan::mild`]).
    pub mild: bool,
    /// Directors, those that join late included.
    pub directors: u32,
    /// Directors that are there from the start.
    pub founding: u32,
    /// Workers of each.
    pub workers: u16,
    /// Session groups.
    pub shards: u16,
    /// LIPs of each director.
    pub lips: u16,
    /// Backends.
    pub backends: u32,
    /// When a session is replicated (ms).
    pub replicate_after_ms: u32,
    /// Idle timeout of TCP sessions (ms).
    pub idle_timeout_ms: u32,
    /// Idle timeout of UDP sessions (ms).
    pub udp_idle_timeout_ms: u32,
    /// Whether unknown UDP flows are asked for.
    pub udp_asks: bool,
    /// Whether packets of unknown sessions are reset (else dropped).
    pub resets_unknown: bool,
    /// Whether the router moves only the flows that have to move.
    pub resilient: bool,
    /// Packets.
    pub weather: PacketWeather,
    /// Shortest and longest way of a message between directors (us).
    pub peer_us: (u64, u64),
    /// Parts in a million by which each director's clock is off.
    pub drift_ppm: u32,
    /// Connections that clients open.
    pub connections: u32,
    /// When the first client comes (us).
    pub clients_from_us: u64,
    /// When the safety phase ends: faults heal, no new connection begins.
    pub heal_us: u64,
    /// What goes wrong.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// What this seed stands for.
    pub fn of(seed: u64) -> Plan {
        let mut plan = Plan::mild(seed);
        plan.mild = false;
        plan.faults.extend(harsh::draw(&plan));
        plan
    }

    /// The same without partitions into groups, a bad network between directors, and disks that stall.
    pub fn mild(seed: u64) -> Plan {
        let mut plan = Plan { mild: true, ..Plan::calm(seed) };
        plan.faults = faults::draw(&plan, &mut Rng::new(seed, "faults"));
        plan.faults.extend(faults::draw_disks(&plan, &mut Rng::new(seed, "disks full or failing")));
        plan
    }

    /// The same without anything going wrong, and with fair weather.
    pub fn fair(seed: u64) -> Plan {
        let mut plan = Plan::calm(seed);
        plan.weather.lost = 0;
        plan.weather.twice = 0;
        plan
    }

    fn calm(seed: u64) -> Plan {
        let mut rng = Rng::new(seed, "plan");
        let directors = [2, 3, 3, 3, 4, 5][rng.below(6) as usize];
        let founding = if directors > 2 && rng.chance(1, 4) { directors - 1 } else { directors };
        let least_us = rng.between(20, 300);
        Plan {
            seed,
            without: None,
            watch: None,
            mild: false,
            directors,
            founding,
            workers: rng.between(1, 2) as u16,
            shards: [2, 2, 4][rng.below(3) as usize],
            lips: rng.between(1, 2) as u16,
            backends: rng.between(2, 4) as u32,
            replicate_after_ms: rng.between(300, 1_500) as u32,
            idle_timeout_ms: rng.between(4_000, 10_000) as u32,
            udp_idle_timeout_ms: rng.between(2_000, 5_000) as u32,
            udp_asks: rng.chance(1, 2),
            resets_unknown: rng.chance(3, 4),
            resilient: rng.chance(1, 2),
            weather: PacketWeather {
                least_us,
                most_us: least_us + rng.between(0, 800),
                lost: if rng.chance(1, 2) { rng.below(10_000) as u32 } else { 0 },
                twice: if rng.chance(1, 2) { rng.below(5_000) as u32 } else { 0 },
            },
            peer_us: (rng.between(50, 300), rng.between(300, 2_000)),
            drift_ppm: rng.below(300) as u32,
            connections: rng.between(60, 120) as u32,
            clients_from_us: 2 * S,
            heal_us: rng.between(30, 40) * S,
            faults: Vec::new(),
        }
    }

    /// How long a connection may take from the healing on to show that it works (us).
    pub fn patience_us(&self) -> u64 {
        30 * S + u64::from(self.idle_timeout_ms) * MS
    }
}
