//! IPv4 headers (RFC 791).

use super::checksum::{self, Delta};
use super::{WireError, be16};

/// Bytes of an IPv4 header without options.
pub const HEADER_LEN: usize = 20;

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 packet whose lengths agree with the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks version, header length and total length; bytes behind the total length (Ethernet
    /// padding) are left out of the payload. The checksum is checked apart.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Ipv4<'a>, WireError> {
        let (header, rest) = split(bytes)?;
        let options_len = options_len(header)?;
        let total = usize::from(be16!(header, 2));
        let body_len = total.checked_sub(HEADER_LEN).ok_or(WireError::Ipv4TotalLength)?;
        let body = rest.get(..body_len).ok_or(WireError::Ipv4TotalLength)?;
        let (options, payload) =
            body.split_at_checked(options_len).ok_or(WireError::Ipv4TotalLength)?;
        Ok(Ipv4 { header, options, payload })
    }

    /// Like [`Ipv4::parse`] for the beginning of a packet, as ICMP errors quote it: the total
    /// length is not compared with what is there.
    pub fn parse_beginning(bytes: &'a [u8]) -> Result<Ipv4<'a>, WireError> {
        let (header, rest) = split(bytes)?;
        let (options, payload) =
            rest.split_at_checked(options_len(header)?).ok_or(WireError::Ipv4Short)?;
        Ok(Ipv4 { header, options, payload })
    }

    /// Bytes of the header with its options.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The total length field.
    #[inline]
    pub fn total_len(&self) -> u16 {
        be16!(self.header, 2)
    }

    /// The don't-fragment flag.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        be16!(self.header, 6) & DONT_FRAGMENT != 0
    }

    /// Whether this is a part of a larger packet.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        be16!(self.header, 6) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether this is a part of a larger packet, and not its first.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        be16!(self.header, 6) & OFFSET_MASK != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> [u8; 4] {
        [self.header[12], self.header[13], self.header[14], self.header[15]]
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> [u8; 4] {
        [self.header[16], self.header[17], self.header[18], self.header[19]]
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        checksum::verifies(checksum::sum(self.header) + checksum::sum(self.options))
    }

    /// What the packet carries.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

#[inline]
fn split(bytes: &[u8]) -> Result<(&[u8; HEADER_LEN], &[u8]), WireError> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(WireError::Ipv4Short)?;
    if header[0] >> 4 != 4 {
        return Err(WireError::Ipv4Version);
    }
    Ok((header, rest))
}

#[inline]
fn options_len(header: &[u8; HEADER_LEN]) -> Result<usize, WireError> {
    (usize::from(header[0] & 0x0f) * 4).checked_sub(HEADER_LEN).ok_or(WireError::Ipv4HeaderLength)
}

/// Writes both addresses and the time to live, keeps the header checksum right, and says what changed
/// in the addresses, for the checksums of the layers above.
#[inline]
pub fn rewrite(header: &mut [u8; HEADER_LEN], src: [u8; 4], dst: [u8; 4], ttl: u8) -> Delta {
    let [.., old_ttl, protocol, _, _, a, b, c, d, e, f, g, h] = *header;
    let addresses = Delta::NONE.quad([a, b, c, d], src).quad([e, f, g, h], dst);
    let old = u16::from_be_bytes([old_ttl, protocol]);
    let all = addresses.word(old, u16::from_be_bytes([ttl, protocol]));
    header[8] = ttl;
    [header[10], header[11]] = all.apply(be16!(header, 10)).to_be_bytes();
    [header[12], header[13], header[14], header[15]] = src;
    [header[16], header[17], header[18], header[19]] = dst;
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header};

    fn encoded(options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut header =
            Ipv4Header::new(payload.len() as u16, 9, IpNumber::TCP, [192, 0, 2, 1], [10, 1, 2, 3])
                .unwrap();
        header.options = options.try_into().unwrap();
        header.set_payload_len(payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn options_and_padding_are_no_payload() {
        let mut bytes = encoded(&[1, 1, 1, 0], b"abc");
        bytes.extend_from_slice(&[0; 9]);
        let view = Ipv4::parse(&bytes).unwrap();
        assert_eq!(view.payload(), b"abc");
        assert_eq!((view.header_len(), view.total_len(), view.ttl()), (24, 27, 9));
        assert_eq!((view.src(), view.dst()), ([192, 0, 2, 1], [10, 1, 2, 3]));
        assert_eq!(view.protocol(), PROTOCOL_TCP);
        assert!(view.checksum_ok() && view.dont_fragment() && !view.is_fragment());
        bytes[21] ^= 1;
        assert!(!Ipv4::parse(&bytes).unwrap().checksum_ok(), "options are covered");
    }

    #[test]
    fn every_malformation_has_its_name() {
        let good = encoded(&[], b"abcdefgh");
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Ipv4::parse(&bytes).err()
        };
        assert_eq!(Ipv4::parse(&good[..19]).err(), Some(WireError::Ipv4Short));
        assert_eq!(Ipv4::parse(&good[..27]).err(), Some(WireError::Ipv4TotalLength));
        assert_eq!(changed(0, 0x65), Some(WireError::Ipv4Version));
        assert_eq!(changed(0, 0x44), Some(WireError::Ipv4HeaderLength));
        assert_eq!(changed(0, 0x4f), Some(WireError::Ipv4TotalLength));
        assert_eq!(changed(3, 19), Some(WireError::Ipv4TotalLength));
        assert_eq!(changed(3, 29), Some(WireError::Ipv4TotalLength));
        assert_eq!(changed(3, 28), None);
        assert_eq!(Ipv4::parse_beginning(&good[..22]).unwrap().payload(), b"ab");
    }

    #[test]
    fn fragments_are_seen() {
        for (high, low, fragment, later) in [
            (0x00, 0x00, false, false),
            (0x40, 0x00, false, false),
            (0x20, 0x00, true, false),
            (0x20, 0x01, true, true),
            (0x00, 0x10, true, true),
            (0x1f, 0x00, true, true),
        ] {
            let mut bytes = encoded(&[], b"");
            (bytes[6], bytes[7]) = (high, low);
            let view = Ipv4::parse(&bytes).unwrap();
            assert_eq!((view.is_fragment(), view.is_later_fragment()), (fragment, later));
        }
    }

    #[test]
    fn rewriting_keeps_the_checksum_right() {
        let mut bytes = encoded(&[], b"");
        let header = bytes.first_chunk_mut().unwrap();
        let _ = rewrite(header, [1, 2, 3, 4], [250, 251, 252, 253], 63);
        let (parsed, _) = Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(parsed.header_checksum, parsed.calc_header_checksum());
        assert_eq!((parsed.source, parsed.destination), ([1, 2, 3, 4], [250, 251, 252, 253]));
        assert_eq!(parsed.time_to_live, 63);
    }
}
