//! A whole director on a veth pair: real TCP and UDP between sockets of the peer's kernel, through
//! FullNAT in the director's workers.

mod common;
#[path = "common/cluster.rs"]
mod testcluster;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{DIRECTOR_MAC, Link, PEER_MAC, privileged, wait_for};
use holdfast_director::core::{Count, DropReason, MissAnswer, MissKind, MissQuestion};
use holdfast_director::director::{Director, DirectorConfig, WorkerId};
use holdfast_director::tables::ForwardingTables;
use holdfast_director::worker::DEFAULT_CHUNKS;
use holdfast_schema::config::XdpMode;
use testcluster::{ME, cluster, tables};

const VIP: &str = "203.0.113.10:80";
const LIP: &str = "198.51.100.1";
/// An address of the peer; clients and backends are there.
const PEER: &str = "192.0.2.2";

fn lips() -> Vec<IpAddr> {
    vec![LIP.parse().unwrap()]
}

fn ready_tables(backends: &[SocketAddr]) -> Arc<ForwardingTables> {
    let state = cluster(VIP.parse().unwrap(), &lips(), backends);
    tables(&state, DIRECTOR_MAC, PEER_MAC)
}

/// A link whose peer reaches VIP and LIP through the director.
fn link(queues: u32) -> Link {
    let link = Link::new(queues);
    link.peer.ip("route add 203.0.113.0/24 via 192.0.2.1");
    link.peer.ip("route add 198.51.100.0/24 via 192.0.2.1");
    link
}

fn start(link: &Link, workers: u16, tables: Arc<ForwardingTables>) -> Director {
    let config = DirectorConfig {
        workers,
        mode: XdpMode::Native,
        frames: DEFAULT_CHUNKS,
        ..DirectorConfig::new("d0", ME, 1).with_max_sessions(10_000)
    };
    link.director.run(|| Director::start(config, tables)).unwrap()
}

/// The next question that a worker puts down.
fn asked(director: &Director) -> (WorkerId, MissQuestion) {
    const PATIENCE: Duration = Duration::from_secs(20);
    let (begun, mut question) = (Instant::now(), None);
    while question.is_none() {
        director.wait_for_questions(2 * PATIENCE);
        assert!(begun.elapsed() < PATIENCE, "no question, or it has woken nobody");
        director.take_questions(1, |worker, asked| question = Some((worker, asked)));
    }
    question.expect("it came")
}

/// Everything that was received is accounted for, once the workers are at rest.
fn accounted(director: &Director) {
    wait_for("every packet to be accounted for", || {
        director.counters().unwrap().packets.unaccounted() == 0
    });
}

fn serves(workers: u16) {
    let link = link(u32::from(workers));
    let server = link.peer.run(|| TcpListener::bind((PEER, 0)).unwrap());
    let backend = server.local_addr().unwrap();
    let echo = link.peer.run(|| UdpSocket::bind(backend).unwrap());
    let director = start(&link, workers, ready_tables(&[backend]));

    // TCP: more than a window's worth of data in each direction.
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let serving = std::thread::spawn(move || {
        for stream in server.incoming().take(8) {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap();
            assert_eq!(from.ip().to_string(), LIP, "the backend sees the LIP");
            std::thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                loop {
                    match stream.read(&mut buffer).unwrap() {
                        0 => return,
                        n => stream.write_all(&buffer[..n]).unwrap(),
                    }
                }
            });
        }
    });
    for _ in 0..8 {
        let mut client = link.peer.run(|| TcpStream::connect(VIP).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut writer = client.try_clone().unwrap();
        let sent = data.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert!(heard == data, "{} of {} bytes", heard.len(), data.len());
    }
    serving.join().unwrap();

    let client = link.peer.run(|| UdpSocket::bind((PEER, 0)).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    echo.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for n in 0..10u8 {
        client.send_to(&[n; 100], VIP).unwrap();
        let mut buffer = [0; 200];
        let (length, from) = echo.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&[n; 100][..], LIP));
        echo.send_to(&buffer[..length], from).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.to_string().as_str()), (&[n; 100][..], VIP));
    }

    accounted(&director);
    let counters = director.counters().unwrap();
    assert_eq!(counters.packets.count(Count::SessionsOpenedTcp), 8);
    assert_eq!(counters.packets.count(Count::SessionsOpenedUdp), 1);
    assert_eq!(counters.packets.dropped_packets(), 0, "{:?}", counters.packets);
    // Each of them was put down for its homes: a TCP session at the beginning, when its backend had answered and
    // when it was established; to a datagram the answer is both.
    let mut opened = 0;
    assert!(!director.take_young(1_000, |slot| {
        opened += 1;
        assert!(slot.index() < 9);
    }));
    assert_eq!(opened, 8 * 3 + 2);
    assert_eq!(counters.by_worker.len(), usize::from(workers));
    if workers > 1 {
        let all = |w: &holdfast_director::core::Counters| w.count(Count::ReceivedPackets) > 0;
        assert!(counters.by_worker.iter().all(all), "both queues have had traffic");
    }
    assert_eq!(director.sessions().sessions(), 9);
    assert_eq!(director.failure(), None);
    director.stop();
}

