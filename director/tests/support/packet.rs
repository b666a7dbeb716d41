//! Packets in words, written and read by etherparse.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, NetSlice,
    SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};

use super::{MAC_BACKENDS, MAC_ME, MAC_ROUTER};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp { flags: u8, seq: u32, ack: u32, options: Vec<u8> },
    Udp { checksum: bool },
}

/// A TCP segment or a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub src: SocketAddrV4,
    pub dst: SocketAddrV4,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub ip_options: Vec<u8>,
    pub window: u16,
    pub l4: L4,
    pub payload: Vec<u8>,
}

pub fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip, port)
}

impl Packet {
    pub fn tcp(src: SocketAddrV4, dst: SocketAddrV4, flags: u8, seq: u32, ack: u32) -> Packet {
        Packet {
            src_mac: MAC_ROUTER,
            dst_mac: MAC_ME,
            src,
            dst,
            ttl: 60,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            ip_options: Vec::new(),
            window: 5000,
            l4: L4::Tcp { flags, seq, ack, options: Vec::new() },
            payload: Vec::new(),
        }
    }

    pub fn udp(src: SocketAddrV4, dst: SocketAddrV4) -> Packet {
        Packet { l4: L4::Udp { checksum: true }, ..Packet::tcp(src, dst, 0, 0, 0) }
    }

    pub fn payload(mut self, payload: &[u8]) -> Packet {
        self.payload = payload.to_vec();
        self
    }

    /// This as a segment of the director's own.
    pub fn own(self, to_client: bool) -> Packet {
        let dst_mac = if to_client { MAC_ROUTER } else { MAC_BACKENDS };
        Packet { src_mac: MAC_ME, dst_mac, ttl: 64, id: 0, window: 0, ..self }
    }

    /// What it looks like one hop further, with other endpoints.
    pub fn forwarded(&self, src: SocketAddrV4, dst: SocketAddrV4) -> Packet {
        let to_backend = dst.ip().octets()[..2] == [10, 1];
        Packet {
            src_mac: MAC_ME,
            dst_mac: if to_backend { MAC_BACKENDS } else { MAC_ROUTER },
            src,
            dst,
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    fn ipv4_header(&self, l4_len: usize) -> Ipv4Header {
        let number = match self.l4 {
            L4::Tcp { .. } => IpNumber::TCP,
            L4::Udp { .. } => IpNumber::UDP,
        };
        ipv4_header(
            number,
            (*self.src.ip(), *self.dst.ip()),
            self.ttl,
            l4_len,
            |header: &mut Ipv4Header| {
                header.options = self.ip_options.as_slice().try_into().unwrap();
                header.dscp = (self.tos >> 2).try_into().unwrap();
                header.ecn = (self.tos & 3).try_into().unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
            },
        )
    }

    /// The IP packet.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        match &self.l4 {
            L4::Tcp { flags, seq, ack, options } => {
                let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), *seq, self.window);
                tcp.acknowledgment_number = *ack;
                (tcp.fin, tcp.syn, tcp.rst) =
                    (flags & FIN != 0, flags & SYN != 0, flags & RST != 0);
                (tcp.psh, tcp.ack) = (flags & PSH != 0, flags & ACK != 0);
                tcp.set_options_raw(options).unwrap();
                let ip = self.ipv4_header(tcp.header_len() + self.payload.len());
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                tcp.write(&mut l4).unwrap();
            }
            L4::Udp { checksum } => {
                let (src, dst) = (self.src.port(), self.dst.port());
                let ip = self.ipv4_header(8 + self.payload.len());
                let udp = match checksum {
                    true => UdpHeader::with_ipv4_checksum(src, dst, &ip, &self.payload),
                    false => UdpHeader::without_ipv4_checksum(src, dst, self.payload.len()),
                };
                udp.unwrap().write(&mut l4).unwrap();
            }
        }
        l4.extend_from_slice(&self.payload);
        let mut bytes = Vec::new();
        self.ipv4_header(l4.len()).write(&mut bytes).unwrap();
        bytes.extend_from_slice(&l4);
        bytes
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        ethernet(self.src_mac, self.dst_mac, &self.ip_bytes())
    }
}

pub fn ipv4_header(
    number: IpNumber,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    payload_len: usize,
    adjust: impl FnOnce(&mut Ipv4Header),
) -> Ipv4Header {
    let mut header = Ipv4Header::new(0, ttl, number, src.octets(), dst.octets()).unwrap();
    adjust(&mut header);
    header.set_payload_len(payload_len).unwrap();
    header.header_checksum = header.calc_header_checksum();
    header
}

pub fn ethernet(src_mac: [u8; 6], dst_mac: [u8; 6], ip: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Ethernet2Header { source: src_mac, destination: dst_mac, ether_type: EtherType::IPV4 }
        .write(&mut bytes)
        .unwrap();
    bytes.extend_from_slice(ip);
    bytes
}

/// An ICMP message as a frame from the router to the director.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, icmp: Icmpv4Type, body: &[u8]) -> Vec<u8> {
    icmp_frame(MAC_ROUTER, MAC_ME, (src, dst), 60, icmp, body, |_| ())
}

pub fn icmp_frame(
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    ends: (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    icmp: Icmpv4Type,
    body: &[u8],
    adjust: impl FnOnce(&mut Ipv4Header),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Icmpv4Header::with_checksum(icmp, body);
    let len = header.header_len() + body.len();
    ipv4_header(IpNumber::ICMP, ends, ttl, len, adjust).write(&mut bytes).unwrap();
    header.write(&mut bytes).unwrap();
    bytes.extend_from_slice(body);
    ethernet(src_mac, dst_mac, &bytes)
}

/// The endpoints of a frame, after etherparse has found its lengths and checksums right.
#[track_caller]
pub fn verified_endpoints(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("lengths fit");
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4: {sliced:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    let (src, dst) = (Ipv4Addr::from(header.source), Ipv4Addr::from(header.destination));
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let checksum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
            assert_eq!(tcp.checksum(), checksum, "TCP checksum");
            (at(src, tcp.source_port()), at(dst, tcp.destination_port()))
        }
        Some(TransportSlice::Udp(udp)) => {
            if udp.checksum() != 0 {
                let checksum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert_eq!(udp.checksum(), checksum, "UDP checksum");
            }
            (at(src, udp.source_port()), at(dst, udp.destination_port()))
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
}
