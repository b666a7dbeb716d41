//! TCP segments as bytes (RFC 9293 section 3.1).

use std::net::{IpAddr, SocketAddr};

use super::packet::{self, Damage, Packet};

/// Control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender will send no more.
    pub const FIN: Flags = Flags(1);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(2);
    /// Reset the connection.
    pub const RST: Flags = Flags(4);
    /// Push.
    pub const PSH: Flags = Flags(8);
    /// The acknowledgement counts.
    pub const ACK: Flags = Flags(16);

    /// Whether one of these bits is set.
    #[must_use]
    pub const fn has(self, bits: Flags) -> bool {
        self.0 & bits.0 != 0
    }

    /// With these bits as well.
    #[must_use]
    pub const fn with(self, bits: Flags) -> Flags {
        Flags(self.0 | bits.0)
    }
}

/// A TCP segment between two sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// From where.
    pub src: SocketAddr,
    /// To where.
    pub dst: SocketAddr,
    /// Sequence number of the first byte, or of SYN or FIN.
    pub seq: u32,
    /// The next sequence number the sender expects.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Bytes the sender takes beyond `ack`.
    pub window: u16,
    /// Maximum segment size, in a SYN.
    pub mss: Option<u16>,
    /// The client's address in an option (kind 254).
    pub toa: Option<SocketAddr>,
    /// Data.
    pub payload: &'a [u8],
}

/// Option kind of the client's address.
pub const TOA_KIND: u8 = 254;

impl<'a> Segment<'a> {
    /// A segment without options and data.
    #[must_use]
    pub fn bare(src: SocketAddr, dst: SocketAddr, flags: Flags) -> Segment<'a> {
        Segment { src, dst, seq: 0, ack: 0, flags, window: 0, mss: None, toa: None, payload: &[] }
    }

    /// How many sequence numbers it takes: data, SYN and FIN.
    #[must_use]
    pub fn len(&self) -> u32 {
        let bit = |flag| u32::from(self.flags.has(flag));
        self.payload.len() as u32 + bit(Flags::SYN) + bit(Flags::FIN)
    }

    /// Whether it takes no sequence number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the segment in a packet and verifies its checksum. Unknown options are passed over.
    pub fn parse(ip: &Packet<'a>) -> Result<Segment<'a>, Damage> {
        let header = ip.payload.first_chunk::<20>().ok_or(Damage::Length)?;
        if packet::transport_sum(&ip.src, &ip.dst, packet::TCP, ip.payload) != 0xffff {
            return Err(Damage::TcpChecksum);
        }
        let header_len = usize::from(header[12] >> 4) * 4;
        let options = ip.payload.get(20..header_len).ok_or(Damage::TcpOptions)?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let mut segment = Segment {
            src: SocketAddr::new(ip.src, u16::from_be_bytes([header[0], header[1]])),
            dst: SocketAddr::new(ip.dst, u16::from_be_bytes([header[2], header[3]])),
            seq: word(4),
            ack: word(8),
            flags: Flags(header[13]),
            window: u16::from_be_bytes([header[14], header[15]]),
            mss: None,
            toa: None,
            payload: &ip.payload[header_len..],
        };
        segment.read_options(options)?;
        Ok(segment)
    }

    fn read_options(&mut self, mut options: &[u8]) -> Result<(), Damage> {
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                0 => return Ok(()),
                1 => options = rest,
                _ => {
                    let len = usize::from(*rest.first().ok_or(Damage::TcpOptions)?);
                    let value = options.get(2..len).ok_or(Damage::TcpOptions)?;
                    match (kind, value) {
                        (2, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
                        (TOA_KIND, value) => self.toa = Some(read_toa(value)?),
                        _ => {}
                    }
                    options = &options[len..];
                }
            }
        }
        Ok(())
    }

    /// The segment in an IP packet. `extra` are options as bytes, a multiple of four.
    #[must_use]
    pub fn encode(&self, extra: &[u8]) -> Vec<u8> {
        let mut options = Vec::with_capacity(40);
        if let Some(mss) = self.mss {
            options.extend_from_slice(&[2, 4]);
            options.extend_from_slice(&mss.to_be_bytes());
        }
        if let Some(toa) = self.toa {
            write_toa(&mut options, &toa);
        }
        options.extend_from_slice(extra);
        let header_len = 20 + options.len();
        debug_assert!(header_len.is_multiple_of(4) && header_len <= 60);
        let mut bytes = Vec::with_capacity(header_len + self.payload.len());
        bytes.extend_from_slice(&self.src.port().to_be_bytes());
        bytes.extend_from_slice(&self.dst.port().to_be_bytes());
        bytes.extend_from_slice(&self.seq.to_be_bytes());
        bytes.extend_from_slice(&self.ack.to_be_bytes());
        bytes.extend_from_slice(&[(header_len as u8 / 4) << 4, self.flags.0]);
        bytes.extend_from_slice(&self.window.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&options);
        bytes.extend_from_slice(self.payload);
        let (src, dst) = (self.src.ip(), self.dst.ip());
        let check = !packet::transport_sum(&src, &dst, packet::TCP, &bytes);
        bytes[16..18].copy_from_slice(&check.to_be_bytes());
        Packet { src, dst, protocol: packet::TCP, payload: &bytes }.encode()
    }

    /// The reset that a segment for no connection gets (RFC 9293 section 3.10.7.1); a reset gets none.
    #[must_use]
    pub fn refusal(&self) -> Option<Segment<'static>> {
        if self.flags.has(Flags::RST) {
            return None;
        }
        let mut reset = Segment::bare(self.dst, self.src, Flags::RST);
        if self.flags.has(Flags::ACK) {
            reset.seq = self.ack;
        } else {
            reset.flags = Flags::RST.with(Flags::ACK);
            reset.ack = self.seq.wrapping_add(self.len());
        }
        Some(reset)
    }
}

/// Port and address, as the modules for real servers write them.
fn write_toa(options: &mut Vec<u8>, toa: &SocketAddr) {
    let len = match toa {
        SocketAddr::V4(_) => 8,
        SocketAddr::V6(_) => 20,
    };
    options.extend_from_slice(&[TOA_KIND, len]);
    options.extend_from_slice(&toa.port().to_be_bytes());
    match toa.ip() {
        IpAddr::V4(v4) => options.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => options.extend_from_slice(&v6.octets()),
    }
}

fn read_toa(value: &[u8]) -> Result<SocketAddr, Damage> {
    let (port, address) = value.split_first_chunk::<2>().ok_or(Damage::TcpOptions)?;
    let ip = match address.len() {
        4 => <[u8; 4]>::try_from(address).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(address).map(IpAddr::from),
    };
    Ok(SocketAddr::new(ip.map_err(|_| Damage::TcpOptions)?, u16::from_be_bytes(*port)))
}
