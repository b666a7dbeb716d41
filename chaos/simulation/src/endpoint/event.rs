//! What endpoints notice.

use std::fmt;
use std::net::SocketAddr;

use super::packet::Damage;
use super::segment::Flags;

/// A connection's or UDP flow's number, unique in a run; it is in the payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {:x}", self.0)
    }
}

/// One thing that an endpoint noticed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When.
    pub at_us: u64,
    /// Of which connection. None: the backend has not read its number (yet).
    pub connection: Option<ConnectionId>,
    /// The endpoint's own socket.
    pub local: SocketAddr,
    /// The other end as this endpoint sees it; for a backend, a local address of a director.
    pub remote: SocketAddr,
    /// What.
    pub kind: EventKind,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us, {} with {}", self.at_us, self.local, self.remote)?;
        if let Some(id) = self.connection {
            write!(f, ", {id}")?;
        }
        write!(f, ": {:?}", self.kind)
    }
}

/// What a segment was that met no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stray {
    /// Its control bits.
    pub flags: Flags,
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement.
    pub ack: u32,
    /// Its bytes of data.
    pub data: u32,
}

/// Kinds of events. [`EventKind::is_fault`] tells those that nothing but a stated excuse explains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// The client sent its first SYN; the backend got one.
    Opened,
    /// The handshake is done.
    Connected,
    /// A whole request (backend) or response (client) arrived, each byte as it should be. (Data that
    /// TCP delivers twice or at the wrong place are [`EventKind::Corrupt`].)
    Delivered {
        /// Which one of the connection.
        number: u32,
        /// Its bytes.
        bytes: u64,
    },
    /// All was exchanged, and both ends closed.
    Closed,
    /// This end reset the connection because its plan says so.
    Aborted,
    /// This end fell silent because its plan says so.
    Vanished,
    /// A SYN was refused.
    Refused,
    /// The other end reset the connection.
    Reset {
        /// Something was still to be done: nobody at the ends wanted that.
        living: bool,
    },
    /// No answer to a segment or datagram, however often it was sent.
    TimedOut {
        /// Nothing explains it: the other end did not fall silent on purpose.
        living: bool,
    },
    /// A connection of the backend, half-open or without a word yet, was given up or reset.
    HalfOpenEnded,
    /// Everything was acknowledged, but what has to come did not.
    Stalled,
    /// A byte of the stream is not what it should be.
    Corrupt {
        /// Its offset in the stream.
        offset: u64,
        /// The offset whose bytes these are, if they are bytes of this connection: delivered twice, or
        /// out of order.
        belongs_to: Option<u64>,
    },
    /// The head of a response is of another connection or request.
    CrossTalk {
        /// The connection that it names.
        of: ConnectionId,
    },
    /// The connection's responses come from another backend than before.
    BackendChanged {
        /// Identity of the earlier one.
        from: u32,
        /// Identity of the later one.
        to: u32,
    },
    /// A segment in the middle of a connection that this host never had since it started (answered
    /// with a reset, by RFC 9293), or a datagram of a flow that another backend serves.
    Misrouted(Stray),
    /// A segment of a connection that ended here before, or may have before the reboot.
    Late(Stray),
    /// A SYN for a living connection, which belongs to somebody else or is forged.
    SynOnLiving {
        /// Something was still to be done on the connection.
        living: bool,
    },
    /// A SYN opened a connection in place of one in TIME_WAIT.
    TimeWaitReused,
    /// A reset with a number that is not the one expected; it was challenged or ignored.
    ResetIgnored,
    /// The backend was not told the client's address.
    AddressMissing,
    /// The backend was told a wrong client's address.
    AddressWrong {
        /// What it was told.
        told: SocketAddr,
        /// What the client says.
        is: SocketAddr,
    },
    /// Datagrams of one UDP flow now come from another address or port.
    SourceChanged,
    /// A datagram was sent again because no answer came.
    DatagramRepeated,
    /// A packet that is damaged or not of this world.
    Damaged(Damage),
    /// A packet for an address that is not this host's.
    NotMine,
    /// An ICMP message.
    Icmp {
        /// Its type.
        icmp_type: u8,
        /// Its code.
        code: u8,
    },
}

impl EventKind {
    /// Whether no endpoint did anything that explains this. It may still have an excuse in the world:
    /// a host that died, a network that damages packets.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        match self {
            EventKind::Opened
            | EventKind::Connected
            | EventKind::Delivered { .. }
            | EventKind::Closed
            | EventKind::Aborted
            | EventKind::Vanished
            | EventKind::HalfOpenEnded
            | EventKind::Late(_)
            | EventKind::TimeWaitReused
            | EventKind::ResetIgnored
            | EventKind::SourceChanged
            | EventKind::DatagramRepeated
            | EventKind::Icmp { .. } => false,
            EventKind::Reset { living }
            | EventKind::TimedOut { living, .. }
            | EventKind::SynOnLiving { living } => *living,
            EventKind::Refused
            | EventKind::Stalled
            | EventKind::Corrupt { .. }
            | EventKind::CrossTalk { .. }
            | EventKind::BackendChanged { .. }
            | EventKind::Misrouted(_)
            | EventKind::AddressMissing
            | EventKind::AddressWrong { .. }
            | EventKind::Damaged(_)
            | EventKind::NotMine => true,
        }
    }
}

/// A connection that a host has not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenConnection {
    /// Its number, if the host knows it.
    pub id: Option<ConnectionId>,
    /// The host's own socket.
    pub local: SocketAddr,
    /// The other end as this host sees it.
    pub remote: SocketAddr,
    /// Its TCP state; for UDP flows "UDP".
    pub state: &'static str,
}

/// What has become of a host's connections. `opened` is the sum of all others and of those open.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Summary {
    /// Begun.
    pub opened: u64,
    /// Of those, the ones whose handshake was done.
    pub connected: u64,
    /// Ended clean.
    pub closed: u64,
    /// Ended by a plan: reset or silence.
    pub intended: u64,
    /// Ended by a reset from the other end or by a refusal.
    pub reset: u64,
    /// Ended because no answer came.
    pub timed_out: u64,
    /// Forgotten at a reboot.
    pub forgotten: u64,
    /// Requests (backend) or responses (client) that arrived whole.
    pub delivered: u64,
}

impl Summary {
    /// Connections that have ended, whatever way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.closed + self.intended + self.reset + self.timed_out + self.forgotten
    }
}
