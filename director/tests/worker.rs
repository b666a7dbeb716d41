//! Workers in unusual moments: after a stall, with an interface that goes away for a while, without
//! native XDP, with another priority.

mod common;

use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

use common::{DIRECTOR_MAC, ETHTOOL_STXCSUM, Link, PEER_MAC, privileged, wait_for};
use etherparse::PacketBuilder;
use holdfast_director::core::{DropReason, Frame, Verdict};
use holdfast_director::worker::{PacketCore, Pool, PoolConfig, SendPacket};
use holdfast_director::xdp::AttachedMode;
use holdfast_schema::config::XdpMode;
use holdfast_schema::flow::Addr;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Sends frames back. Before the first batch of a round that it is told of, it waits to be let go.
struct Held {
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
    discarded: mpsc::Sender<(u64, u64)>,
}

/// The other ends.
struct Holder {
    reached: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
    discarded: mpsc::Receiver<(u64, u64)>,
}

fn held() -> (Held, Holder) {
    let (reached, was_reached) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    let (discarded, was_discarded) = mpsc::channel();
    (
        Held { reached, go_on, discarded },
        Holder { reached: was_reached, go_on: let_go, discarded: was_discarded },
    )
}

impl PacketCore for Held {
    fn process(&mut self, _now_ns: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        let _ = self.reached.send(());
        // Fails when the test is over: then nothing holds it any more.
        let _ = self.go_on.recv();
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            if let Some(macs) = frame.packet_mut().get_mut(..12) {
                macs.rotate_left(6);
                *verdict = Verdict::Transmit;
            }
        }
    }

    fn turn(&mut self, _now_ns: u64, _received: usize, _send: &mut SendPacket<'_>) {}

    fn waiting(&self) -> bool {
        false
    }

    fn unsent(&mut self, _reason: DropReason) {}

    fn discarded(&mut self, frames: u64, bytes: u64) {
        let _ = self.discarded.send((frames, bytes));
    }
}

fn datagram(to_mac: [u8; 6], source_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(PEER_MAC, to_mac)
        .ipv4([192, 0, 2, 2], VIP.octets(), 64)
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

fn start(link: &Link, config: &PoolConfig) -> (Pool, Holder) {
    let (core, holder) = held();
    let mut core = Some(core);
    let pool = link
        .director
        .run(|| Pool::start(config, [Addr::from(VIP)], [], |_, _| core.take().unwrap()))
        .unwrap();
    (pool, holder)
}

fn native() -> PoolConfig {
    PoolConfig { mode: XdpMode::Native, ..PoolConfig::new("d0") }
}

/// What waits in the ring while the worker stands still for `pause` is thrown away, `discard` or not.
fn throws_away(pause: Duration, discard: bool) -> u64 {
    let link = Link::new(1);
    let (pool, holder) = start(&link, &native());
    let raw = link.raw();
    raw.send(&datagram(DIRECTOR_MAC, 1));
    holder.reached.recv_timeout(Duration::from_secs(5)).unwrap();
    let late = datagram(DIRECTOR_MAC, 2);
    for _ in 0..5 {
        raw.send(&late);
    }
    wait_for("the packets to be in the ring", || pool.counters().unwrap().steer.redirected == 6);
    if discard {
        pool.discard_rings();
    }
    std::thread::sleep(pause);
    holder.go_on.send(()).unwrap();
    let discarded = holder.discarded.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(discarded, (5, 5 * late.len() as u64));
    // What comes afterwards is served.
    let fresh = datagram(DIRECTOR_MAC, 3);
    raw.send(&fresh);
    holder.reached.recv_timeout(Duration::from_secs(5)).unwrap();
    holder.go_on.send(()).unwrap();
    raw.receive_such("the fresh packet", |f| f == reflected(&fresh));
    let io = pool.counters().unwrap().queues[0].io;
    assert_eq!((io.stale, io.received, io.transmitted), (5, 7, 2));
    io.stalls
}

#[test]
fn a_stalled_worker_throws_away_what_waited() {
    if privileged() {
        // The pause is what is tested: no condition to wait for.
        assert_eq!(throws_away(Duration::from_millis(350), false), 1);
    }
}

#[test]
fn discarding_on_request_needs_no_stall() {
    if privileged() {
        throws_away(Duration::ZERO, true);
    }
}

#[test]
fn an_interface_that_was_down_serves_again() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let (pool, holder) = start(&link, &native());
    drop(holder);
    let raw = link.raw();
    link.director.ip("link set d0 down");
    link.director.ip("link set d0 up");
    let frame = datagram(DIRECTOR_MAC, 1);
    let mut back = false;
    wait_for("a packet to come back", || {
        raw.send(&frame);
        back |= std::iter::from_fn(|| raw.receive()).any(|f| f == reflected(&frame));
        back
    });
    assert_eq!(pool.failure(), None);
}

#[test]
fn without_native_xdp_the_mode_falls_back_and_says_why() {
    if !privileged() {
        return;
    }
    // A macvlan has no XDP of its own.
    const MACVLAN: [u8; 6] = [2, 0, 0, 0, 0, 0xcc];
    let link = Link::new(1);
    link.director.ip("link add m0 link d0 address 02:00:00:00:00:cc type macvlan mode bridge");
    link.director.ip("link set m0 up");
    link.peer.ethtool("p0", ETHTOOL_STXCSUM, 0);
    let config = PoolConfig { mode: XdpMode::Native, ..PoolConfig::new("m0") };
    let error = link
        .director
        .run(|| Pool::start(&config, [], [], |_, _| held().0))
        .expect_err("native mode was asked for");
    assert!(error.to_string().contains("native"), "{error}");

    let config = PoolConfig { mode: XdpMode::Auto, ..PoolConfig::new("m0") };
    let (pool, holder) = start(&link, &config);
    drop(holder);
    match pool.mode() {
        AttachedMode::Skb { reason } => assert!(reason.contains("no native XDP"), "{reason}"),
        AttachedMode::Native => panic!("a macvlan with native XDP"),
    }
    let raw = link.raw();
    let frame = datagram(MACVLAN, 1);
    raw.send(&frame);
    raw.receive_such("the reflected frame", |f| f == reflected(&frame));
}

/// The nice value of this process' thread of that name.
fn nice_of(name: &str) -> Option<i32> {
    std::fs::read_dir("/proc/self/task").unwrap().flatten().find_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        // The name stands in parentheses; nice is the 17th field after it.
        let (head, tail) = stat.rsplit_once(") ")?;
        let nice = tail.split(' ').nth(16)?.parse().ok()?;
        (head.ends_with(&format!("({name}")) && nice != 0).then_some(nice)
    })
}

#[test]
fn a_workers_priority_can_be_set() {
    if !privileged() {
        return;
    }
    let link = Link::new(1);
    let config = PoolConfig { nice: Some(7), ..native() };
    let (_pool, _holder) = start(&link, &config);
    wait_for("the worker's nice value", || nice_of("hf-worker-0") == Some(7));
}
