//! Whatever arrives, nothing panics and nothing of a connection is corrupted.

use proptest::prelude::*;

use super::*;
use crate::endpoint::segment::{Flags, Segment};
use crate::endpoint::tcp::Tcp;

/// A client and a backend in the middle of a long connection.
fn midway() -> Network {
    let mut plan = connection(1, 1_000, Ending::ClientCloses);
    plan.pause_us = (1_000, 5_000);
    let mut network = simple(vec![plan]);
    network.run(200_000);
    network
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn bytes_of_any_kind(bytes in proptest::collection::vec(any::<u8>(), 0..120), version: bool) {
        let mut network = midway();
        let mut bytes = bytes;
        if let (Some(first), true) = (bytes.first_mut(), version) {
            *first = 0x45;
        }
        let now_us = network.now_us;
        network.client(CLIENT).packet(now_us, &bytes, &mut Vec::new());
        network.backend(BACKEND).packet(now_us, &bytes, &mut Vec::new());
    }

    /// Segments with any bits and with numbers around those expected, at both ends of a connection
    /// that is in any state.
    #[test]
    fn segments_of_any_kind(
        segments in proptest::collection::vec(
            (any::<bool>(), 0_u8..64, -3_i32..4, prop_oneof![-3_i32..4, -70_000_i32..70_000],
             0_usize..20, any::<u16>(), 0_u8..4),
            1..60,
        ),
    ) {
        let config = TcpConfig::default();
        let sockets = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let mut out = Vec::new();
        let client = Tcp::connect(&config, sockets, u32::MAX, 0, &mut out);
        let syn = Segment::parse(&Packet::parse(&out[0]).unwrap()).unwrap();
        let mut ends = [client, Tcp::accept(&config, &syn, u32::MAX - 1, 0, &mut Vec::new())];
        for (step, (which, bits, seq, ack, len, window, act)) in segments.into_iter().enumerate() {
            let now_us = step as u64 * 150_000;
            let data = vec![0; len];
            let tcp = &mut ends[usize::from(which)];
            let mut segment = Segment::bare(tcp.sockets().1, tcp.sockets().0, Flags(bits));
            segment.seq = tcp.sequence_expected().wrapping_add_signed(seq);
            segment.ack = tcp.sequence_end().wrapping_add_signed(ack);
            segment.window = window;
            segment.payload = &data;
            let mut out = Vec::new();
            tcp.receive(now_us, &segment, &mut out);
            match act {
                0 => tcp.close(),
                1 => tcp.tick(now_us, &mut out),
                _ => {}
            }
            tcp.flush(now_us, &mut out);
            for packet in out {
                prop_assert!(Segment::parse(&Packet::parse(&packet).unwrap()).is_ok());
            }
        }
    }
}
