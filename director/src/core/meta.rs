//! What a batch's first pass reads from a frame, so that later passes need not parse again.

use holdfast_schema::flow::{Addr, FlowKey, Protocol};

use super::reason::DropReason;
use crate::wire::{
    EtherType, Ethernet, Icmp, IcmpKind, Ipv4, Quote, Tcp, TcpFlags, Udp, ethernet, ipv4,
};

/// What of a TCP segment matters here; all zero for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Segment {
    pub(super) flags: TcpFlags,
    pub(super) seq: u32,
    pub(super) ack: u32,
    /// SEG.LEN: data, SYN and FIN.
    pub(super) len: u32,
    /// Whether there is data.
    pub(super) data: bool,
}

/// What is in the packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// A TCP segment or a datagram of the flow.
    Transport(Segment),
    /// An ICMP error about the flow. (What it quotes is read again when it is translated: it is rare,
    /// and would be the largest part of every [`Meta`].)
    Error,
}

/// A packet that belongs to some flow, whether known or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) content: Content,
    /// Bytes of the IPv4 header with options.
    pub(super) ip_header_len: u8,
    pub(super) ttl: u8,
    pub(super) dont_fragment: bool,
    pub(super) total_len: u16,
}

impl Meta {
    /// Whether this is a SYN that begins a connection.
    #[inline]
    pub(super) fn opens(&self) -> bool {
        matches!(&self.content, Content::Transport(segment) if segment.flags.opens())
    }

    /// Whether this is a segment in the middle of a connection.
    #[inline]
    pub(super) fn continues(&self) -> bool {
        matches!(&self.content, Content::Transport(Segment { flags, .. })
            if flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::RST))
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// A packet of, or about, the flow with this key.
    Flow(FlowKey, Meta),
    /// An echo request from the first address to the second.
    Echo(Addr, Addr),
}

/// Reads a frame. Addresses are not judged here: known sessions need no more than their key.
#[inline(always)] // what it returns is large; a call would copy it
pub(super) fn classify(frame: &[u8]) -> Result<Class, DropReason> {
    let ethernet = Ethernet::parse(frame)?;
    match ethernet.ether_type() {
        EtherType::Ipv4 => {}
        EtherType::Ipv6 => return Err(DropReason::Ipv6),
        EtherType::Vlan => return Err(DropReason::Vlan),
        EtherType::Other(_) => return Err(DropReason::EtherType),
    }
    let ip = Ipv4::parse(ethernet.payload())?;
    if !ip.checksum_ok() {
        return Err(DropReason::Ipv4Checksum);
    }
    if ip.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let (protocol, src_port, dst_port, segment) = match ip.protocol() {
        ipv4::PROTOCOL_TCP => {
            let tcp = Tcp::parse(ip.payload())?;
            let segment = Segment {
                flags: tcp.flags(),
                seq: tcp.seq(),
                ack: tcp.ack(),
                len: tcp.sequence_len(),
                data: !tcp.payload().is_empty(),
            };
            (Protocol::Tcp, tcp.src_port(), tcp.dst_port(), segment)
        }
        ipv4::PROTOCOL_UDP => {
            let udp = Udp::parse(ip.payload())?;
            (Protocol::Udp, udp.src_port(), udp.dst_port(), Segment::default())
        }
        ipv4::PROTOCOL_ICMP => return classify_icmp(&ip),
        _ => return Err(DropReason::IpProtocol),
    };
    let key = FlowKey {
        src: Addr::from_v4_octets(ip.src()),
        dst: Addr::from_v4_octets(ip.dst()),
        src_port,
        dst_port,
        protocol,
    };
    Ok(Class::Flow(key, meta(&ip, Content::Transport(segment))))
}

#[inline]
fn meta(ip: &Ipv4<'_>, content: Content) -> Meta {
    Meta {
        content,
        ip_header_len: ip.header_len() as u8, // 60 at the most
        ttl: ip.ttl(),
        dont_fragment: ip.dont_fragment(),
        total_len: ip.total_len(),
    }
}

#[cold]
fn classify_icmp(ip: &Ipv4<'_>) -> Result<Class, DropReason> {
    let icmp = Icmp::parse(ip.payload())?;
    match icmp.kind() {
        IcmpKind::EchoRequest => {
            Ok(Class::Echo(Addr::from_v4_octets(ip.src()), Addr::from_v4_octets(ip.dst())))
        }
        IcmpKind::Unreachable | IcmpKind::TimeExceeded => {
            // RFC 5508 REQ-3: an error with a wrong checksum is dropped.
            if !icmp.checksum_ok() {
                return Err(DropReason::IcmpChecksum);
            }
            let quote = Quote::parse(icmp.body())?;
            if quote.flow.src != Addr::from_v4_octets(ip.dst()) {
                return Err(DropReason::QuoteMismatch);
            }
            // The hindered packet left us; packets of that flow that come to us are its reverse.
            Ok(Class::Flow(quote.flow.reversed(), meta(ip, Content::Error)))
        }
        IcmpKind::EchoReply | IcmpKind::Other => Err(DropReason::IcmpType),
    }
}

/// A frame's Ethernet header, its IPv4 header without options, and what follows the options. None
/// if the frame is not the one that was classified.
#[inline]
pub(super) fn split_mut(
    frame: &mut [u8],
    ip_header_len: u8,
) -> Option<(&mut [u8; ethernet::HEADER_LEN], &mut [u8; ipv4::HEADER_LEN], &mut [u8])> {
    let (ethernet, rest) = frame.split_first_chunk_mut()?;
    let (ip, rest) = rest.split_first_chunk_mut()?;
    let options = usize::from(ip_header_len).checked_sub(ipv4::HEADER_LEN)?;
    Some((ethernet, ip, rest.get_mut(options..)?))
}