#[test]
fn tcp_and_udp_through_one_worker() {
    if privileged() {
        serves(1);
    }
}

#[test]
fn tcp_and_udp_through_two_workers() {
    if privileged() {
        serves(2);
    }
}

#[test]
fn a_question_goes_out_and_its_answer_resets_or_releases() {
    if !privileged() {
        return;
    }
    // Two directors in turn on one link: the second knows nothing of what the first one opened.
    let link = link(1);
    let server = link.peer.run(|| TcpListener::bind((PEER, 0)).unwrap());
    let tables = ready_tables(&[server.local_addr().unwrap()]);
    let first = start(&link, 1, tables.clone());
    let mut client = link.peer.run(|| TcpStream::connect(VIP).unwrap());
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut accepted = server.accept().unwrap().0;
    accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.write_all(b"one").unwrap();
    let mut heard = [0; 3];
    accepted.read_exact(&mut heard).unwrap();
    let old = first.sessions().clone();
    first.stop();

    let second = start(&link, 1, tables);
    client.write_all(b"two").unwrap();
    let (worker, question) = asked(&second);
    assert_eq!(question.kind, MissKind::Tcp);
    let mut record = None;
    old.for_each(0, |r, _| record = (r.key == question.key).then(|| r.clone()));
    let record = record.expect("the first director's record");
    assert!(second.answer(worker, MissAnswer::Found { id: question.id, record }));
    accepted.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"two");
    // Both directions go on.
    accepted.write_all(b"six").unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"six");

    // A session that everybody denies is reset when its client tries again, and they still do.
    second.stop();
    let third = start(&link, 1, ready_tables(&[server.local_addr().unwrap()]));
    client.write_all(b"end").unwrap();
    let reading = std::thread::spawn(move || client.read(&mut [0; 3]).unwrap_err().kind());
    // (A question is repeated after some milliseconds, whether its answer is on the way or not.)
    wait_for("the reset", || {
        third.take_questions(1, |worker, question| {
            assert!(third.answer(worker, MissAnswer::NoWithAuthority { id: question.id }));
        });
        reading.is_finished()
    });
    assert_eq!(reading.join().unwrap(), std::io::ErrorKind::ConnectionReset);
    assert!(third.counters().unwrap().packets.dropped(DropReason::DeniedOnce) > 0);
    assert!(!third.answer(WorkerId(7), MissAnswer::DontKnow { id: 0 }), "no such worker");
    assert_eq!(third.counters().unwrap().answers_refused, 1);
    accounted(&third);
}

#[test]
fn new_tables_change_what_is_steered_and_served() {
    if !privileged() {
        return;
    }
    let link = link(1);
    let server = link.peer.run(|| UdpSocket::bind((PEER, 0)).unwrap());
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let backend = server.local_addr().unwrap();
    let director = start(&link, 1, ready_tables(&[]));
    let client = link.peer.run(|| UdpSocket::bind((PEER, 0)).unwrap());
    client.send_to(b"x", VIP).unwrap();
    wait_for("the drop for want of a backend", || {
        director.counters().unwrap().packets.dropped(DropReason::NoBackend) == 1
    });
    director.install(ready_tables(&[backend])).unwrap();
    client.send_to(b"y", VIP).unwrap();
    let mut buffer = [0; 9];
    assert_eq!(server.recv_from(&mut buffer).unwrap().0, 1);
    assert_eq!(buffer[0], b'y');
    // The backend goes, and its session with it.
    assert_eq!(director.sessions().sessions(), 1);
    let mut without = cluster(VIP.parse().unwrap(), &lips(), &[]);
    without.next.backend = 1;
    director.install(tables(&without, DIRECTOR_MAC, PEER_MAC)).unwrap();
    assert_eq!(director.sessions().sessions(), 0);
    // The VIP goes: its packets are the kernel's again.
    let other = cluster("203.0.113.11:80".parse().unwrap(), &lips(), &[backend]);
    director.install(tables(&other, DIRECTOR_MAC, PEER_MAC)).unwrap();
    let passed = director.counters().unwrap().steer.passed;
    client.send_to(b"z", VIP).unwrap();
    wait_for("the packet to be passed on", || director.counters().unwrap().steer.passed > passed);
    accounted(&director);
}
