//! UDP datagrams (RFC 768).

use super::{WireError, be16};

/// Bytes of a UDP header.
pub const HEADER_LEN: usize = 8;

/// A datagram whose length agrees with the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Splits header and payload; bytes behind the UDP length are left out.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Udp<'a>, WireError> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(WireError::UdpShort)?;
        let payload = usize::from(be16!(header, 4))
            .checked_sub(HEADER_LEN)
            .and_then(|length| rest.get(..length))
            .ok_or(WireError::UdpLength)?;
        Ok(Udp { header, payload })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16!(self.header, 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16!(self.header, 2)
    }

    /// The checksum; 0: none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16!(self.header, 6)
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_agree() {
        let mut bytes = [0x9c, 0x40, 0, 53, 0, 11, 0xab, 0xcd, b'a', b'b', b'c', b'-'];
        let view = Udp::parse(&bytes).unwrap();
        assert_eq!((view.src_port(), view.dst_port(), view.checksum()), (40000, 53, 0xabcd));
        assert_eq!(view.payload(), b"abc");
        assert_eq!(Udp::parse(&bytes[..7]).err(), Some(WireError::UdpShort));
        assert_eq!(Udp::parse(&bytes[..10]).err(), Some(WireError::UdpLength));
        for (length, fine) in [(0, false), (7, false), (8, true), (12, true), (13, false)] {
            bytes[5] = length;
            assert_eq!(Udp::parse(&bytes).is_ok(), fine, "{length}");
        }
    }
}
