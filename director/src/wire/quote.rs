//! The packet that an ICMP error quotes, and its translation (RFC 5508 section 4).

use holdfast_schema::flow::{Addr, FlowKey, Protocol};

use super::checksum::Delta;
use super::{Ipv4, WireError, ipv4};

/// Bytes of a transport header that every quote has (RFC 792).
const QUOTED_L4: usize = 8;

/// A quoted packet whose ports are there.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    /// The flow of the quoted packet, as it was on the wire: our address is its source.
    pub flow: FlowKey,
    /// Bytes of the quoted IPv4 header.
    pub header_len: usize,
}

/// The addresses and ports of a quoted packet after translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Quote {
    /// Reads the body of an ICMP error. RFC 5508 REQ-3: the quoted IP checksum has to be right, IP
    /// options are walked past, the quoted transport checksum is not judged.
    pub fn parse(body: &[u8]) -> Result<Quote, WireError> {
        let ip = Ipv4::parse_beginning(body).map_err(|_| WireError::QuoteMalformed)?;
        if !ip.checksum_ok() {
            return Err(WireError::QuoteMalformed);
        }
        if ip.is_later_fragment() {
            return Err(WireError::QuoteFragment);
        }
        let protocol = Protocol::from_number(ip.protocol()).ok_or(WireError::QuoteProtocol)?;
        let ports = ip.payload().first_chunk::<QUOTED_L4>().ok_or(WireError::QuoteMalformed)?;
        Ok(Quote {
            flow: FlowKey {
                src: Addr::from_v4_octets(ip.src()),
                dst: Addr::from_v4_octets(ip.dst()),
                src_port: super::be16!(ports, 0),
                dst_port: super::be16!(ports, 2),
                protocol,
            },
            header_len: ip.header_len(),
        })
    }

    /// Rewrites the quoted packet in the body of an ICMP error, with all checksums in the quote,
    /// and says what that changes in the checksum of the ICMP message. None: the body is not the
    /// one that was parsed.
    pub fn rewrite(&self, body: &mut [u8], to: &Endpoints) -> Option<Delta> {
        let (ip, l4) = body.split_at_mut_checked(self.header_len)?;
        let ip: &mut [u8; ipv4::HEADER_LEN] = ip.first_chunk_mut()?;
        let old_check = super::be16!(ip, 10);
        let addresses = ipv4::rewrite(ip, to.src, to.dst, ip[8]);
        let ports: &mut [u8; 4] = l4.first_chunk_mut()?;
        let [s0, s1] = to.src_port.to_be_bytes();
        let [d0, d1] = to.dst_port.to_be_bytes();
        let new = [s0, s1, d0, d1];
        let changed = addresses.and(Delta::NONE.quad(*ports, new));
        *ports = new;
        let mut message = changed.word(old_check, super::be16!(ip, 10));
        // A quote of 8 bytes ends before the TCP checksum: then there is none to correct.
        let place = match self.flow.protocol {
            Protocol::Tcp => 16..18,
            Protocol::Udp => 6..8,
        };
        if let Some([high, low]) = l4.get_mut(place) {
            let old = u16::from_be_bytes([*high, *low]);
            let new = match self.flow.protocol {
                Protocol::Tcp => changed.apply(old),
                Protocol::Udp => changed.apply_udp(old),
            };
            [*high, *low] = new.to_be_bytes();
            message = message.word(old, new);
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn quoted(udp: bool, ttl: u8) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([203, 0, 113, 10], [192, 0, 2, 1], ttl);
        let mut bytes = Vec::new();
        if udp {
            builder.udp(53, 40000).write(&mut bytes, b"payload").unwrap();
        } else {
            builder.tcp(80, 40000, 5, 6).write(&mut bytes, b"payload").unwrap();
        }
        bytes
    }

    #[test]
    fn flow_is_read_for_both_protocols() {
        for (udp, port, protocol) in [(true, 53, Protocol::Udp), (false, 80, Protocol::Tcp)] {
            let quote = Quote::parse(&quoted(udp, 1)[..28]).unwrap();
            assert_eq!((quote.flow.src_port, quote.flow.dst_port), (port, 40000));
            assert_eq!(quote.flow.protocol, protocol);
            assert_eq!(quote.flow.src.to_string(), "203.0.113.10");
        }
    }

    #[test]
    fn every_malformation_has_its_name() {
        let good = quoted(true, 1);
        assert_eq!(Quote::parse(&good[..27]).err(), Some(WireError::QuoteMalformed));
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            let check = crate::wire::checksum::finish(
                crate::wire::checksum::sum(&bytes[..10])
                    + crate::wire::checksum::sum(&bytes[12..20]),
            );
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
            Quote::parse(&bytes).err()
        };
        assert_eq!(changed(8, 3), None);
        assert_eq!(changed(0, 0x65), Some(WireError::QuoteMalformed));
        assert_eq!(changed(7, 1), Some(WireError::QuoteFragment));
        assert_eq!(changed(9, 47), Some(WireError::QuoteProtocol));
        let mut damaged = good.clone();
        damaged[8] ^= 1;
        assert_eq!(Quote::parse(&damaged).err(), Some(WireError::QuoteMalformed));
    }
}
