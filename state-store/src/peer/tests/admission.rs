//! Who is let in and who is not, and that everybody is told why.

use std::sync::atomic::Ordering;

use super::*;
use crate::peer::tls;
use crate::peer::wire::{ALPN_PEER, kind};
use crate::pki::director_name;

/// Two nodes that know `first` and `second` as members 1 and 2; the second is whoever it is.
fn pair(first: Identity, second: Identity) -> (Node, Node) {
    (Node::start(first), Node::start(second))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused_by_both_sides() {
    let paper = Paper::new();
    // Same cluster id, same director, and even pinned: only the signature is somebody else's.
    let forged = Paper::of(paper.authority.cluster());
    let (honest, forger) = pair(paper.identity(1), forged.identity(2));
    introduce(&[&honest, &forger]);
    // Both dial; both refuse the other's certificate as dialer, before they show their own.
    until("refusals", || {
        honest.failures(HandshakeFailure::Certificate) > 0
            && forger.failures(HandshakeFailure::Certificate) > 0
    })
    .await;
    until("the words", || honest.error_to(2).contains("another authority")).await;
    assert!(!honest.connected_to(2) && !forger.connected_to(1));

    // A forger who does not care whom it talks to gets as far as showing its certificate.
    let alerted = honest.failures(HandshakeFailure::Certificate);
    let careless = careless(Some(&forged.identity(2)), &paper);
    let connection = dial(&careless, &honest, &paper).await;
    let reason = connection.closed().await;
    let text = crate::peer::error::describe(&reason);
    assert!(text.contains("another authority"), "{text}");
    until("the refusal to be counted", || honest.failures(HandshakeFailure::Certificate) > alerted)
        .await;
    assert_eq!(honest.network.metrics().accepted.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_pinned_is_refused_by_both_sides() {
    let paper = Paper::new();
    let (honest, other) = pair(paper.identity(1), paper.identity(2));
    // The list has another key for the second, although its certificate is good.
    let mut listed = other.info.clone();
    listed.key_fingerprint = paper.identity(2).fingerprint();
    honest.network.set_members(&[honest.info.clone(), listed]);
    other.network.set_members(&[honest.info.clone(), other.info.clone()]);
    // Counted twice over: as dialer (its certificate) and as acceptor (the one it shows).
    until("refusals", || honest.failures(HandshakeFailure::KeyNotPinned) >= 4).await;
    until("the refused to know", || other.error_to(1).contains("pinned")).await;
    until("the words", || honest.error_to(2).contains("not the one pinned for d2")).await;
    until("the count", || other.failures(HandshakeFailure::Refused) > 0).await;
    assert!(!honest.connected_to(2) && !other.connected_to(1));
    // Corrected, it works.
    introduce(&[&honest, &other]);
    all_connected(&[&honest, &other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_is_refused_until_it_is_one() {
    let paper = Paper::new();
    let (first, second) = pair(paper.identity(1), paper.identity(2));
    second.network.set_members(&[first.info.clone(), second.info.clone()]);
    until("refusals", || first.failures(HandshakeFailure::NotAMember) > 0).await;
    until("the refused to know", || second.error_to(1).contains("member list")).await;
    introduce(&[&first, &second]);
    all_connected(&[&first, &second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_cluster_or_director_is_refused() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let member = paper.identity(2);
    let mut info = node.info.clone();
    (info.id, info.key_fingerprint) = (id(2), member.fingerprint());
    node.network.set_members(&[node.info.clone(), info]);
    // Signed by the same authority, for a cluster that it is not the authority of.
    let ca = (paper.authority.certificate_pem(), paper.authority.key_pem());
    let foreign = Authority::load(ca.0, &ca.1, ClusterId::random()).unwrap();
    let foreign = careless(Some(&Paper { authority: foreign }.identity(2)), &paper);
    let connection = dial(&foreign, &node, &paper).await;
    let reason = connection.closed().await.to_string();
    assert!(reason.contains("cluster"), "{reason}");
    until("the count", || node.failures(HandshakeFailure::WrongName) == 1).await;
    // A member that says hello as somebody else.
    let liar = careless(Some(&member), &paper);
    let connection = dial(&liar, &node, &paper).await;
    let hello = wire::Hello { director: id(3), purpose: wire::Purpose::Control };
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[kind::HELLO]).await.unwrap();
    send.write_all(&hello.encode()).await.unwrap();
    send.finish().unwrap();
    let reason = connection.closed().await.to_string();
    assert!(reason.contains("another director"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_there_is_nothing_but_joining() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let endpoint = careless(None, &paper);
    // TLS itself succeeds: the refusal comes after it.
    let connection = dial(&endpoint, &node, &paper).await;
    let reason = connection.closed().await.to_string();
    assert!(reason.contains("no certificate"), "{reason}");
    until("the count", || node.failures(HandshakeFailure::NoCertificate) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_talks_nonsense_is_cut_off() {
    let paper = Paper::new();
    let node = Node::start(paper.identity(1));
    let member = paper.identity(2);
    let mut info = node.info.clone();
    (info.id, info.key_fingerprint) = (id(2), member.fingerprint());
    node.network.set_members(&[node.info.clone(), info]);
    let endpoint = careless(Some(&member), &paper);
    let say_hello = async || {
        let connection = dial(&endpoint, &node, &paper).await;
        let hello = wire::Hello { director: id(2), purpose: wire::Purpose::Log };
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&[&[kind::HELLO], hello.encode().as_slice()].concat()).await.unwrap();
        send.finish().unwrap();
        recv.read_to_end(100).await.unwrap();
        connection
    };
    // A message above the limit, a stream of an unknown kind, a heartbeat on the wrong lane.
    for bytes in [
        [&[kind::MESSAGES], u32::MAX.to_be_bytes().as_slice()].concat(),
        vec![77],
        vec![kind::HEARTBEAT, 0],
    ] {
        let connection = say_hello().await;
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let reason = connection.closed().await.to_string();
        assert!(reason.contains("closed by peer"), "{bytes:?}: {reason}");
    }
    // A request that was cut off is not handed on.
    let connection = say_hello().await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[kind::REQUEST, 0, 0, 99, 0, 0, 0, 0, 9, b'x']).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(1_000).await.unwrap();
    assert_eq!(answer[0], wire::status::ERROR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_cut_off_at_once() {
    let (_paper, nodes) = connected(3).await;
    until("accepted connections", || {
        nodes[0].network.metrics().accepted.load(Ordering::Relaxed) >= 4
    })
    .await;
    let left: Vec<PeerInfo> = nodes[..2].iter().map(|n| n.info.clone()).collect();
    nodes[0].network.set_members(&left);
    assert!(nodes[0].network.metrics().revoked.load(Ordering::Relaxed) >= 2);
    assert!(!nodes[0].connected_to(3));
    // The removed one is told, and stays out.
    until("the removed to know", || !nodes[2].connected_to(1)).await;
    until("it to be refused", || nodes[2].error_to(1).contains("member list")).await;
    let before = nodes[0].recorder.messages.lock().len();
    nodes[2].network.send(id(1), Lane::Control, "still there?".into());
    nodes[1].network.send(id(1), Lane::Control, "I am".into());
    until("the other's message", || nodes[0].recorder.messages.lock().len() > before).await;
    assert!(nodes[0].recorder.messages.lock().iter().all(|(from, ..)| *from != id(3)));
    // Between the others nothing has changed.
    assert!(nodes[0].connected_to(2) && nodes[1].connected_to(3));
}

/// An endpoint that shows this certificate, or none, and trusts the cluster of `trusted`.
fn careless(identity: Option<&Identity>, trusted: &Paper) -> quinn::Endpoint {
    let probe = trusted.identity(99);
    let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(probe.roots().unwrap());
    let mut client = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![ALPN_PEER.to_vec()];
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    let mut endpoint = quinn::Endpoint::client(LOOPBACK).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
    endpoint
}

async fn dial(endpoint: &quinn::Endpoint, to: &Node, paper: &Paper) -> quinn::Connection {
    let name = director_name(to.info.id, paper.authority.cluster());
    endpoint.connect(to.info.address, &name).unwrap().await.unwrap()
}
