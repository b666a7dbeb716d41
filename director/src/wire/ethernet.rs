//! Ethernet II frames (IEEE 802.3 clause 3).

use super::{WireError, be16};

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;

/// What an Ethernet frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EtherType {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// A VLAN tag follows (802.1Q, 802.1ad, and the older 0x9100).
    Vlan,
    /// Something else.
    Other(u16),
}

/// A frame whose header is there.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Splits header and payload.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Ethernet<'a>, WireError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(WireError::EthernetShort)?;
        Ok(Ethernet { header, payload })
    }

    /// What the frame carries.
    #[inline]
    pub fn ether_type(&self) -> EtherType {
        match be16!(self.header, 12) {
            TYPE_IPV4 => EtherType::Ipv4,
            0x86dd => EtherType::Ipv6,
            0x8100 | 0x88a8 | 0x9100 => EtherType::Vlan,
            other => EtherType::Other(other),
        }
    }

    /// Everything behind the header, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Writes both MAC addresses; the type stays.
#[inline]
pub fn set_addresses(header: &mut [u8; HEADER_LEN], dst: [u8; 6], src: [u8; 6]) {
    let [d0, d1, d2, d3, d4, d5] = dst;
    let [s0, s1, s2, s3, s4, s5] = src;
    let [.., t0, t1] = *header;
    *header = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_apart() {
        let mut frame = [0u8; 15];
        for (bytes, meant) in [
            ([0x08, 0x00], EtherType::Ipv4),
            ([0x86, 0xdd], EtherType::Ipv6),
            ([0x81, 0x00], EtherType::Vlan),
            ([0x88, 0xa8], EtherType::Vlan),
            ([0x08, 0x06], EtherType::Other(0x0806)),
        ] {
            frame[12..14].copy_from_slice(&bytes);
            let view = Ethernet::parse(&frame).unwrap();
            assert_eq!(view.ether_type(), meant);
            assert_eq!(view.payload().len(), 1);
        }
        assert_eq!(Ethernet::parse(&frame[..13]).unwrap_err(), WireError::EthernetShort);
    }

    #[test]
    fn addresses_are_written_in_wire_order() {
        let mut header = [0u8; HEADER_LEN];
        header[12] = 8;
        set_addresses(&mut header, [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        assert_eq!(header, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0]);
    }
}
