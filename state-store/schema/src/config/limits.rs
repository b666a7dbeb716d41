//! How large, how many, how long: the limits of the configuration.
//!
//! The key table, the readers and [`mod@super::validate`] share them, so that a value is refused in
//! the same way whether it comes in a file or over the admin API.

use std::ops::RangeInclusive;

/// Most bytes a configuration file may have.
pub const FILE_BYTES: usize = 8 << 20;
/// Most listeners of a cluster.
pub const LISTENERS: usize = 1_000;
/// Most server groups of a cluster.
pub const GROUPS: usize = 1_000;
/// Most backends of a cluster, all groups together.
pub const BACKENDS: usize = 10_000;
/// Most prefixes in the LIP pool.
pub const POOL_PREFIXES: usize = 64;
/// Most addresses in the LIP pool.
pub const POOL_ADDRESSES: u64 = 65_536;
/// Most characters of a name (a DNS label's limit, RFC 1035 section 2.3.4).
pub const NAME_CHARS: usize = 63;
/// Most bytes of the path of a unix socket (`sun_path` of unix(7) without its NUL).
pub const SOCKET_PATH_BYTES: usize = 107;
/// Most characters of an interface's name (`IFNAMSIZ` without its NUL).
pub const INTERFACE_CHARS: usize = 15;

/// LIPs a director.
pub const LIPS_PER_DIRECTOR: RangeInclusive<u32> = 1..=64;
/// Ports.
pub const PORT: RangeInclusive<u32> = 1..=65_535;
/// `replicate-after` (ms).
pub const REPLICATE_AFTER_MS: RangeInclusive<u32> = 0..=3_600_000;
/// `idle-timeout` (ms).
pub const IDLE_TIMEOUT_MS: RangeInclusive<u32> = 100..=604_800_000;
/// Weight of a backend.
pub const WEIGHT: RangeInclusive<u32> = 0..=1_000;
/// Interval of health checks (ms).
pub const HEALTH_INTERVAL_MS: RangeInclusive<u32> = 50..=3_600_000;
/// Timeout of a health check (ms).
pub const HEALTH_TIMEOUT_MS: RangeInclusive<u32> = 10..=60_000;
/// Successes or failures in a row.
pub const HEALTH_COUNT: RangeInclusive<u32> = 1..=100;
/// HTTP status codes (RFC 9110 section 15).
pub const HTTP_STATUS: RangeInclusive<u32> = 100..=599;
/// Workers of a director.
pub const WORKERS: RangeInclusive<u32> = 1..=64;
/// Sessions of a director.
pub const MAX_SESSIONS: RangeInclusive<u32> = 1_024..=64_000_000;
/// Questions a second about unknown sessions.
pub const ASKS_PER_SECOND: RangeInclusive<u32> = 1..=10_000_000;
/// Young sessions of others that a director keeps.
pub const MAX_YOUNG_SESSIONS: RangeInclusive<u32> = 256..=64_000_000;
/// `guard-timeout` (ms).
pub const GUARD_TIMEOUT_MS: RangeInclusive<u32> = 10..=5_000;
/// `udp-ask` (ms).
pub const UDP_ASK_MS: RangeInclusive<u32> = 0..=600_000;
/// Routing tables (253 to 255 are the kernel's own).
pub const ROUTING_TABLE: RangeInclusive<u32> = 1..=4_294_967_294;
