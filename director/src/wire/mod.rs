//! Bounds-checked views over packet bytes, and checksums.
//!
//! A view ([`Ethernet`], [`Ipv4`], [`Tcp`], [`Udp`], [`Icmp`], [`Quote`]) proves once, while
//! parsing, that the fixed header is there; it then holds it as a reference to an array, so that
//! its accessors cannot be out of bounds and nothing here can panic. Hostile bytes are data: every
//! way to be malformed has its own [`WireError`]. Writing goes through small functions over the
//! same arrays ([`ipv4::rewrite`], [`Delta`]).
#![forbid(unsafe_code)]

pub mod checksum;
pub mod emit;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod quote;
pub mod tcp;
pub mod udp;

pub use checksum::Delta;
pub use ethernet::{EtherType, Ethernet};
pub use icmp::{Icmp, IcmpKind};
pub use ipv4::Ipv4;
pub use quote::Quote;
pub use tcp::{Tcp, TcpFlags};
pub use udp::Udp;

/// Every way in which bytes fail to be the packet they claim to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WireError {
    /// Shorter than an Ethernet header.
    EthernetShort,
    /// Shorter than an IPv4 header, or than the header length says.
    Ipv4Short,
    /// The version field is not 4.
    Ipv4Version,
    /// The header length is less than 20 bytes.
    Ipv4HeaderLength,
    /// The total length is less than the header or more than the frame.
    Ipv4TotalLength,
    /// The header checksum is wrong.
    Ipv4Checksum,
    /// Shorter than a TCP header, or than the data offset says.
    TcpShort,
    /// The data offset is less than 20 bytes.
    TcpDataOffset,
    /// An option's length is 0, 1, or reaches behind the header.
    TcpOption,
    /// Shorter than a UDP header.
    UdpShort,
    /// The UDP length is less than 8 or more than the packet.
    UdpLength,
    /// Shorter than an ICMP header.
    IcmpShort,
    /// The ICMP checksum is wrong.
    IcmpChecksum,
    /// The quoted packet is not IPv4, too short for its ports, or its header is damaged.
    QuoteMalformed,
    /// The quoted packet is neither TCP nor UDP.
    QuoteProtocol,
    /// The quoted packet is a fragment behind the first, so it has no ports.
    QuoteFragment,
}

/// Reads a big-endian 16-bit number at a constant place of an array.
macro_rules! be16 {
    ($bytes:expr, $at:literal) => {
        u16::from_be_bytes([$bytes[$at], $bytes[$at + 1]])
    };
}
/// Reads a big-endian 32-bit number at a constant place of an array.
macro_rules! be32 {
    ($bytes:expr, $at:literal) => {
        u32::from_be_bytes([$bytes[$at], $bytes[$at + 1], $bytes[$at + 2], $bytes[$at + 3]])
    };
}
pub(crate) use {be16, be32};
