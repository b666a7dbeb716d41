//! IP packets as bytes: headers with and without faults, and the Internet checksum (RFC 1071).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The number of TCP in an IP header.
pub const TCP: u8 = 6;
/// The number of UDP in an IP header.
pub const UDP: u8 = 17;
/// The number of ICMP in an IPv4 header.
pub const ICMP: u8 = 1;
/// The number of ICMPv6 in an IPv6 header.
pub const ICMP6: u8 = 58;

const TTL: u8 = 64;

/// What is wrong with a packet that nobody should have been able to damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Neither IPv4 nor IPv6.
    Version,
    /// Shorter or longer than its headers say.
    Length,
    /// The IPv4 header's checksum is wrong.
    IpChecksum,
    /// A fragment; nobody here sends any.
    Fragment,
    /// Neither TCP, UDP nor ICMP.
    Protocol,
    /// The TCP checksum is wrong.
    TcpChecksum,
    /// TCP options that do not fit into their header.
    TcpOptions,
    /// The UDP checksum is wrong or missing.
    UdpChecksum,
    /// More bytes than the path takes.
    TooBig,
}

/// An IP packet without options or extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// What the payload is: [`TCP`], [`UDP`], ...
    pub protocol: u8,
    /// Everything behind the IP header.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a packet, whose header is verified.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Damage> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Packet::parse_v4(bytes),
            Some(6) => Packet::parse_v6(bytes),
            _ => Err(Damage::Version),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Packet<'a>, Damage> {
        let header = bytes.first_chunk::<20>().ok_or(Damage::Length)?;
        let header_len = usize::from(header[0] & 15) * 4;
        if header_len < 20 || usize::from(u16::from_be_bytes([header[2], header[3]])) != bytes.len()
        {
            return Err(Damage::Length);
        }
        let options = bytes.get(..header_len).ok_or(Damage::Length)?;
        if fold(sum(options)) != 0xffff {
            return Err(Damage::IpChecksum);
        }
        // More fragments, or an offset.
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return Err(Damage::Fragment);
        }
        Ok(Packet {
            src: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            dst: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            payload: &bytes[header_len..],
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Packet<'a>, Damage> {
        let (header, payload) = bytes.split_first_chunk::<40>().ok_or(Damage::Length)?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != payload.len() {
            return Err(Damage::Length);
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Packet { src: address(8), dst: address(24), protocol: header[6], payload })
    }

    /// The packet's bytes. Addresses of two families give an empty packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(40 + self.payload.len());
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let total = (20 + self.payload.len()) as u16;
                bytes.extend_from_slice(&[0x45, 0]);
                bytes.extend_from_slice(&total.to_be_bytes());
                // Identification 0 and "don't fragment" (RFC 6864).
                bytes.extend_from_slice(&[0, 0, 0x40, 0, TTL, self.protocol, 0, 0]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
                let check = !fold(sum(&bytes));
                bytes[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend_from_slice(&[0x60, 0, 0, 0]);
                bytes.extend_from_slice(&(self.payload.len() as u16).to_be_bytes());
                bytes.extend_from_slice(&[self.protocol, TTL]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
            }
            _ => {
                debug_assert!(false, "a packet from {} to {}", self.src, self.dst);
                return Vec::new();
            }
        }
        bytes.extend_from_slice(self.payload);
        bytes
    }
}

/// The sum over a TCP segment or datagram with its pseudo header; 0xffff if its checksum is right.
#[must_use]
pub fn transport_sum(src: &IpAddr, dst: &IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let addresses = |address: &IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let pseudo = addresses(src) + addresses(dst) + u64::from(protocol) + bytes.len() as u64;
    fold(pseudo + sum(bytes))
}

fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>() + last
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
