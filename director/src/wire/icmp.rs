//! ICMP for IPv4 (RFC 792).

use super::{WireError, be16, checksum};

/// Bytes of an ICMP header: type, code, checksum, and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Code of "fragmentation needed and DF set" (RFC 1191).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of time exceeded.
pub const TIME_EXCEEDED: u8 = 11;

/// The kinds of message that are treated differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpKind {
    /// An echo request.
    EchoRequest,
    /// An echo reply.
    EchoReply,
    /// Destination unreachable, "fragmentation needed" included: it quotes a packet.
    Unreachable,
    /// Time exceeded: it quotes a packet.
    TimeExceeded,
    /// Anything else.
    Other,
}

/// An ICMP message whose header is there.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    header: &'a [u8; HEADER_LEN],
    body: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Splits header and body. The checksum is checked apart.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Icmp<'a>, WireError> {
        let (header, body) = bytes.split_first_chunk().ok_or(WireError::IcmpShort)?;
        Ok(Icmp { header, body })
    }

    /// What kind of message this is.
    #[inline]
    pub fn kind(&self) -> IcmpKind {
        match (self.header[0], self.header[1]) {
            (ECHO_REQUEST, 0) => IcmpKind::EchoRequest,
            (ECHO_REPLY, 0) => IcmpKind::EchoReply,
            (UNREACHABLE, _) => IcmpKind::Unreachable,
            (TIME_EXCEEDED, _) => IcmpKind::TimeExceeded,
            _ => IcmpKind::Other,
        }
    }

    /// The next-hop MTU of "fragmentation needed" (RFC 1191 section 4); 0 from old routers.
    pub fn mtu(&self) -> Option<u16> {
        (self.header[0] == UNREACHABLE && self.header[1] == CODE_FRAGMENTATION_NEEDED)
            .then(|| be16!(self.header, 6))
    }

    /// Whether the checksum is right.
    pub fn checksum_ok(&self) -> bool {
        checksum::verifies(checksum::sum(self.header) + checksum::sum(self.body))
    }

    /// Everything behind the header; of an error: the quoted packet.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};

    fn encoded(icmp: Icmpv4Type, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Icmpv4Header::with_checksum(icmp, body).write(&mut bytes).unwrap();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn kinds_agree_with_the_encoder() {
        let echo = IcmpEchoHeader { id: 1, seq: 2 };
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
        for (icmp, kind, mtu) in [
            (Icmpv4Type::EchoRequest(echo), IcmpKind::EchoRequest, None),
            (Icmpv4Type::EchoReply(echo), IcmpKind::EchoReply, None),
            (Icmpv4Type::DestinationUnreachable(needed), IcmpKind::Unreachable, Some(1400)),
            (
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
                IcmpKind::Unreachable,
                None,
            ),
            (
                Icmpv4Type::TimeExceeded(
                    etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit,
                ),
                IcmpKind::TimeExceeded,
                None,
            ),
        ] {
            let mut bytes = encoded(icmp, b"odd");
            let view = Icmp::parse(&bytes).unwrap();
            assert_eq!((view.kind(), view.mtu()), (kind, mtu));
            assert!(view.checksum_ok());
            bytes[9] ^= 0x10;
            assert!(!Icmp::parse(&bytes).unwrap().checksum_ok());
        }
        assert_eq!(Icmp::parse(&[8, 0, 0, 0, 0, 0, 0]).err(), Some(WireError::IcmpShort));
        assert_eq!(Icmp::parse(&[13, 0, 0, 0, 0, 0, 0, 0]).unwrap().kind(), IcmpKind::Other);
    }
}
