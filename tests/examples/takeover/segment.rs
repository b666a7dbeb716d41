//! TCP segments without payload, written and read by etherparse.

use std::net::SocketAddrV4;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::tap::Tap;

/// What kind of segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Syn,
    SynAck,
    Ack,
    Reset,
}

/// A segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub kind: Kind,
    pub seq: u32,
    pub ack: u32,
}

impl Segment {
    /// Its frame, from our end of a link.
    pub fn frame(&self, tap: &Tap) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(tap.mac, tap.far_mac)
            .ipv4(self.from.ip().octets(), self.to.ip().octets(), 64)
            .tcp(self.from.port(), self.to.port(), self.seq, 64_000);
        let builder = match self.kind {
            Kind::Syn => builder.syn(),
            Kind::SynAck => builder.syn().ack(self.ack),
            Kind::Ack => builder.ack(self.ack),
            Kind::Reset => builder.rst(),
        };
        let mut frame = Vec::with_capacity(60);
        builder.write(&mut frame, &[]).expect("a vector takes everything");
        frame
    }

    /// Reads a frame; none: it is something else.
    pub fn read(frame: &[u8]) -> Option<Segment> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
            (packet.net, packet.transport)
        else {
            return None;
        };
        let ip = ip.header();
        Some(Segment {
            from: SocketAddrV4::new(ip.source_addr(), tcp.source_port()),
            to: SocketAddrV4::new(ip.destination_addr(), tcp.destination_port()),
            kind: match (tcp.syn(), tcp.ack(), tcp.rst()) {
                (_, _, true) => Kind::Reset,
                (true, true, _) => Kind::SynAck,
                (true, false, _) => Kind::Syn,
                _ => Kind::Ack,
            },
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
        })
    }
}
