//! What the scenario and its clients say to each other: one JSON object a line.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use super::record::{Cohort, Record, Transport};

/// A command to a client, with a number that its answer repeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The number.
    pub number: u64,
    /// The command.
    #[serde(flatten)]
    pub command: Command,
}

/// What a client can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Command {
    /// Open connections, spread over a time.
    Open {
        /// Their kind.
        cohort: Cohort,
        /// How many.
        count: u32,
        /// Where to.
        target: SocketAddrV4,
        /// Over how long (ms).
        over_ms: u64,
        /// For downloads: the file that has to come.
        file: Option<String>,
    },
    /// From now on open this many young connections a second; 0 stops.
    Young {
        /// How many a second.
        per_second: u32,
        /// Where to.
        target: SocketAddrV4,
    },
    /// Bind sockets for a burst, and tell their addresses; those of an earlier one are given up.
    Reserve {
        /// How many.
        count: u32,
        /// Where they will go.
        target: SocketAddrV4,
    },
    /// Open short connections from sockets that were bound for it, spread evenly over a time; the other
    /// sockets are given up.
    Burst {
        /// The ports of the sockets.
        ports: Vec<u16>,
        /// Where to.
        target: SocketAddrV4,
        /// Over how long (ms).
        over_ms: u64,
    },
    /// Idle connections that have exchanged nothing since then speak, spread over a time.
    Speak {
        /// Since when.
        since_ms: u64,
        /// Over how long (ms).
        over_ms: u64,
    },
    /// Tell how things are.
    Look {
        /// Which connections have exchanged nothing since then.
        since_ms: u64,
        /// Of those that were connected before then.
        connected_before_ms: u64,
        /// Silence beyond the gap after which one counts as lost.
        patience_ms: u64,
    },
    /// List the connections that are open, or have ended since then.
    Flows {
        /// Since when.
        since_ms: u64,
    },
    /// Give everything that is remembered.
    Records,
}

/// A client's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The number of the command.
    pub number: u64,
    /// The answer.
    #[serde(flatten)]
    pub said: Said,
}

/// What a client can say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "said")]
pub enum Said {
    /// It is done, or under way.
    Done,
    /// How things are.
    Look(Look),
    /// The sockets that were bound.
    Reserved {
        /// Their addresses.
        locals: Vec<SocketAddrV4>,
    },
    /// The connections that were asked for.
    Flows {
        /// Each one.
        flows: Vec<Flow>,
    },
    /// Everything that is remembered.
    Records {
        /// When.
        now_ms: u64,
        /// Each one.
        records: Vec<Record>,
    },
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Connections that are open and connected, young ones left out.
    pub open: u64,
    /// Connections of the kinds asked for that have yet to exchange something; by kind.
    pub pending: Vec<(Cohort, u64)>,
    /// Connections that were lost so far, young ones left out.
    pub lost: u64,
    /// Connections that are to end by themselves, and have not yet.
    pub passing: u64,
    /// Young connections that were lost so far.
    pub young_lost: u64,
    /// The longest that an open connection is overdue now (ms).
    pub overdue_ms: u64,
}

/// An open connection as the router sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Number of its record.
    pub id: u64,
    /// TCP or UDP.
    pub transport: Transport,
    /// The client's side.
    pub local: SocketAddrV4,
    /// The VIP and port.
    pub remote: SocketAddrV4,
}
