//! The XDP program, sockets and workers against the kernel: on a veth pair, with a packet core
//! that sends every frame back to where it came from.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

use common::{DIRECTOR_MAC, Link, PEER_MAC, RawSocket, privileged, wait_for};
use etherparse::PacketBuilder;
use holdfast_director::core::{DropReason, Frame, Verdict};
use holdfast_director::worker::{PacketCore, Pool, PoolConfig, SendPacket, Waker};
use holdfast_director::xdp::{AttachedMode, Interface, XdpError};
use holdfast_schema::config::XdpMode;
use holdfast_schema::flow::Addr;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Swaps the MAC addresses and sends the frame back; when woken, it sends a frame of its own.
struct Reflector {
    announce: bool,
}

/// What the reflector sends by itself.
const GREETING: [u8; 60] = {
    let mut frame = [0x5a; 60];
    let mut i = 0;
    while i < 6 {
        frame[i] = PEER_MAC[i];
        frame[6 + i] = DIRECTOR_MAC[i];
        i += 1;
    }
    frame
};

impl PacketCore for Reflector {
    fn process(&mut self, _now_ns: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            if let Some(macs) = frame.packet_mut().get_mut(..12) {
                macs.rotate_left(6);
                *verdict = Verdict::Transmit;
            }
        }
    }

    fn turn(&mut self, _now_ns: u64, _received: usize, send: &mut SendPacket<'_>) {
        if std::mem::take(&mut self.announce) {
            assert_eq!(send(&GREETING), Ok(()));
        }
    }

    fn waiting(&self) -> bool {
        false
    }

    fn unsent(&mut self, _reason: DropReason) {}

    fn discarded(&mut self, _frames: u64, _bytes: u64) {}
}

fn config(workers: u16, mode: XdpMode) -> PoolConfig {
    PoolConfig { workers, mode, ..PoolConfig::new("d0") }
}

fn start(link: &Link, config: &PoolConfig) -> Result<Pool, XdpError> {
    link.director.run(|| {
        Pool::start(config, [Addr::from(VIP)], [Addr::from(LIP)], |_, _| Reflector {
            announce: false,
        })
    })
}

/// A UDP datagram from the peer.
fn datagram(to: Ipv4Addr, source_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC, DIRECTOR_MAC)
        .ipv4([192, 0, 2, 2], to.octets(), 64)
        .udp(source_port, 4242);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 20]).unwrap();
    frame
}

fn reflected(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..12].rotate_left(6);
    frame
}

fn steers(mode: XdpMode) {
    let link = Link::new(1);
    let pool = start(&link, &config(1, mode)).unwrap();
    match (mode, pool.mode()) {
        (XdpMode::Skb, AttachedMode::Skb { reason }) => assert!(reason.contains("node file")),
        (_, attached) => assert_eq!(attached, &AttachedMode::Native),
    }
    let raw = link.raw();
    for to in [VIP, LIP] {
        let frame = datagram(to, 1000);
        raw.send(&frame);
        raw.receive_such("the reflected frame", |f| f == reflected(&frame));
    }
    // The kernel still has its own traffic: ARP, and TCP to the interface's address.
    let listener = link.director.run(|| TcpListener::bind("192.0.2.1:80").unwrap());
    let mut client = link.peer.run(|| TcpStream::connect("192.0.2.1:80").unwrap());
    client.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    let counters = pool.counters().unwrap();
    assert_eq!(counters.steer.redirected, 2);
    assert!(counters.steer.passed >= 2, "{counters:?}");
    assert_eq!((counters.queues[0].io.received, counters.queues[0].io.transmitted), (2, 2));
    assert_eq!(counters.queues[0].kernel.rx_dropped, 0);
    pool.stop();
}

#[test]
fn native_mode_steers_vips_and_lips_and_nothing_else() {
    if privileged() {
        steers(XdpMode::Native);
    }
}

#[test]
fn skb_mode_steers_the_same() {
    if privileged() {
        steers(XdpMode::Skb);
    }
}

#[test]
fn skb_mode_turns_merging_off_and_on_again() {
    if !privileged() {
        return;
    }
    const ETHTOOL_SGRO: u32 = 0x2c;
    let link = Link::new(1);
    link.director.ethtool("d0", ETHTOOL_SGRO, 1);
    let merges = || link.director.run(|| Interface::usable("d0").unwrap().merges().unwrap());
    assert!(merges());
    let pool = start(&link, &config(1, XdpMode::Skb)).unwrap();
    assert!(!merges());
    pool.stop();
    assert!(merges());
}

