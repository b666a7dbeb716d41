//! Coming, going and coming back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::liveness::Verdict;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_reconnect_after_a_restart_on_the_same_port() {
    let paper = Paper::new();
    let first = Node::start(paper.identity(1));
    let key = DirectorKey::generate().unwrap();
    let issued = paper.authority.sign(&key.request().unwrap(), id(2), SystemTime::now()).unwrap();
    let identity = || Identity::new(&key, &issued.chain_pem).unwrap();
    let second = Node::start(identity());
    introduce(&[&first, &second]);
    all_connected(&[&first, &second]).await;
    let address = second.info.address;
    second.network.shutdown().await;
    until("the loss to be seen", || !first.connected_to(2)).await;
    let again = Node::start_with(identity(), address, Recorder::new(), |config| {
        config.incarnation = 2;
    });
    introduce(&[&first, &again]);
    all_connected(&[&first, &again]).await;
    until("heartbeats of the second life", || {
        first.recorder.heartbeats.lock().iter().any(|(from, inc, _)| (*from, *inc) == (id(2), 2))
    })
    .await;
    first.network.send(id(2), Lane::Log, "welcome back".into());
    until("a message", || !again.recorder.messages.lock().is_empty()).await;
    assert!(first.network.metrics().reconnects.load(Ordering::Relaxed) > 0);
}

