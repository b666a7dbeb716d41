//! That faults are noticed: each of these breaks something, once.

use super::*;
use crate::endpoint::datagram::Datagram;
use crate::endpoint::packet::{self, Damage};
use crate::endpoint::segment::{Flags, Segment};

const OTHER: &str = "198.51.100.2";

/// The client's segments with data are numbered; those for which `hit` says so are changed.
fn change(
    hit: impl Fn(u32) -> bool + 'static,
    how: impl Fn(&mut Segment<'_>) -> Vec<u8> + 'static,
) -> OnPath {
    let mut count = 0;
    Box::new(move |_, bytes| {
        let ip = Packet::parse(&bytes).unwrap();
        let mut segment = Segment::parse(&ip).unwrap();
        if segment.src.ip().to_string() == CLIENT && !segment.payload.is_empty() {
            count += 1;
            if hit(count) {
                return vec![how(&mut segment)];
            }
        }
        vec![bytes]
    })
}

fn elsewhere(segment: &mut Segment<'_>) -> Vec<u8> {
    segment.dst.set_ip(OTHER.parse().unwrap());
    segment.encode(&[])
}

#[test]
fn a_clean_connection_is_no_fault() {
    for ending in [
        Ending::ClientCloses,
        Ending::BackendCloses,
        Ending::HalfClose,
        Ending::Simultaneous,
        Ending::Reset,
        Ending::ResetInResponse,
        Ending::Vanish,
    ] {
        let mut network = simple(vec![connection(5, 3, ending)]);
        network.run(HOUR_US);
        assert_eq!(network.faults(), [""; 0], "{ending:?}:\n{}", network.story());
        let (client, backend) =
            (network.client(CLIENT).summary(), network.backend(BACKEND).summary());
        let clean = !ending.client_resets() && ending != Ending::Vanish;
        assert_eq!((client.closed, backend.closed), (clean.into(), clean.into()), "{ending:?}");
        assert_eq!((client.ended(), backend.ended()), (1, 1), "{ending:?}");
        assert_eq!(backend.delivered, 3);
    }
}

#[test]
fn a_misrouted_segment_is_noticed() {
    let mut network = simple(vec![connection(5, 6, Ending::ClientCloses)]);
    network.add_backend(backend_config(2, OTHER), 2);
    network.on_path = change(|count| count == 4, elsewhere);
    network.run(HOUR_US);
    let misrouted = network.events.iter().find(|e| matches!(e.kind, EventKind::Misrouted(_)));
    let event = misrouted.unwrap_or_else(|| panic!("{}", network.story()));
    assert_eq!((event.local.to_string(), event.connection), (format!("{OTHER}:80"), None));
    let EventKind::Misrouted(stray) = event.kind else { unreachable!() };
    assert!(stray.data > 0 && stray.flags.has(Flags::ACK));
}

#[test]
fn a_connection_that_moves_is_reset_and_that_is_noticed() {
    let mut network = simple(vec![connection(5, 6, Ending::ClientCloses)]);
    network.add_backend(backend_config(2, OTHER), 2);
    // The answers of the other backend seem to come from the first: a load balancer in between.
    let mut to_other = change(|count| count >= 4, elsewhere);
    network.on_path = Box::new(move |now_us, bytes| {
        let mut packets = to_other(now_us, bytes);
        let ip = Packet::parse(&packets[0]).unwrap();
        let mut segment = Segment::parse(&ip).unwrap();
        if segment.src.ip().to_string() == OTHER {
            segment.src.set_ip(BACKEND.parse().unwrap());
            packets = vec![segment.encode(&[])];
        }
        packets
    });
    network.run(HOUR_US);
    assert!(network.has(|kind| matches!(kind, EventKind::Misrouted(_))));
    assert!(network.has(|kind| *kind == EventKind::Reset { living: true }), "{}", network.story());
    assert_eq!(network.client(CLIENT).summary().reset, 1);
    assert_eq!(network.backend(BACKEND).open().len(), 1); // nobody told it
}

#[test]
fn a_flipped_bit_is_noticed_with_and_without_its_checksum() {
    for (fixed, expected) in [
        (false, EventKind::Damaged(Damage::TcpChecksum)),
        (true, EventKind::Corrupt { offset: 0, belongs_to: None }),
    ] {
        let mut network = simple(vec![connection(5, 6, Ending::ClientCloses)]);
        network.on_path = change(
            |count| count == 3,
            move |segment| {
                let mut data = segment.payload.to_vec();
                data[20] ^= 0x10;
                if fixed {
                    Segment { payload: &data, ..*segment }.encode(&[])
                } else {
                    let mut bytes = segment.encode(&[]);
                    bytes[60] ^= 0x10;
                    bytes
                }
            },
        );
        network.run(HOUR_US);
        let noticed = network.has(|kind| match (kind, &expected) {
            (EventKind::Corrupt { .. }, EventKind::Corrupt { .. }) => true,
            (kind, expected) => kind == expected,
        });
        assert!(noticed, "{}", network.story());
    }
}

#[test]
fn data_of_another_place_are_noticed_with_the_place() {
    let mut network = simple(vec![connection(5, 6, Ending::ClientCloses)]);
    let dialogue = connection(5, 6, Ending::ClientCloses).dialogue;
    let second = dialogue.request(1, dialogue.request_len(0) as u64);
    // The third request carries the bytes of the second.
    network.on_path = change(
        |count| count == 3,
        move |segment| {
            let len = segment.payload.len();
            let data: Vec<u8> = second.iter().cycle().take(len).copied().collect();
            Segment { payload: &data, ..*segment }.encode(&[])
        },
    );
    network.run(HOUR_US);
    let place = Some(dialogue.request_len(0) as u64);
    let noticed = network
        .has(|kind| matches!(kind, EventKind::Corrupt { belongs_to, .. } if *belongs_to == place));
    assert!(noticed, "{}", network.story());
}

#[test]
fn a_change_of_backend_of_a_udp_flow_is_noticed_at_both_ends() {
    let mut plan = connection(9, 8, Ending::ClientCloses);
    plan.kind = Kind::Udp;
    plan.target.set_port(53);
    let mut network = simple(vec![plan]);
    network.add_backend(backend_config(2, OTHER), 2);
    let mut count = 0;
    network.on_path = Box::new(move |_, bytes| {
        let ip = Packet::parse(&bytes).unwrap();
        assert_eq!(ip.protocol, packet::UDP);
        let mut datagram = Datagram::parse(&ip).unwrap();
        if datagram.src.ip().to_string() == CLIENT {
            count += 1;
            if count > 4 {
                datagram.dst.set_ip(OTHER.parse().unwrap());
            }
        } else {
            datagram.src.set_ip(BACKEND.parse().unwrap());
        }
        vec![datagram.encode()]
    });
    network.run(HOUR_US);
    assert!(network.has(|kind| matches!(kind, EventKind::Misrouted(_))), "{}", network.story());
    assert!(network.has(|kind| *kind == EventKind::BackendChanged { from: 1, to: 2 }));
    assert_eq!(network.client(CLIENT).summary().closed, 1);
}

#[test]
fn a_forged_reset_in_the_window_ends_nothing() {
    let mut network = simple(vec![connection(5, 50, Ending::ClientCloses)]);
    network.on_path = Box::new(|_, bytes| {
        let ip = Packet::parse(&bytes).unwrap();
        let segment = Segment::parse(&ip).unwrap();
        let mut reset = Segment { payload: &[], mss: None, ..segment };
        reset.flags = Flags::RST;
        reset.seq = segment.seq.wrapping_add(5_000);
        let forged = reset.encode(&[]);
        vec![bytes, forged]
    });
    network.run(HOUR_US);
    assert!(network.has(|kind| *kind == EventKind::ResetIgnored));
    assert_eq!(network.faults(), [""; 0], "{}", network.story());
    assert_eq!(network.client(CLIENT).summary().closed, 1);
}

#[test]
fn a_port_is_used_again_within_time_wait() {
    // Ahead of the numbers of the connection before, and behind them.
    for (ahead, isn) in [(true, 100_000), (false, 0_u32.wrapping_sub(2_000_000))] {
        let first = connection(5, 2, Ending::BackendCloses);
        let mut second = connection(6, 2, Ending::BackendCloses);
        second.after = Some(ConnectionId(5));
        second.start_us = 10_000;
        second.isn = isn;
        let mut network = simple(vec![first, second]);
        network.run(20_000_000);
        assert_eq!(network.faults(), [""; 0], "{}", network.story());
        assert_eq!(network.has(|kind| *kind == EventKind::TimeWaitReused), ahead);
        assert_eq!(network.client(CLIENT).summary().closed, 2);
        assert_eq!(network.backend(BACKEND).summary().closed, 2);
        assert_eq!(network.backend(BACKEND).time_waits(), 1);
    }
}

#[test]
fn a_backend_that_starts_again_knows_nothing() {
    let mut plan = connection(5, 50, Ending::ClientCloses);
    plan.pause_us = (100_000, 100_000);
    let mut network = simple(vec![plan]);
    network.run(1_000_000);
    network.backend(BACKEND).shut_down();
    network.run(1_500_000);
    network.backend(BACKEND).start();
    network.run(HOUR_US);
    assert!(network.has(|kind| *kind == EventKind::Reset { living: true }), "{}", network.story());
    let late = network.events.iter().find(|event| matches!(event.kind, EventKind::Late(_)));
    assert_eq!(late.and_then(|event| event.connection), Some(ConnectionId(5)));
    assert!(!network.has(|kind| matches!(kind, EventKind::Misrouted(_))));
    assert_eq!(network.backend(BACKEND).summary().forgotten, 1);
}

#[test]
fn who_gets_no_answer_gives_up() {
    let mut network = simple(vec![connection(5, 2, Ending::ClientCloses)]);
    network.backend(BACKEND).shut_down();
    network.run(HOUR_US);
    assert!(network.has(|kind| *kind == EventKind::TimedOut { living: true }));
    assert_eq!(network.client(CLIENT).summary().timed_out, 1);

    let mut plan = connection(5, 50, Ending::ClientCloses);
    plan.pause_us = (100_000, 100_000);
    let mut network = simple(vec![plan]);
    network.run(1_000_000);
    network.loss = 1_000;
    network.run(HOUR_US);
    assert_eq!(network.client(CLIENT).summary().timed_out, 1);
    assert_eq!(network.client(CLIENT).open(), []);
}

#[test]
fn packets_for_others_are_noticed() {
    let mut network = simple(vec![]);
    let (from, to) = ("192.0.2.9:5".parse().unwrap(), "192.0.2.77:80".parse().unwrap());
    let stranger = Segment::bare(from, to, Flags::SYN).encode(&[]);
    network.client(CLIENT).packet(0, &stranger, &mut Vec::new());
    let events = network.client(CLIENT).drain_events();
    assert_eq!(events.first().map(|event| &event.kind), Some(&EventKind::NotMine));
}
