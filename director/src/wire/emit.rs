//! Headers that Holdfast writes itself: for resets and ICMP errors.

use super::{TcpFlags, checksum, ethernet, icmp, ipv4, tcp};

/// Bytes of a frame with a bare TCP segment.
pub const BARE_FRAME: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + tcp::HEADER_LEN;

/// Time to live of packets that begin here (RFC 1340's recommendation, still IANA's).
pub const DEFAULT_TTL: u8 = 64;

/// Writes an IPv4 header without options, checksum included. DF is set and the identification is
/// 0: such a packet is atomic (RFC 6864 section 4.1).
pub fn ipv4_header(
    header: &mut [u8; ipv4::HEADER_LEN],
    total_len: u16,
    protocol: u8,
    src: [u8; 4],
    dst: [u8; 4],
) {
    let [l0, l1] = total_len.to_be_bytes();
    let [s0, s1, s2, s3] = src;
    let [d0, d1, d2, d3] = dst;
    *header = [
        0x45,
        0,
        l0,
        l1,
        0,
        0,
        0x40,
        0,
        DEFAULT_TTL,
        protocol,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ];
    [header[10], header[11]] = checksum::finish(checksum::sum(header)).to_be_bytes();
}

/// What a bare TCP segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BareSegment {
    /// Source address and port.
    pub src: ([u8; 4], u16),
    /// Destination address and port.
    pub dst: ([u8; 4], u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: TcpFlags,
}

/// Writes a TCP header without options, data and window, checksum included.
pub fn tcp_header(header: &mut [u8; tcp::HEADER_LEN], segment: &BareSegment) {
    let [a, b] = segment.src.1.to_be_bytes();
    let [c, d] = segment.dst.1.to_be_bytes();
    let [e, f, g, h] = segment.seq.to_be_bytes();
    let [i, j, k, l] = segment.ack.to_be_bytes();
    *header = [a, b, c, d, e, f, g, h, i, j, k, l, 0x50, segment.flags.0, 0, 0, 0, 0, 0, 0];
    let pseudo = checksum::pseudo_header_v4(
        segment.src.0,
        segment.dst.0,
        ipv4::PROTOCOL_TCP,
        tcp::HEADER_LEN as u16,
    );
    [header[16], header[17]] = checksum::finish(pseudo + checksum::sum(header)).to_be_bytes();
}

/// A whole frame with nothing but a bare TCP segment.
pub fn bare_frame(segment: &BareSegment, dst_mac: [u8; 6], src_mac: [u8; 6]) -> [u8; BARE_FRAME] {
    let mut bytes = [0; BARE_FRAME];
    let (mac, rest) = bytes.split_at_mut(ethernet::HEADER_LEN);
    let (ip, tcp) = rest.split_at_mut(ipv4::HEADER_LEN);
    if let (Some(mac), Some(ip), Some(tcp)) =
        (mac.first_chunk_mut(), ip.first_chunk_mut(), tcp.first_chunk_mut())
    {
        let total = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u16;
        ipv4_header(ip, total, ipv4::PROTOCOL_TCP, segment.src.0, segment.dst.0);
        tcp_header(tcp, segment);
        ethernet::set_addresses(mac, dst_mac, src_mac);
        let [.., high, low] = mac;
        [*high, *low] = ethernet::TYPE_IPV4.to_be_bytes();
    }
    bytes
}

/// Writes the header of an ICMP error, checksum over the quote included. `mtu` goes into the place
/// where "fragmentation needed" carries it (RFC 1191 section 4), 0 otherwise.
pub fn icmp_error_header(
    header: &mut [u8; icmp::HEADER_LEN],
    icmp_type: u8,
    code: u8,
    mtu: u16,
    quote: &[u8],
) {
    let [m0, m1] = mtu.to_be_bytes();
    *header = [icmp_type, code, 0, 0, 0, 0, m0, m1];
    let check = checksum::finish(checksum::sum(header) + checksum::sum(quote));
    [header[2], header[3]] = check.to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, TcpHeaderSlice};

    #[test]
    fn a_reset_verifies() {
        let mut bytes = [0xffu8; 40];
        let (ip, rest) = bytes.split_first_chunk_mut().unwrap();
        let segment = BareSegment {
            src: ([203, 0, 113, 10], 80),
            dst: ([192, 0, 2, 1], 40000),
            seq: 7,
            ack: 9,
            flags: TcpFlags(0x14),
        };
        ipv4_header(ip, 40, 6, segment.src.0, segment.dst.0);
        tcp_header(rest.first_chunk_mut().unwrap(), &segment);
        let ip = Ipv4HeaderSlice::from_slice(&bytes).unwrap().to_header();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!((ip.time_to_live, ip.dont_fragment, ip.total_len), (64, true, 40));
        let tcp = TcpHeaderSlice::from_slice(&bytes[20..]).unwrap().to_header();
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
        assert!(tcp.rst && tcp.ack && !tcp.syn);
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (7, 9));
    }

    #[test]
    fn an_icmp_error_verifies() {
        for quote in [&b"even"[..], b"odd"] {
            let mut bytes = vec![0u8; 8];
            bytes.extend_from_slice(quote);
            let (header, _) = bytes.split_first_chunk_mut().unwrap();
            icmp_error_header(header, 3, 4, 1400, quote);
            let icmp = Icmpv4Slice::from_slice(&bytes).unwrap();
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(quote));
            assert_eq!(icmp.bytes5to8(), [0, 0, 0x05, 0x78]);
        }
    }
}
