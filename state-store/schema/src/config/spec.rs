//! The configuration as types.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::flow::Protocol;
use crate::prefix::Prefix;
use crate::session::ForwardingMode;

/// What the cluster serves (`kind = "cluster"`).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Prefixes that LIPs are taken from.
    pub lip_pool: Vec<Prefix>,
    /// How many LIPs each director gets.
    pub lips_per_director: u16,
    /// Listeners.
    pub listeners: Vec<ListenerSpec>,
    /// Server groups.
    pub groups: Vec<GroupSpec>,
}

impl Default for ClusterSpec {
    /// What a new cluster serves: nothing.
    fn default() -> ClusterSpec {
        ClusterSpec {
            lip_pool: Vec::new(),
            lips_per_director: 2,
            listeners: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// VIP + port + protocol, and how its traffic is treated.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ListenerSpec {
    /// Unique name.
    pub name: String,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How packets reach the backends.
    pub mode: ForwardingMode,
    /// Name of the server group.
    pub group: String,
    /// Age (ms) from which a session is replicated.
    pub replicate_after: ReplicateAfter,
    /// Idle timeout (ms).
    pub idle_timeout_ms: u32,
    /// What happens to packets of unknown TCP sessions.
    pub unknown_session: UnknownSession,
    /// What happens to the first datagram of an unknown UDP flow.
    pub new_udp: NewUdp,
}

/// When a session is replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicateAfter {
    /// When it is established and this old (ms); 0: at once.
    Millis(u32),
    /// Never: its sessions live and die with their director.
    Never,
}

/// Policy for packets of TCP sessions that every authority denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSession {
    /// Answer with a RST.
    Reset,
    /// Say nothing.
    Drop,
}

/// Policy for the first datagram of an unknown UDP flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewUdp {
    /// Schedule it here.
    Schedule,
    /// Ask the others first.
    Ask,
}

/// A set of backends.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Unique name.
    pub name: String,
    /// How backends are checked.
    pub health: HealthSpec,
    /// The backends.
    pub backends: Vec<BackendSpec>,
}

/// One real server: address + port + weight.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct BackendSpec {
    /// Unique within its group.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share of new sessions, relative to the others'; 0: none.
    pub weight: u16,
    /// It gets no new sessions; existing ones go on.
    pub draining: bool,
}

/// How backends are checked.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct HealthSpec {
    /// The check.
    pub check: HealthCheck,
    /// Time (ms) between two checks of a backend.
    pub interval_ms: u32,
    /// Time (ms) after which a check has failed.
    pub timeout_ms: u32,
    /// Successes in a row that make a backend healthy.
    pub rise: u8,
    /// Failures in a row that make it unhealthy.
    pub fall: u8,
}

impl Default for HealthSpec {
    fn default() -> HealthSpec {
        HealthSpec {
            check: HealthCheck::Tcp { port: None },
            interval_ms: 2_000,
            timeout_ms: 1_000,
            rise: 2,
            fall: 3,
        }
    }
}

/// The kinds of health check.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum HealthCheck {
    /// No check: always healthy.
    None,
    /// A TCP connection can be opened.
    Tcp {
        /// Another port than the backend's.
        port: Option<u16>,
    },
    /// `GET path` answers with the expected status.
    Http {
        /// Another port than the backend's.
        port: Option<u16>,
        /// What to ask for.
        path: String,
        /// The `Host` header; the backend's address if absent.
        host: Option<String>,
        /// The expected status; any 2xx or 3xx if absent.
        status: Option<u16>,
    },
}

/// Where the admin API's socket is when the node file does not say; `holdfast` looks there too.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/holdfast/admin.sock";

/// What one machine is (`kind = "node"`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The director's name.
    pub id: String,
    /// Where peers reach this director (QUIC over UDP); also the address it listens on.
    pub peer_address: SocketAddr,
    /// Data directory.
    pub data_dir: PathBuf,
    /// The interface that carries VIP and LIP traffic.
    pub interface: String,
    /// How many of its queues have a worker (one thread and one AF_XDP socket each).
    pub workers: u16,
    /// Native XDP, SKB mode, or native with SKB as fallback.
    pub xdp_mode: XdpMode,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Where `/metrics` is served, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Most sessions this director can hold.
    pub max_sessions: u32,
    /// Most young sessions of others that it keeps as their home.
    pub max_young_sessions: u32,
    /// Questions a second about unknown sessions.
    pub asks_per_second: u32,
    /// Of them about clients of one /24.
    pub asks_per_second_and_prefix: u32,
    /// The announcement of routes; none: nothing is announced (tests, a first look).
    pub announce: Option<AnnounceSpec>,
    /// Time (ms) without a beat after which the guard lets go of the routes.
    pub guard_timeout_ms: u32,
    /// Time (ms) for which UDP misses ask the others after a membership or announcement change.
    pub udp_ask_ms: u32,
}

/// How routes are announced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AnnounceSpec {
    /// BIRD's control socket.
    pub bird_socket: PathBuf,
    /// Name of the TUN device that the guard holds.
    pub device: String,
    /// Routing table that BIRD learns from.
    pub table: u32,
    /// Routing table with the blackholes for VIP and LIP prefixes.
    pub blackhole_table: u32,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// Native; SKB where native fails.
    Auto,
    /// Native or nothing.
    Native,
    /// SKB mode.
    Skb,
}
