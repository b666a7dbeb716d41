//! The door for those who have a token and no certificate yet.

use std::sync::atomic::Ordering;

use super::*;
use crate::pki::JoinToken;

fn token(paper: &Paper, addresses: &[SocketAddr]) -> JoinToken {
    let authority = &paper.authority;
    let addresses = addresses.iter().copied();
    JoinToken::new(authority.cluster(), authority.fingerprint(), "d9", addresses).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_is_answered_by_the_right_cluster() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let token = token(&paper, &[node.info.address]);
    let request = Bytes::from(vec![b'r'; 5_000]);
    let answer = join(&token, request.clone(), PATIENCE).await.unwrap();
    assert_eq!(answer, [b"welcome ".as_slice(), &request].concat());
    assert_eq!(*node.recorder.joins.lock(), [request]);
    assert_eq!(node.network.metrics().joins.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_decides_which_cluster_is_believed() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let good = token(&paper, &[node.info.address]);
    let try_token = async |token: &JoinToken| {
        join(token, "secret".into(), PATIENCE).await.unwrap_err().to_string()
    };
    // Another authority; the same authority under another cluster id.
    let mut wrong = good.clone();
    wrong.authority[0] ^= 1;
    let error = try_token(&wrong).await;
    assert!(error.contains("another authority"), "{error}");
    assert!(error.contains(&node.info.address.to_string()), "{error}");
    let mut wrong = good.clone();
    wrong.cluster = ClusterId::random();
    let error = try_token(&wrong).await;
    assert!(error.contains("certificate"), "{error}");
    // Somebody who presents the right authority's certificate without being certified by it.
    let forged = Paper::of(paper.authority.cluster());
    let key = DirectorKey::generate().unwrap();
    let issued = forged.authority.sign(&key.request().unwrap(), id(1), SystemTime::now()).unwrap();
    let end = issued.chain_pem.find("-----END CERTIFICATE-----").unwrap() + 26;
    let chain = format!("{}{}", &issued.chain_pem[..end], paper.authority.certificate_pem());
    let impostor = Node::start(Identity::new(&key, &chain).unwrap());
    let mut wrong = good.clone();
    wrong.addresses = vec![impostor.info.address];
    let error = try_token(&wrong).await;
    assert!(error.contains("certificate"), "{error}");
    // The secret was never shown to any of them.
    assert!(node.recorder.joins.lock().is_empty() && impostor.recorder.joins.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_address_is_tried_and_all_failures_are_told() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    // Bound, but nobody answers.
    let silent = std::net::UdpSocket::bind(LOOPBACK).unwrap();
    let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
    let strange = Node::start(Paper::new().identity(1));
    let addresses = [silent.1, strange.info.address, node.info.address];
    let answer = join(&token(&paper, &addresses), "r".into(), PATIENCE).await.unwrap();
    assert_eq!(answer, "welcome r");
    let error = join(&token(&paper, &addresses[..2]), "r".into(), PATIENCE).await.unwrap_err();
    let JoinError::Unreachable(failures) = &error else { panic!("{error}") };
    let failed: Vec<SocketAddr> = failures.iter().map(|(address, _)| *address).collect();
    assert_eq!(failed, addresses[..2]);
    let error = join(&token(&paper, &addresses), vec![0; 70_000].into(), PATIENCE).await;
    assert!(matches!(error, Err(JoinError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_are_limited_in_rate() {
    let paper = Paper::new();
    let node = Node::start_with(paper.identity(1), LOOPBACK, Recorder::new(), |config| {
        config.limits.joins_per_s = 1;
    });
    let token = token(&paper, &[node.info.address]);
    assert!(join(&token, "r".into(), PATIENCE).await.is_ok());
    let error = join(&token, "r".into(), PATIENCE).await.unwrap_err().to_string();
    assert!(error.contains("try again"), "{error}");
    assert!(node.failures(HandshakeFailure::Busy) > 0);
    // And again a moment later.
    let since = Instant::now();
    while join(&token, "r".into(), PATIENCE).await.is_err() {
        assert!(since.elapsed() < PATIENCE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_can_do_nothing_else() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let mut endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    let authority = &paper.authority;
    let config = tls::joiner(authority.cluster(), authority.fingerprint()).unwrap();
    endpoint.set_default_client_config(config);
    let name = crate::pki::director_name(id(1), authority.cluster());
    let connection = endpoint.connect(node.info.address, &name).unwrap().await.unwrap();
    // A hello of a member is nothing but a join request here; the handler judges it.
    let hello = wire::Hello { director: id(1), purpose: wire::Purpose::Log };
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[&[wire::kind::HELLO], hello.encode().as_slice()].concat()).await.unwrap();
    send.finish().unwrap();
    assert!(recv.read_to_end(1_000).await.unwrap().starts_with(b"welcome"));
    assert_eq!(node.network.metrics().accepted.load(Ordering::Relaxed), 0);
    // A request above the limit is refused before it is taken in.
    let connection = endpoint.connect(node.info.address, &name).unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let _ = send.write_all(&vec![0; 200_000]).await;
    let _ = send.finish();
    let reason = connection.closed().await.to_string();
    assert!(reason.contains("sensible size"), "{reason}");
    assert_eq!(node.recorder.joins.lock().len(), 1);
}