#[test]
fn tags_fragments_and_broken_headers() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let pool = start(&link, &config(1, XdpMode::Native)).unwrap();
    let raw = link.raw();
    let frame = datagram(VIP, 1000);

    let mut tagged = frame.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    raw.send(&tagged);
    wait_for("the tagged frame's drop", || pool.counters().unwrap().steer.dropped_vlan == 1);
    let mut twice = tagged.clone();
    twice.splice(12..12, [0x88, 0xa8, 0, 6]);
    raw.send(&twice);
    wait_for("the twice tagged frame's drop", || pool.counters().unwrap().steer.dropped_vlan == 2);

    // A fragment without ports is addressed to the VIP all the same.
    let mut fragment = frame.clone();
    fragment[20..22].copy_from_slice(&[0x20, 0x10]);
    raw.send(&fragment);
    raw.receive_such("the reflected fragment", |f| f == reflected(&fragment));

    let before = pool.counters().unwrap().steer.dropped_malformed;
    raw.send(&frame[..30]);
    let mut version = frame.clone();
    version[14] = 0x65;
    raw.send(&version);
    wait_for("the broken frames' drop", || {
        pool.counters().unwrap().steer.dropped_malformed == before + 2
    });
}

#[test]
fn ipv6_addresses_are_steered() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let vip: std::net::Ipv6Addr = "2001:db8::10".parse().unwrap();
    let pool = start(&link, &config(1, XdpMode::Native)).unwrap();
    pool.set_addresses([Addr(vip.octets())], []).unwrap();
    let builder =
        PacketBuilder::ethernet2(PEER_MAC, DIRECTOR_MAC).ipv6([1; 16], vip.octets(), 64).udp(1, 2);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 20]).unwrap();
    let raw = link.raw();
    raw.send(&frame);
    raw.receive_such("the reflected frame", |f| f == reflected(&frame));
    // The old addresses are the kernel's again.
    let passed = pool.counters().unwrap().steer.passed;
    raw.send(&datagram(VIP, 1000));
    wait_for("the old VIP's packet", || pool.counters().unwrap().steer.passed > passed);
}

#[test]
fn a_queue_without_a_socket_drops_and_counts() {
    if !privileged() {
        return;
    }
    let link = Link::new(2);
    // Were a packet for the VIP to reach the kernel, it would answer: port unreachable.
    link.director.ip(&format!("address add {VIP}/32 dev lo"));
    let pool = start(&link, &config(1, XdpMode::Native)).unwrap();
    assert_eq!(pool.unserved_queues(), 1);
    let raw = link.raw();
    const FLOWS: u64 = 64;
    for port in 0..FLOWS {
        raw.send(&datagram(VIP, 2000 + port as u16));
    }
    wait_for("all packets to be redirected or dropped", || {
        let steer = pool.counters().unwrap().steer;
        steer.redirected + steer.dropped_no_socket == FLOWS
    });
    let steer = pool.counters().unwrap().steer;
    assert!(steer.dropped_no_socket > 0 && steer.redirected > 0, "{steer:?}");
    let mut back = 0;
    wait_for("what was redirected to come back", || {
        while let Some(frame) = raw.receive() {
            if frame[12..14] != [8, 0] {
                continue;
            }
            assert_eq!(frame[23], 17, "no ICMP error of the kernel's");
            back += 1;
        }
        back == steer.redirected
    });
}

#[test]
fn two_workers_serve_two_queues() {
    if !privileged() {
        return;
    }
    let link = Link::new(2);
    let pool = start(&link, &config(2, XdpMode::Native)).unwrap();
    assert_eq!((pool.unserved_queues(), pool.workers(), pool.beats().len()), (0, 2, 2));
    let raw = link.raw();
    let frames: Vec<Vec<u8>> = (0..64).map(|port| datagram(VIP, 3000 + port)).collect();
    frames.iter().for_each(|frame| raw.send(frame));
    let mut missing: Vec<Vec<u8>> = frames.iter().map(|f| reflected(f)).collect();
    wait_for("every frame to come back", || {
        while let Some(frame) = raw.receive() {
            missing.retain(|m| *m != frame);
        }
        missing.is_empty()
    });
    let counters = pool.counters().unwrap();
    assert_eq!(counters.steer.dropped_no_socket, 0);
    let received: Vec<u64> = counters.queues.iter().map(|q| q.io.received).collect();
    assert!(received.iter().all(|n| *n > 0), "{received:?}");
    assert_eq!(received.iter().sum::<u64>(), 64);
}

