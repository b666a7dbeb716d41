//! Against another encoder and decoder of packets.

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::endpoint::datagram::Datagram;
use crate::endpoint::packet::{self, Damage};
use crate::endpoint::segment::{Flags, Segment};

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    match v6 {
        true => ("2001:db8::1".parse().unwrap(), "2001:db8:ffff::2".parse().unwrap()),
        false => ("192.0.2.1".parse().unwrap(), "203.0.113.200".parse().unwrap()),
    }
}

fn builder(v6: bool) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match addresses(v6) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 9),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 9),
        _ => unreachable!("of one family"),
    }
}

proptest! {
    #[test]
    fn segments_written_here_read_there(
        v6: bool, seq: u32, ack: u32, bits in 0_u8..32, mss: u16, window: u16,
        data in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let (src, dst) = addresses(v6);
        let segment = Segment {
            src: (src, 1_234).into(), dst: (dst, 80).into(), seq, ack, flags: Flags(bits), window,
            mss: Some(mss), toa: Some((src, 77).into()), payload: &data,
        };
        let bytes = segment.encode(&[4, 2, 1, 1]);
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        let header = tcp.to_header();
        prop_assert_eq!(tcp.payload(), &data);
        prop_assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (seq, ack));
        prop_assert_eq!(tcp.window_size(), window);
        prop_assert_eq!(bits, u8::from(tcp.fin()) | u8::from(tcp.syn()) << 1
            | u8::from(tcp.rst()) << 2 | u8::from(tcp.psh()) << 3 | u8::from(tcp.ack()) << 4);
        let first = tcp.options_iterator().next();
        prop_assert_eq!(first, Some(Ok(TcpOptionElement::MaximumSegmentSize(mss))));
        let check = match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &data)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                header.calc_checksum_ipv6_raw(s.octets(), d.octets(), &data)
            }
            _ => unreachable!("of one family"),
        };
        prop_assert_eq!(check.unwrap(), tcp.checksum());
        if let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net {
            let header = ip.header().to_header();
            prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
        }
        let again = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(Segment::parse(&again).unwrap(), segment);
    }

    #[test]
    fn segments_written_there_read_here_and_one_flipped_bit_is_damage(
        v6: bool, seq: u32, ack: u32, mss: u16,
        data in proptest::collection::vec(any::<u8>(), 0..60), at: usize, bit in 0_u8..8,
    ) {
        let mut bytes = Vec::new();
        let options = [
            TcpOptionElement::Noop, TcpOptionElement::WindowScale(7),
            TcpOptionElement::MaximumSegmentSize(mss), TcpOptionElement::Timestamp(seq, ack),
        ];
        builder(v6).tcp(1_234, 80, seq, 4_321).ack(ack).options(&options).unwrap()
            .write(&mut bytes, &data).unwrap();
        let ip = Packet::parse(&bytes).unwrap();
        let segment = Segment::parse(&ip).unwrap();
        prop_assert_eq!((segment.seq, segment.ack, segment.mss), (seq, ack, Some(mss)));
        prop_assert_eq!((segment.flags, segment.payload), (Flags::ACK, data.as_slice()));

        // Anywhere but in the fields of IPv6 that no checksum covers.
        let from = if v6 { 8 } else { 0 };
        let at = from + at % (bytes.len() - from);
        bytes[at] ^= 1 << bit;
        let read = Packet::parse(&bytes).and_then(|ip| Segment::parse(&ip).map(|_| ()));
        prop_assert!(read.is_err(), "byte {at}");
    }

    #[test]
    fn datagrams_both_ways(
        v6: bool, data in proptest::collection::vec(any::<u8>(), 0..60), at: usize, bit in 0_u8..8,
    ) {
        let (src, dst) = addresses(v6);
        let datagram = Datagram { src: (src, 5).into(), dst: (dst, 53).into(), payload: &data };
        let mut there = Vec::new();
        builder(v6).udp(5, 53).write(&mut there, &data).unwrap();
        let mut bytes = datagram.encode();
        let offset = if v6 { 40 } else { 20 };
        prop_assert_eq!(&bytes[offset..], &there[offset..]);
        prop_assert_eq!(Datagram::parse(&Packet::parse(&there).unwrap()).unwrap(), datagram);
        let at = offset + at % (bytes.len() - offset);
        bytes[at] ^= 1 << bit;
        prop_assert!(Datagram::parse(&Packet::parse(&bytes).unwrap()).is_err());
    }
}

#[test]
fn addresses_in_options_have_the_layout_of_the_modules() {
    for (toa, expected) in [
        ("192.0.2.7:513", &[254, 8, 2, 1, 192, 0, 2, 7][..]),
        (
            "[2001:db8::7]:513",
            &[254, 20, 2, 1, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        ),
    ] {
        let (src, dst) = addresses(false);
        let mut segment = Segment::bare((src, 1).into(), (dst, 2).into(), Flags::ACK);
        segment.toa = Some(toa.parse().unwrap());
        let bytes = segment.encode(&[]);
        assert_eq!(&bytes[40..], expected);
    }
}

#[test]
fn wrong_options_are_damage() {
    let (src, dst) = addresses(false);
    let segment = Segment::bare((src, 1).into(), (dst, 2).into(), Flags::ACK);
    for options in [[254, 0, 0, 0], [254, 4, 0, 0], [3, 5, 0, 0], [1, 1, 1, 7], [8, 1, 1, 1]] {
        let bytes = segment.encode(&options);
        let read = Segment::parse(&Packet::parse(&bytes).unwrap()).map(|_| ());
        assert_eq!(read, Err(Damage::TcpOptions), "{options:?}");
    }
    let bytes = segment.encode(&[0, 0, 7, 99]); // behind the end of the list
    assert!(Segment::parse(&Packet::parse(&bytes).unwrap()).is_ok());
    assert_eq!(packet::TCP, 6);
}
