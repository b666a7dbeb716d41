//! UDP datagrams as bytes (RFC 768).

use std::net::SocketAddr;

use super::packet::{self, Damage, Packet};

/// A UDP datagram between two sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram<'a> {
    /// From where.
    pub src: SocketAddr,
    /// To where.
    pub dst: SocketAddr,
    /// Data.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the datagram in a packet. A missing checksum is damage: everybody here sends one.
    pub fn parse(ip: &Packet<'a>) -> Result<Datagram<'a>, Damage> {
        let (header, payload) = ip.payload.split_first_chunk::<8>().ok_or(Damage::Length)?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != ip.payload.len() {
            return Err(Damage::Length);
        }
        if header[6..8] == [0, 0]
            || packet::transport_sum(&ip.src, &ip.dst, packet::UDP, ip.payload) != 0xffff
        {
            return Err(Damage::UdpChecksum);
        }
        Ok(Datagram {
            src: SocketAddr::new(ip.src, u16::from_be_bytes([header[0], header[1]])),
            dst: SocketAddr::new(ip.dst, u16::from_be_bytes([header[2], header[3]])),
            payload,
        })
    }

    /// The datagram in an IP packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.payload.len());
        bytes.extend_from_slice(&self.src.port().to_be_bytes());
        bytes.extend_from_slice(&self.dst.port().to_be_bytes());
        bytes.extend_from_slice(&((8 + self.payload.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(self.payload);
        let (src, dst) = (self.src.ip(), self.dst.ip());
        // Zero would say that there is no checksum.
        let check = match !packet::transport_sum(&src, &dst, packet::UDP, &bytes) {
            0 => 0xffff,
            check => check,
        };
        bytes[6..8].copy_from_slice(&check.to_be_bytes());
        Packet { src, dst, protocol: packet::UDP, payload: &bytes }.encode()
    }
}
