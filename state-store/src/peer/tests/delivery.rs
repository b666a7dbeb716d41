//! Messages, requests and heartbeats between directors that are members.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_in_order_on_both_lanes() {
    let (_paper, nodes) = connected(3).await;
    for n in 0..1_000u32 {
        let lane = if n % 3 == 0 { Lane::Control } else { Lane::Log };
        // Now and then one that does not fit into a packet.
        let mut message = n.to_be_bytes().to_vec();
        message.resize(if n % 100 == 0 { 100_000 } else { 20 }, 7);
        nodes[0].network.send(id(2), lane, message.into());
        nodes[2].network.send(id(2), lane, n.to_be_bytes().to_vec().into());
    }
    let got = &nodes[1].recorder.messages;
    until("2000 messages", || got.lock().len() == 2_000).await;
    let got = got.lock();
    for from in [1, 3] {
        for (lane, expected) in [(Lane::Control, 334), (Lane::Log, 666)] {
            let of_lane: Vec<u32> = got
                .iter()
                .filter(|(f, l, _)| *f == id(from) && *l == lane)
                .map(|(_, _, m)| u32::from_be_bytes(*m.first_chunk().unwrap()))
                .collect();
            assert_eq!(of_lane.len(), expected);
            assert!(of_lane.is_sorted());
        }
    }
    let metrics = nodes[0].network.metrics();
    let out: u64 = metrics.lanes().map(|(_, l)| l.messages_out.load(Ordering::Relaxed)).sum();
    assert_eq!(out, 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_and_know_who_asks() {
    let (_paper, nodes) = connected(2).await;
    let ask = |node: usize, to: u32, lane, text: &'static str| {
        nodes[node].network.request(id(to), lane, Bytes::from_static(text.as_bytes()), PATIENCE)
    };
    assert_eq!(ask(0, 2, Lane::Control, "hello").await.unwrap(), "re 1: hello");
    assert_eq!(ask(1, 1, Lane::Log, "").await.unwrap(), "re 2: ");
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let answer = nodes[0].network.request(id(2), Lane::Log, large.clone(), PATIENCE).await.unwrap();
    assert_eq!(answer.len(), large.len() + "re 1: ".len());
    // Many at once.
    let many = (0..200).map(|_| ask(0, 2, Lane::Control, "x"));
    let answers = futures_util::future::join_all(many).await;
    assert!(answers.iter().all(|a| a.as_ref().is_ok_and(|a| a == "re 1: x")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_at_its_deadline_or_says_why_not_at_all() {
    let (paper, nodes) = connected(2).await;
    let network = &nodes[0].network;
    let deadline = Duration::from_millis(100);
    let error = network.request(id(2), Lane::Control, "never".into(), deadline).await.unwrap_err();
    let known = matches!(error, NetError::Timeout { .. } | NetError::Refused { .. });
    assert!(known, "{error}");
    let error = network.request(id(9), Lane::Control, "x".into(), deadline).await.unwrap_err();
    assert!(matches!(error, NetError::UnknownPeer(_)), "{error}");
    let huge = Bytes::from(vec![0; (16 << 20) + 1]);
    let error = network.request(id(2), Lane::Log, huge.clone(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, NetError::TooLarge { .. }), "{error}");
    network.send(id(2), Lane::Log, huge);
    network.send(id(9), Lane::Log, "x".into());
    let metrics = network.metrics();
    let log = metrics.lanes().find(|(name, _)| *name == "log").unwrap().1;
    assert_eq!(log.dropped_unsendable.load(Ordering::Relaxed), 2);

    // A member that is not there.
    let mut away = nodes[1].info.clone();
    (away.id, away.address) = (id(3), (Ipv4Addr::LOCALHOST, 9).into());
    away.key_fingerprint = paper.identity(3).fingerprint();
    network.set_members(&[nodes[1].info.clone(), away]);
    let error = network.request(id(3), Lane::Control, "x".into(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, NetError::NotConnected { .. }), "{error}");
    // The other one was not disturbed by that.
    assert!(nodes[0].connected_to(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_drops_its_oldest_and_counts() {
    let paper = Paper::new();
    let node = Node::start_with(paper.identity(1), LOOPBACK, Recorder::new(), |config| {
        config.limits.log_queue = QueueLimits { messages: 10, bytes: 1_000 };
    });
    // Its port is known, but it does not answer yet.
    let port = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let address = port.local_addr().unwrap();
    let identity = paper.identity(2);
    let later = PeerInfo {
        id: id(2),
        name: "d2".to_owned(),
        address,
        key_fingerprint: identity.fingerprint(),
        incarnation: 1,
        down: false,
    };
    node.network.set_members(&[node.info.clone(), later]);
    for n in 0..15u8 {
        node.network.send(id(2), Lane::Log, vec![n].into());
    }
    let metrics = node.network.metrics();
    let log = metrics.lanes().find(|(name, _)| *name == "log").unwrap().1;
    assert_eq!(log.dropped_full.load(Ordering::Relaxed), 5);
    drop(port);
    let other = Node::start_with(identity, address, Recorder::new(), |_| {});
    introduce(&[&node, &other]);
    all_connected(&[&node, &other]).await;
    // What has waited too long meanwhile went as well; the rest is the end of it, in order.
    node.network.send(id(2), Lane::Log, vec![15].into());
    let got = &other.recorder.messages;
    until("the last", || got.lock().iter().any(|(_, _, m)| m[0] == 15)).await;
    // (And one more for the 16th, if the log connection came later than the control connection.)
    let full = log.dropped_full.load(Ordering::Relaxed);
    let stale = log.dropped_stale.load(Ordering::Relaxed);
    let firsts: Vec<u8> = got.lock().iter().map(|(_, _, m)| m[0]).collect();
    let expected: Vec<u8> = ((full + stale) as u8..=15).collect();
    assert!((5..=6).contains(&full));
    assert_eq!(firsts, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_carry_payload_and_incarnation() {
    let (_paper, nodes) = connected(2).await;
    nodes[0].network.set_heartbeat_payload("first".into()).unwrap();
    nodes[0].network.set_incarnation(4);
    let got = &nodes[1].recorder.heartbeats;
    let first = (id(1), 4, Bytes::from("first"));
    until("a heartbeat", || got.lock().contains(&first)).await;
    let long = Bytes::from(vec![1; 40_000]);
    nodes[0].network.set_heartbeat_payload(long.clone()).unwrap();
    until("a long heartbeat", || got.lock().contains(&(id(1), 4, long.clone()))).await;
    assert!(nodes[0].network.set_heartbeat_payload(vec![0; 70_000].into()).is_err());
    let seen = &nodes[1].network.liveness()[0];
    assert_eq!((seen.id, seen.incarnation, seen.connected), (id(1), 4, true));
    assert!(seen.heard_ms_ago.unwrap() < 1_000 && seen.rtt_us.unwrap() > 0, "{seen:?}");
}