/// A peer that vanishes without a farewell and is back at once: its first packet to us, or the
/// reset that it answers ours with, ends the old connection, not the idle timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_and_a_quick_return_are_noticed_by_reset() {
    let paper = Paper::new();
    let first = Node::start(paper.identity(1));
    let key = DirectorKey::generate().unwrap();
    let issued = paper.authority.sign(&key.request().unwrap(), id(2), SystemTime::now()).unwrap();
    let identity = Identity::new(&key, &issued.chain_pem).unwrap();
    // The "crash": an endpoint whose answers stop and whose port is taken over by another one with
    // the same identity, without any close in between.
    let port = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let address = port.local_addr().unwrap();
    let server = tls::Tls::new(&identity).unwrap().server;
    let info = PeerInfo {
        id: id(2),
        name: "d2".to_owned(),
        address,
        key_fingerprint: identity.fingerprint(),
        incarnation: 1,
        down: false,
    };
    first.network.set_members(&[first.info.clone(), info]);
    let dying =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let endpoint = dying.block_on_inside(|| {
        quinn::Endpoint::new(
            tls::endpoint(&identity),
            Some(server),
            port,
            Arc::new(quinn::TokioRuntime),
        )
        .unwrap()
    });
    // Answers hellos, and nothing else.
    dying.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await.unwrap();
                let (mut send, mut recv) = connection.accept_bi().await.unwrap();
                let hello = recv.read_to_end(100).await.unwrap();
                let hello = wire::Hello::decode(&hello[1..]).unwrap();
                let welcome = wire::Hello { director: id(2), purpose: hello.purpose };
                send.write_all(&welcome.encode()).await.unwrap();
                send.finish().unwrap();
                connection.closed().await;
            });
        }
    });
    until("the connection", || first.connected_to(2)).await;
    dying.shutdown_background();
    // The runtime drops the socket when its tasks have gone.
    let since = Instant::now();
    let again = loop {
        let config = NetworkConfig::new(address, Identity::new(&key, &issued.chain_pem).unwrap());
        match Network::bind(config, Arc::new(Ears(Recorder::new()))) {
            Ok(network) => break network,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut watch = Vec::new();
    until("the reset", || {
        watch.push(first.error_to(2));
        again.metrics().accepted.load(Ordering::Relaxed) > 0
            || watch.iter().any(|error| error.contains("restarted"))
    })
    .await;
    assert!(watch.iter().any(|error| error.contains("restarted")), "{watch:?}");
}

trait BlockOnInside {
    fn block_on_inside<T>(&self, what: impl FnOnce() -> T) -> T;
}

impl BlockOnInside for tokio::runtime::Runtime {
    fn block_on_inside<T>(&self, what: impl FnOnce() -> T) -> T {
        let _inside = self.enter();
        what()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_director_is_judged_down_by_the_others_and_up_when_it_returns() {
    let paper = Paper::new();
    let first = Node::start(paper.identity(1));
    let second = Node::start(paper.identity(2));
    let key = DirectorKey::generate().unwrap();
    let issued = paper.authority.sign(&key.request().unwrap(), id(3), SystemTime::now()).unwrap();
    let identity = || Identity::new(&key, &issued.chain_pem).unwrap();
    let third = Node::start(identity());
    introduce(&[&first, &second, &third]);
    all_connected(&[&first, &second, &third]).await;
    until("all heartbeats", || {
        first.heard_from(2) > 2 && first.heard_from(3) > 2 && second.heard_from(3) > 2
    })
    .await;
    assert_eq!(first.network.judge(), []);
    let address = third.info.address;
    let since = Instant::now();
    third.network.shutdown().await;
    let mut judgements = Vec::new();
    until("a judgement", || {
        judgements.extend(first.network.judge());
        !judgements.is_empty()
    })
    .await;
    assert!(since.elapsed() > Duration::from_millis(800), "{:?}", since.elapsed());
    assert_eq!((judgements[0].director, judgements[0].verdict), (id(3), Verdict::Down));
    let mut down = third.info.clone();
    down.down = true;
    let members = [first.info.clone(), second.info.clone(), down.clone()];
    [&first, &second].iter().for_each(|node| node.network.set_members(&members));
    assert_eq!(first.network.judge(), []);

    let again = Node::start_with(identity(), address, Recorder::new(), |_| {});
    again.network.set_members(&members);
    let mut judgements = Vec::new();
    until("a second judgement", || {
        judgements.extend(first.network.judge());
        !judgements.is_empty()
    })
    .await;
    assert_eq!((judgements[0].director, judgements[0].verdict), (id(3), Verdict::Up));
}

/// Blocks its whole runtime when it is told to.
struct Blocker {
    blocked: AtomicBool,
    released: Mutex<bool>,
    release: parking_lot::Condvar,
}

impl Inbound for Arc<Blocker> {
    fn message(&self, _from: DirectorId, _lane: Lane, _message: Bytes) {
        self.blocked.store(true, Ordering::SeqCst);
        let mut released = self.released.lock();
        while !*released {
            self.release.wait(&mut released);
        }
    }

    fn request(&self, _from: DirectorId, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move { request }.boxed()
    }

    fn snapshot(
        &self,
        _from: DirectorId,
        _header: Bytes,
        _reader: SnapshotReader,
    ) -> BoxFuture<'static, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn join(&self, _from: SocketAddr, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move { request }.boxed()
    }

    fn heartbeat(&self, _from: DirectorId, _incarnation: u64, _payload: Bytes) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_director_whose_daemon_hangs_in_a_call_still_lives() {
    let paper = Paper::new();
    let first = Node::start(paper.identity(1));
    let identity = paper.identity(2);
    let fingerprint = identity.fingerprint();
    let hanging =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let blocker = Arc::new(Blocker {
        blocked: AtomicBool::new(false),
        released: Mutex::new(false),
        release: parking_lot::Condvar::new(),
    });
    let second = {
        let _inside = hanging.enter();
        let mut config = NetworkConfig::new(LOOPBACK, identity);
        config.incarnation = 1;
        Network::bind(config, Arc::new(blocker.clone())).unwrap()
    };
    let info = PeerInfo {
        id: id(2),
        name: "d2".to_owned(),
        address: second.local_addr().unwrap(),
        key_fingerprint: fingerprint,
        incarnation: 1,
        down: false,
    };
    let members = [first.info.clone(), info];
    first.network.set_members(&members);
    second.set_members(&members);
    until("both connections", || first.connected_to(2) && second.liveness()[0].connected).await;
    first.network.send(id(2), Lane::Log, "hang".into());
    until("the hang", || blocker.blocked.load(Ordering::SeqCst)).await;
    let before = first.heard_from(2);
    // Fifteen more heartbeats are more than it takes to be declared down.
    until("heartbeats", || first.heard_from(2) >= before + 15).await;
    assert_eq!(first.network.judge(), []);
    *blocker.released.lock() = true;
    blocker.release.notify_all();
    second.shutdown().await;
    hanging.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_after_a_shutdown_and_after_a_drop() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let address = node.info.address;
    node.network.shutdown().await;
    let again = Node::start_with(paper.identity(1), address, Recorder::new(), |_| {});
    assert_eq!(again.info.address, address);
    drop(again);
    until("the port", || std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let config = NetworkConfig::new(taken.local_addr().unwrap(), Paper::new().identity(1));
    let error = Network::bind(config, Arc::new(Ears(Recorder::new()))).unwrap_err().to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_used_for_new_connections() {
    let paper = Paper::new();
    let key = DirectorKey::generate().unwrap();
    let sign = |now| paper.authority.sign(&key.request().unwrap(), id(1), now).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    // Issued long ago: expired by now.
    let old = Identity::new(&key, &sign(SystemTime::now() - 100 * day).chain_pem).unwrap();
    let new = Identity::new(&key, &sign(SystemTime::now()).chain_pem).unwrap();
    let (first, second) = (Node::start(old), Node::start(paper.identity(2)));
    introduce(&[&first, &second]);
    until("refusals", || second.failures(HandshakeFailure::Certificate) > 0).await;
    until("the words", || second.error_to(1).contains("expired")).await;
    assert!(first.network.set_identity(&paper.identity(3)).is_err());
    first.network.set_identity(&new).unwrap();
    all_connected(&[&first, &second]).await;
}
