//! Why packets are dropped. A dropped packet is counted under exactly one of these (DESIGN rule 6).

use crate::wire::WireError;

macro_rules! reasons {
    ($($variant:ident $label:literal $help:literal;)*) => {
        /// The cause of a drop.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)*];

            /// The reason as a metric label: `snake_case`, never changing.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$variant => $label,)* }
            }

            /// What happened, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$variant => $help,)* }
            }
        }
    };
}

reasons! {
    EthernetMalformed "ethernet_malformed" "The frame is shorter than an Ethernet header.";
    Vlan "vlan" "The frame has a VLAN tag, which this version does not forward.";
    EtherType "ether_type" "The frame carries neither IPv4 nor IPv6.";
    Ipv6 "ipv6" "The packet is IPv6, which this version does not forward.";
    Ipv4Malformed "ipv4_malformed" "The IPv4 version, header length or total length does not fit the frame.";
    Ipv4Checksum "ipv4_checksum" "The IPv4 header checksum is wrong.";
    Fragment "fragment" "The packet is an IP fragment, which this version does not forward.";
    IpProtocol "ip_protocol" "The packet is neither TCP, UDP nor ICMP.";
    TcpMalformed "tcp_malformed" "The TCP header does not fit the packet.";
    TcpFlags "tcp_flags" "A TCP segment of no session has control bits that no segment has together.";
    UdpMalformed "udp_malformed" "The UDP header or length does not fit the packet.";
    IcmpMalformed "icmp_malformed" "The ICMP message is shorter than its header.";
    IcmpChecksum "icmp_checksum" "The checksum of an ICMP error is wrong.";
    IcmpType "icmp_type" "The ICMP type is not one that is forwarded or answered.";
    EchoUnserved "echo_unserved" "An echo request went to an address that is not answered now.";
    QuoteMalformed "quote_malformed" "The packet quoted by an ICMP error is damaged or too short.";
    QuoteProtocol "quote_protocol" "The packet quoted by an ICMP error is neither TCP nor UDP.";
    QuoteFragment "quote_fragment" "The packet quoted by an ICMP error is a fragment without ports.";
    QuoteMismatch "quote_mismatch" "The packet quoted by an ICMP error did not come from the address the error went to.";
    NotOurs "not_ours" "The destination is neither a VIP nor a LIP.";
    BadSource "bad_source" "The source cannot be a client: it is a VIP, a LIP, or no unicast address.";
    NoListener "no_listener" "No listener has this VIP, port and protocol.";
    NoBackend "no_backend" "The listener has no backend that takes new sessions.";
    NoLip "no_lip" "This director owns no local address to open sessions from.";
    NoFreePort "no_free_port" "No local port was free for a new session.";
    SessionTableFull "session_table_full" "The session table holds as many sessions as it may.";
    HalfOpenFull "half_open_full" "As many sessions are half-open as may be.";
    SynToLip "syn_to_lip" "A new connection was tried towards a local address.";
    UnsupportedMode "unsupported_mode" "The session has a forwarding mode that this version does not know.";
    TtlExpired "ttl_expired" "The time to live has run out, and no ICMP error may be sent about it.";
    TooBig "too_big" "The packet exceeds the next hop's MTU, and no ICMP error may be sent about it.";
    NoRoute "no_route" "There is no next hop, or it is not resolved.";
    AskBudget "ask_budget" "The packet's session is unknown here, and this director's asking budget is used up.";
    AskBudgetPrefix "ask_budget_prefix" "The packet's session is unknown here, and its source prefix has used up its asking budget.";
    WaitingRoomFull "waiting_room_full" "The packet's session is unknown here, and the waiting room is full.";
    WaitingFlowFull "waiting_flow_full" "The packet's session is unknown here, and as many packets of it wait as may.";
    ParkTooLarge "park_too_large" "The packet's session is unknown here, and the packet does not fit the waiting room.";
    MissTimeout "miss_timeout" "Nobody knew or denied the packet's session in time.";
    MissUnknown "miss_unknown" "Others were asked for the packet's session, and could not tell.";
    OtherBackend "other_backend" "The client answers another backend than its session's here (its SYN came to two directors), or perhaps does, and nobody told of that session in time; or a backend denies a connection that nobody saw begin.";
    SessionDenied "session_denied" "Everybody denies the packet's session, and its listener drops such packets.";
    DeniedOnce "denied_once" "Everybody denies the packet's session for the first time: the news of it may be on their way. Its sender is reset when it tries again.";
    ReplyDenied "reply_denied" "Everybody denies the session of a backend's packet.";
    IcmpDenied "icmp_denied" "Everybody denies the session that an ICMP error is about.";
    EndAtRest "end_at_rest" "An end of an expired connection answered its probe for the first time, and the other end did not yet.";
    Contended "contended" "A lock of the session table stayed taken for as long as a packet may wait.";
    Internal "internal" "An assumption of the packet core did not hold (a defect; please report it).";
    TxRingFull "tx_ring_full" "The transmit ring was full.";
    NoFreeChunk "no_free_chunk" "No packet memory was free for a packet that had waited.";
    BadLength "bad_length" "The packet to be sent was empty or did not fit the packet memory (a defect; please report it).";
    Stale "stale" "The packet waited in a ring or for an answer while this director was stalled.";
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason as an index, below [`DropReason::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl From<WireError> for DropReason {
    fn from(error: WireError) -> DropReason {
        match error {
            WireError::EthernetShort => DropReason::EthernetMalformed,
            WireError::Ipv4Short
            | WireError::Ipv4Version
            | WireError::Ipv4HeaderLength
            | WireError::Ipv4TotalLength => DropReason::Ipv4Malformed,
            WireError::Ipv4Checksum => DropReason::Ipv4Checksum,
            WireError::TcpShort | WireError::TcpDataOffset | WireError::TcpOption => {
                DropReason::TcpMalformed
            }
            WireError::UdpShort | WireError::UdpLength => DropReason::UdpMalformed,
            WireError::IcmpShort => DropReason::IcmpMalformed,
            WireError::IcmpChecksum => DropReason::IcmpChecksum,
            WireError::QuoteMalformed => DropReason::QuoteMalformed,
            WireError::QuoteProtocol => DropReason::QuoteProtocol,
            WireError::QuoteFragment => DropReason::QuoteFragment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique_and_snake_case() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), at);
            let label = reason.label();
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(reason.help().ends_with('.') || reason.help().ends_with(')'), "{label}");
        }
    }
}
