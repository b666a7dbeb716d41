//! What is noted in the trace.

use std::fmt;
use std::net::SocketAddrV4;

use holdfast_director::core::DropReason;

use crate::director::frame;
use crate::plan::Fault;

/// Where something happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A client host.
    Client(u32),
    /// The router.
    Router,
    /// A director, by its number.
    Director(u32),
    /// A backend.
    Backend(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Client(n) => write!(f, "client {n}"),
            Place::Router => f.write_str("router"),
            Place::Director(n) => write!(f, "director {n}"),
            Place::Backend(n) => write!(f, "backend {n}"),
        }
    }
}

/// What the trace says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Glance {
    src: SocketAddrV4,
    dst: SocketAddrV4,
    protocol: u8,
    /// TCP: sequence, acknowledgement, flags.
    tcp: Option<(u32, u32, u8)>,
    len: u16,
}

impl Glance {
    /// At an IPv4 packet.
    pub fn at(packet: &[u8]) -> Option<Glance> {
        let (src, dst, protocol) = frame::tuple(packet)?;
        let begin = usize::from(packet[0] & 0xf) * 4;
        let word = |at: usize| {
            let bytes: [u8; 4] = packet.get(begin + at..begin + at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let tcp = match protocol {
            6 => Some((word(4)?, word(8)?, *packet.get(begin + 13)?)),
            _ => None,
        };
        Some(Glance { src, dst, protocol, tcp, len: packet.len() as u16 })
    }
}

impl fmt::Display for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Glance { src, dst, protocol, len, .. } = self;
        write!(f, "{src} > {dst} ")?;
        let Some((seq, ack, flags)) = self.tcp else {
            return write!(f, "protocol {protocol}, {len} bytes");
        };
        for (bit, name) in [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, '.')] {
            if flags & bit != 0 {
                write!(f, "{name}")?;
            }
        }
        write!(f, " seq {seq} ack {ack}, {len} bytes")
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// A packet arrived.
    Packet(Place, Glance),
    /// A packet was lost on its way to this place.
    Lost(Place, Glance),
    /// A director dropped a packet.
    Dropped(u32, DropReason, Option<Glance>),
    /// A director keeps a packet until it knows more.
    Parked(u32, Glance),
    /// A director sent a packet that had waited or that answers one.
    Released(u32, Glance),
    /// An endpoint noticed something.
    Noticed(Place, String),
    /// A fault begins.
    Begins(Fault),
    /// A fault ends.
    Ends(Fault),
    /// A director started.
    Started(u32, u64),
    /// The router learned what a director announces: metric of the VIP.
    Announces(u32, Option<u32>),
    /// A director's stage of announcement.
    Stage(u32, &'static str),
    /// A director found that it had been stalled.
    Stalled(u32),
    /// A message between directors.
    Message(u32, u32, &'static str),
    /// What a director knows of the session that is watched.
    Knows(u32, String),
    /// The world's phase.
    Phase(&'static str),
    /// A director ended by itself.
    GaveUp(u32, String),
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::Packet(place, glance) => write!(f, "{place}: {glance}"),
            Happening::Lost(place, glance) => write!(f, "lost on its way to {place}: {glance}"),
            Happening::Dropped(id, reason, Some(glance)) => {
                write!(f, "director {id} drops ({reason:?}): {glance}")
            }
            Happening::Dropped(id, reason, None) => {
                write!(f, "director {id} drops a packet that waited ({reason:?})")
            }
            Happening::Parked(id, glance) => write!(f, "director {id} asks about: {glance}"),
            Happening::Released(id, glance) => write!(f, "director {id} sends: {glance}"),
            Happening::Noticed(place, what) => write!(f, "{place} notices: {what}"),
            Happening::Begins(fault) => write!(f, "FAULT begins: {fault}"),
            Happening::Ends(fault) => write!(f, "FAULT ends: {fault}"),
            Happening::Started(id, incarnation) => {
                write!(f, "director {id} starts, incarnation {incarnation}")
            }
            Happening::GaveUp(id, why) => write!(f, "director {id} ends: {why}"),
            Happening::Announces(id, Some(metric)) => {
                write!(f, "router: director {id} announces the VIP with metric {metric}")
            }
            Happening::Announces(id, None) => write!(f, "router: director {id} announces no VIP"),
            Happening::Stage(id, stage) => write!(f, "director {id} is {stage}"),
            Happening::Stalled(id) => write!(f, "director {id} was stalled"),
            Happening::Message(from, to, word) => write!(f, "director {from} to {to}: {word}"),
            Happening::Knows(id, what) => write!(f, "director {id} knows: {what}"),
            Happening::Phase(phase) => write!(f, "== {phase}"),
        }
    }
}
