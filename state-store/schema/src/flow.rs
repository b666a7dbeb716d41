//! Flow keys: the 5-tuple of one direction of a session, for IPv4 and IPv6 alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Transport protocol of a flow, as the IP protocol number.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// TCP (6).
    Tcp = 6,
    /// UDP (17).
    Udp = 17,
}

impl Protocol {
    /// The protocol with this IP protocol number, if Holdfast forwards it.
    pub fn from_number(number: u8) -> Option<Protocol> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[inline]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// An IP address in 16 bytes: IPv6 as it is, IPv4 mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[repr(transparent)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// The mapped form of four IPv4 address bytes.
    #[inline]
    pub fn from_v4_octets(octets: [u8; 4]) -> Addr {
        let [a, b, c, d] = octets;
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The four IPv4 address bytes, if this is a mapped IPv4 address.
    #[inline]
    pub fn v4_octets(&self) -> Option<[u8; 4]> {
        let number = u128::from_be_bytes(self.0);
        (number >> 32 == 0xffff).then(|| (number as u32).to_be_bytes())
    }

    /// Whether this is a mapped IPv4 address.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.v4_octets().is_some()
    }

    /// The address as the standard library's type.
    pub fn to_ip(self) -> IpAddr {
        match self.v4_octets() {
            Some(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
            None => IpAddr::V6(Ipv6Addr::from(self.0)),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr::from_v4_octets(v4.octets()),
            IpAddr::V6(v6) => Addr(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Addr {
        Addr::from_v4_octets(ip.octets())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One direction of a session as its packets show it on the wire: source, destination, protocol.
///
/// A FullNAT session has two: *client* (CIP:cport > VIP:vport) and *reply* (RIP:rport > LIP:lport).
/// Ports are in host order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl FlowKey {
    /// A key from two socket addresses.
    pub fn new(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> FlowKey {
        FlowKey {
            src: src.ip().into(),
            dst: dst.ip().into(),
            src_port: src.port(),
            dst_port: dst.port(),
            protocol,
        }
    }

    /// The same flow seen in the other direction.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> FlowKey {
        FlowKey {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }

    /// Source as a socket address.
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src.to_ip(), self.src_port)
    }

    /// Destination as a socket address.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst.to_ip(), self.dst_port)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source(), self.destination())
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_mapped_and_comes_back() {
        let ip: IpAddr = "192.0.2.7".parse().unwrap();
        let addr = Addr::from(ip);
        assert!(addr.is_v4());
        assert_eq!(addr.to_ip(), ip);
        assert_eq!(addr.to_string(), "192.0.2.7");
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(Addr::from(six).v4_octets(), None);
        assert_eq!(Addr::from(six).to_ip(), six);
    }

    #[test]
    fn reversing_twice_is_the_identity() {
        let key = FlowKey::new(
            Protocol::Tcp,
            "192.0.2.1:40000".parse().unwrap(),
            "203.0.113.10:80".parse().unwrap(),
        );
        assert_ne!(key.reversed(), key);
        assert_eq!(key.reversed().reversed(), key);
        assert_eq!(key.to_string(), "tcp 192.0.2.1:40000 > 203.0.113.10:80");
    }
}
