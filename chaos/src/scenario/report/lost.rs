//! What became of the connections that were lost, one by one.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use super::Age;

/// What became of a connection that was lost, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LostConnection {
    /// The number of its record.
    pub id: u64,
    /// Its kind.
    pub kind: String,
    /// Its age when the fault came.
    pub age: Age,
    /// The same in ms since connect() returned; negative: it was opened later.
    pub age_ms: i64,
    /// The client's side.
    pub client: Option<SocketAddrV4>,
    /// The VIP and port.
    pub vip: SocketAddrV4,
    /// The backend that answered first.
    pub backend: Option<String>,
    /// How it was lost.
    pub how: How,
    /// The same in the words of whoever noticed.
    pub error: String,
    /// The system's number for it.
    pub errno: Option<i32>,
    /// When (ms after the fault).
    pub at_ms: i64,
    /// When the last byte came (ms after the fault).
    pub last_byte_ms: Option<i64>,
    /// How many exchanges there were.
    pub exchanges: u64,
    /// The director that the router sent it to before.
    pub director_before: Option<String>,
    /// The director that the router sent it to when the fault had taken effect; if it was the same, the next.
    pub director_after: Option<String>,
    /// Whether it is one of those that could not live.
    pub excused: bool,
}

/// How a connection can be lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// A reset came.
    Reset,
    /// Nothing came for too long; a reset came later, but it was lost by then.
    SilentThenReset,
    /// Nobody answered any more, and the client's kernel gave up.
    TimedOut,
    /// The other side closed it.
    Closed,
    /// Nothing came for too long.
    Silence,
    /// What came was not what should have.
    Damage,
    /// It could not be opened, or not in time.
    NotOpened,
    /// Anything else.
    Other,
}
