//! Connections that have ended at a host: so that what comes late can be told from what comes to the
//! wrong host.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::event::{ConnectionId, EventKind, Stray};
use super::segment::{Flags, Segment};
use super::tcp::Tcp;

/// A host's own socket and the other end's.
pub(super) type Sockets = (SocketAddr, SocketAddr);

/// How far from the last numbers of a connection its late segments are: a window to each side, and
/// what was written but never sent.
const NEAR: u32 = 1 << 18;

#[derive(Clone, Copy, Debug)]
struct Ended {
    id: Option<ConnectionId>,
    expected: u32,
    sent: u32,
    peer_isn: u32,
}

/// The last connection that ended between each two sockets.
#[derive(Clone, Default, Debug)]
pub(super) struct Bygone {
    ended: BTreeMap<Sockets, Ended>,
}

impl Bygone {
    pub(super) fn add(&mut self, id: Option<ConnectionId>, tcp: &Tcp) {
        let (expected, sent) = (tcp.sequence_expected(), tcp.sequence_end());
        let ended = Ended { id, expected, sent, peer_isn: tcp.peer_isn() };
        self.ended.insert(tcp.sockets(), ended);
    }

    /// Whether a SYN with this number began the connection that was here before.
    pub(super) fn began(&self, sockets: &Sockets, seq: u32) -> bool {
        self.ended.get(sockets).is_some_and(|ended| ended.peer_isn == seq)
    }

    /// The sequence number behind all that this host sent on the connection that was here before.
    pub(super) fn sequence_end(&self, sockets: &Sockets) -> Option<u32> {
        self.ended.get(sockets).map(|ended| ended.sent)
    }

    /// Whether the numbers of a segment are those of the connection that was here before.
    pub(super) fn is_near(&self, sockets: &Sockets, stray: &Stray) -> bool {
        let near = |a: u32, b: u32| a.wrapping_sub(b).wrapping_add(NEAR) <= 2 * NEAR;
        self.ended.get(sockets).is_some_and(|ended| {
            near(stray.seq, ended.expected)
                || stray.flags.has(Flags::ACK) && near(stray.ack, ended.sent)
        })
    }

    /// Judges a segment that met no connection.
    pub(super) fn judge(&self, segment: &Segment<'_>) -> (Option<ConnectionId>, EventKind) {
        let stray = Stray {
            flags: segment.flags,
            seq: segment.seq,
            ack: segment.ack,
            data: segment.payload.len() as u32,
        };
        let sockets = (segment.dst, segment.src);
        match self.ended.get(&sockets) {
            Some(ended) if self.is_near(&sockets, &stray) => (ended.id, EventKind::Late(stray)),
            // Resets end something that is gone here; they say nothing about who sent what where.
            _ if segment.flags.has(Flags::RST) => (None, EventKind::Late(stray)),
            _ => (None, EventKind::Misrouted(stray)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::tcp::TcpConfig;

    #[test]
    fn numbers_tell_late_segments_from_those_of_others() {
        let (client, backend): Sockets =
            ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let mut out = Vec::new();
        let mut tcp =
            Tcp::connect(&TcpConfig::default(), (client, backend), u32::MAX - 5, 0, &mut out);
        let mut answer = Segment::bare(backend, client, Flags::SYN.with(Flags::ACK));
        (answer.seq, answer.ack) = (u32::MAX, u32::MAX - 4);
        tcp.receive(0, &answer, &mut out);
        let mut bygone = Bygone::default();
        bygone.add(Some(ConnectionId(3)), &tcp);
        let far = 1 << 30;
        for (seq, ack, flags, id) in [
            (0, far, Flags::ACK, Some(3)),
            (100_000, far, Flags::ACK, Some(3)),
            (far, u32::MAX - 4, Flags::ACK, Some(3)),
            (far, u32::MAX - 4, Flags::FIN, None), // no acknowledgement
            (far, far, Flags::ACK, None),
        ] {
            let mut segment = Segment::bare(backend, client, flags);
            (segment.seq, segment.ack) = (seq, ack);
            let (judged, kind) = bygone.judge(&segment);
            assert_eq!(judged, id.map(ConnectionId), "{seq} {ack}");
            assert_eq!(matches!(kind, EventKind::Late(_)), id.is_some(), "{seq} {ack}");
        }
        // Of other sockets.
        let other = Segment { seq: 0, ..Segment::bare(client, backend, Flags::ACK) };
        assert!(matches!(bygone.judge(&other), (None, EventKind::Misrouted(_))));
        let reset = Segment { flags: Flags::RST, ..other };
        assert!(matches!(bygone.judge(&reset), (None, EventKind::Late(_))));
        assert!(bygone.began(&(client, backend), u32::MAX));
        assert!(!bygone.began(&(client, backend), 0));
    }
}