#[test]
fn a_core_sends_by_itself_and_beats_go_on() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let raw = link.raw();
    let mut waker = None;
    let pool = link
        .director
        .run(|| {
            Pool::start(&config(1, XdpMode::Native), [], [], |_, w: Waker| {
                waker = Some(w);
                Reflector { announce: true }
            })
        })
        .unwrap();
    waker.unwrap().wake();
    raw.receive_such("the worker's own frame", |f| f == GREETING);
    let first = pool.beats()[0].last_ns();
    wait_for("the idle worker's next beats", || pool.beats()[0].last_ns() > first + 20_000_000);
    assert_eq!(pool.failure(), None);
}

#[test]
fn what_cannot_work_is_refused_with_the_remedy() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let error = start(&link, &config(2, XdpMode::Native)).unwrap_err();
    assert!(matches!(error, XdpError::TooFewQueues { has: 1, wanted: 2, .. }), "{error}");
    assert!(error.to_string().contains("ethtool -L d0 combined 2"));
    let error = start(&link, &config(0, XdpMode::Native)).unwrap_err();
    assert!(matches!(error, XdpError::WorkerCount { workers: 0, .. }), "{error}");

    let first = start(&link, &config(1, XdpMode::Native)).unwrap();
    let error = start(&link, &config(1, XdpMode::Auto)).unwrap_err();
    assert!(error.to_string().contains("queue"), "{error}");
    drop(first);

    link.director.ip("link set d0 mtu 9000");
    let error = start(&link, &config(1, XdpMode::Native)).unwrap_err();
    assert!(matches!(error, XdpError::MtuTooLarge { mtu: 9000, .. }), "{error}");
    link.director.ip("link set d0 mtu 1500");
    link.director.ip("link set d0 down");
    let error = start(&link, &config(1, XdpMode::Native)).unwrap_err();
    assert!(error.to_string().contains("ip link set d0 up"), "{error}");
}

#[test]
fn bonds_are_refused() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let made = link
        .director
        .run(|| Command::new("ip").args(["link", "add", "b0", "type", "bond"]).output().unwrap());
    if !made.status.success() {
        eprintln!(
            "skipped: this kernel has no bonding ({})",
            String::from_utf8_lossy(&made.stderr)
        );
        return;
    }
    link.director.ip("link set b0 up");
    let error = link.director.run(|| Interface::usable("b0")).unwrap_err();
    assert!(matches!(error, XdpError::Bond { .. }), "{error}");
}

#[test]
fn a_removed_interface_ends_the_worker() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let pool = start(&link, &config(1, XdpMode::Native)).unwrap();
    link.director.ip("link del d0");
    wait_for("the worker's failure", || pool.failure().is_some());
    let last = pool.beats()[0].last_ns();
    let failure = pool.failure().unwrap();
    assert!(failure.contains("queue 0"), "{failure}");
    assert_eq!(pool.beats()[0].last_ns(), last, "no beats after the end");
}

/// Not a test of its own: what `a_killed_process_takes_its_program_along` runs in another process.
#[test]
fn helper_that_holds_the_program_until_it_is_killed() {
    if std::env::var_os("HOLDFAST_TEST_HOLD").is_none() {
        return;
    }
    let pool = Pool::start(&config(1, XdpMode::Native), [Addr::from(VIP)], [], |_, _| Reflector {
        announce: true,
    });
    let _pool = pool.expect("the program");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_takes_its_program_along() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let raw: RawSocket = link.raw();
    let mut child = link.director.run(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_that_holds_the_program_until_it_is_killed"])
            .env("HOLDFAST_TEST_HOLD", "1")
            .spawn()
            .unwrap()
    });
    raw.receive_such("the child's greeting", |f| f == GREETING);
    let occupied = start(&link, &config(1, XdpMode::Native));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(occupied.is_err());
    let mut pool = None;
    wait_for("the interface to be free", || {
        pool = start(&link, &config(1, XdpMode::Native)).ok();
        pool.is_some()
    });
}
