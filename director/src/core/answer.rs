//! Packets that the core answers itself: echo requests, resets, ICMP errors. Answers are built in
//! the frame of the packet they answer.

use super::frame::Frame;
use super::meta::{Segment, split_mut};
use crate::tables::NextHop;
use crate::wire::emit::{self, BareSegment};
use crate::wire::{Delta, Ipv4, Tcp, TcpFlags, checksum, ethernet, icmp, ipv4, tcp};

/// Most bytes of an ICMP error with its IP header (RFC 1812 section 4.3.2.3).
const MAX_ERROR_LEN: usize = 576;

const IP: usize = ethernet::HEADER_LEN;
const ERROR_HEADERS: usize = ipv4::HEADER_LEN + icmp::HEADER_LEN;

/// The ICMP errors that the core sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IcmpError {
    /// Fragmentation needed, with the next hop's MTU (RFC 1191).
    TooBig(u16),
    /// Time to live exceeded in transit.
    TtlExceeded,
}

/// Turns an echo request into its reply: addresses swapped, type 0, the rest as it came (RFC 1122
/// section 3.2.2.6). The checksum is updated, so a damaged request gives a damaged reply.
pub(super) fn echo(frame: &mut Frame<'_>, hop: &NextHop) -> Option<()> {
    let view = Ipv4::parse(frame.packet().get(IP..)?).ok()?;
    let (header_len, src, dst) = (view.header_len() as u8, view.src(), view.dst());
    let length = view.payload().len();
    let (mac, ip, message) = split_mut(frame.packet_mut(), header_len)?;
    let (message, body) =
        message.get_mut(..length)?.split_first_chunk_mut::<{ icmp::HEADER_LEN }>()?;
    let old = u16::from_be_bytes([message[2], message[3]]);
    let type_and_code = u16::from_be_bytes([message[0], message[1]]);
    let reply = u16::from_be_bytes([icmp::ECHO_REPLY, message[1]]);
    message[0] = icmp::ECHO_REPLY;
    let mut check = Delta::NONE.word(type_and_code, reply).apply(old);
    if check == 0 && checksum::sum(&message[4..]) + checksum::sum(body) == 0 {
        // The sum over nothing but zeros, for which updating by the change gives the other zero of
        // ones' complement (RFC 1624 section 3), which does not verify.
        check = 0xffff;
    }
    [message[2], message[3]] = check.to_be_bytes();
    let _ = ipv4::rewrite(ip, dst, src, emit::DEFAULT_TTL);
    ethernet::set_addresses(mac, hop.dst_mac, hop.src_mac);
    Some(())
}

/// The reset that a segment of a connection which does not exist gets (RFC 9293 section 3.10.7.1).
/// None for a reset: it gets no answer.
pub(super) fn reset_of(segment: &Segment) -> Option<(u32, u32, TcpFlags)> {
    if segment.flags.has(TcpFlags::RST) {
        None
    } else if segment.flags.has(TcpFlags::ACK) {
        Some((segment.ack, 0, TcpFlags::RST))
    } else {
        let flags = TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0);
        Some((0, segment.seq.wrapping_add(segment.len), flags))
    }
}

/// Replaces a TCP segment by its reset. None: it gets no answer, or has no room for one.
pub(super) fn reset(frame: &mut Frame<'_>, segment: &Segment, hop: &NextHop) -> Option<()> {
    let (seq, ack, flags) = reset_of(segment)?;
    let ip = Ipv4::parse(frame.packet().get(IP..)?).ok()?;
    let received = Tcp::parse(ip.payload()).ok()?;
    let answer = BareSegment {
        src: (ip.dst(), received.dst_port()),
        dst: (ip.src(), received.src_port()),
        seq,
        ack,
        flags,
    };
    let total = ipv4::HEADER_LEN + tcp::HEADER_LEN;
    frame.resize(IP + total).then_some(())?;
    let (mac, ip, rest) = split_mut(frame.packet_mut(), ipv4::HEADER_LEN as u8)?;
    emit::ipv4_header(ip, total as u16, ipv4::PROTOCOL_TCP, answer.src.0, answer.dst.0);
    emit::tcp_header(rest.first_chunk_mut()?, &answer);
    ethernet::set_addresses(mac, hop.dst_mac, hop.src_mac);
    Some(())
}

/// Replaces a packet by a bare segment that leads elsewhere. None: the frame has no room for it.
pub(super) fn bare(frame: &mut Frame<'_>, segment: &BareSegment, hop: &NextHop) -> Option<()> {
    frame.resize(emit::BARE_FRAME).then_some(())?;
    let bytes = frame.packet_mut().first_chunk_mut()?;
    *bytes = emit::bare_frame(segment, hop.dst_mac, hop.src_mac);
    Some(())
}

/// Replaces a packet by an ICMP error about it, sent from the address it was sent to. None: the
/// frame has no room for it.
pub(super) fn icmp_error(frame: &mut Frame<'_>, error: IcmpError, hop: &NextHop) -> Option<()> {
    let ip = Ipv4::parse(frame.packet().get(IP..)?).ok()?;
    let (us, sender) = (ip.dst(), ip.src());
    let quoted = usize::from(ip.total_len()).min(MAX_ERROR_LEN - ERROR_HEADERS);
    let total = ERROR_HEADERS + quoted;
    frame.resize(IP + total).then_some(())?;
    let bytes = frame.packet_mut();
    // The quote moves behind the headers of the error.
    if IP + quoted > bytes.len() || IP + ERROR_HEADERS + quoted > bytes.len() {
        return None;
    }
    bytes.copy_within(IP..IP + quoted, IP + ERROR_HEADERS);
    let (mac, ip, rest) = split_mut(bytes, ipv4::HEADER_LEN as u8)?;
    let (header, quote) = rest.split_first_chunk_mut()?;
    let (icmp_type, code, mtu) = match error {
        IcmpError::TooBig(mtu) => (icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, mtu),
        IcmpError::TtlExceeded => (icmp::TIME_EXCEEDED, 0, 0),
    };
    emit::icmp_error_header(header, icmp_type, code, mtu, quote);
    emit::ipv4_header(ip, total as u16, ipv4::PROTOCOL_ICMP, us, sender);
    ethernet::set_addresses(mac, hop.dst_mac, hop.src_mac);
    Some(())
}
