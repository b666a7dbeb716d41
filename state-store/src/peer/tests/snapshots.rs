//! Snapshots: whole or an error, on both sides; and at their rate.

use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};

use super::*;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// Chunks of this size.
fn cut(
    bytes: &[u8],
    size: usize,
) -> impl futures_util::Stream<Item = Result<Bytes, String>> + Send + use<> {
    let pieces: Vec<_> = bytes.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    stream::iter(pieces)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_arrive_whole() {
    let (_paper, nodes) = connected(2).await;
    let bytes = pattern(5 << 20);
    // Small chunks, and one that has to be cut.
    for size in [10_000, 5 << 20] {
        let sent = nodes[0].network.send_snapshot(id(2), "shard 7".into(), cut(&bytes, size));
        sent.await.unwrap();
        let (from, header, got) = nodes[1].recorder.snapshots.lock().pop().unwrap();
        assert_eq!((from, header), (id(1), Bytes::from("shard 7")));
        assert!(got.unwrap() == bytes);
    }
    nodes[0].network.send_snapshot(id(2), Bytes::new(), cut(&[], 1)).await.unwrap();
    let (_, header, got) = nodes[1].recorder.snapshots.lock().pop().unwrap();
    assert_eq!((header, got.unwrap()), (Bytes::new(), Vec::new()));
    let metrics = nodes[1].network.metrics();
    assert_eq!(metrics.snapshots_in.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_snapshots_at_once_take_turns() {
    let (_paper, nodes) = connected(2).await;
    let send = |n: usize| {
        let header = Bytes::from(vec![n as u8]);
        nodes[0].network.send_snapshot(id(2), header, cut(&pattern(100_000 + n), 9_999))
    };
    let results = futures_util::future::join_all((0..20).map(send)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let mut got: Vec<(u8, usize)> = nodes[1]
        .recorder
        .snapshots
        .lock()
        .iter()
        .map(|(_, header, bytes)| (header[0], bytes.as_ref().unwrap().len()))
        .collect();
    got.sort();
    let expected: Vec<(u8, usize)> = (0..20).map(|n| (n as u8, 100_000 + n)).collect();
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_fails_is_never_taken_for_the_end() {
    let (_paper, nodes) = connected(2).await;
    // It fails when the receiver is in the middle of it.
    let metrics = nodes[1].network.metrics();
    let failure = stream::once(async move {
        let lane = metrics.lanes().find(|(name, _)| *name == "snapshot").unwrap().1;
        until("a chunk", || lane.messages_in.load(Ordering::Relaxed) > 0).await;
        Err("disk is gone".to_owned())
    });
    let chunks = cut(&pattern(50_000), 10_000).chain(failure);
    let error = nodes[0].network.send_snapshot(id(2), "h".into(), chunks).await.unwrap_err();
    assert!(matches!(&error, NetError::Source(cause) if cause == "disk is gone"), "{error}");
    until("the receiver to notice", || !nodes[1].recorder.snapshots.lock().is_empty()).await;
    let (_, _, got) = nodes[1].recorder.snapshots.lock().pop().unwrap();
    assert!(got.is_err());
    assert_eq!(nodes[0].network.metrics().snapshots_failed.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_back_in_words() {
    let paper = Paper::new();
    let sender = Node::start(paper.identity(1));
    let refuser = Recorder::with(OnSnapshot::Refuse);
    let refuser = Node::start_with(paper.identity(2), LOOPBACK, refuser, |_| {});
    introduce(&[&sender, &refuser]);
    // Small, so that all is sent before the refusal; and large, so that it is refused halfway.
    for length in [10, 30 << 20] {
        let chunks = cut(&pattern(length), 100_000);
        let error = sender.network.send_snapshot(id(2), "h".into(), chunks).await.unwrap_err();
        let words = matches!(&error, NetError::Refused { cause, .. } if cause == "no room for it");
        assert!(words, "{length}: {error}");
    }
    let error = sender.network.send_snapshot(id(5), "h".into(), cut(&[], 1)).await.unwrap_err();
    assert!(matches!(error, NetError::UnknownPeer(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_ends_a_snapshot_on_both_sides() {
    let (_paper, nodes) = connected(2).await;
    // A source that never ends.
    let endless = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Some((Ok(Bytes::from_static(&[0; 1_000])), ()))
    });
    let sending = {
        let network = nodes[0].network.clone();
        tokio::spawn(async move { network.send_snapshot(id(2), "h".into(), endless).await })
    };
    let metrics = nodes[1].network.metrics();
    let lane = metrics.lanes().find(|(name, _)| *name == "snapshot").unwrap().1;
    until("chunks", || lane.messages_in.load(Ordering::Relaxed) > 3).await;
    nodes[0].network.set_members(&[nodes[0].info.clone()]);
    let sent = tokio::time::timeout(PATIENCE, sending).await;
    let error = sent.expect("the removal ends it").unwrap().unwrap_err();
    assert!(matches!(error, NetError::Broken { .. }), "{error}");
    until("the receiver to notice", || !nodes[1].recorder.snapshots.lock().is_empty()).await;
    assert!(nodes[1].recorder.snapshots.lock()[0].2.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept() {
    let paper = Paper::new();
    let sender = Node::start_with(paper.identity(1), LOOPBACK, Recorder::new(), |config| {
        config.limits.snapshot_bytes_per_s = 4_000_000;
    });
    let receiver = Node::start(paper.identity(2));
    introduce(&[&sender, &receiver]);
    let since = Instant::now();
    let chunks = cut(&pattern(2_000_000), 50_000);
    sender.network.send_snapshot(id(2), "h".into(), chunks).await.unwrap();
    // 2 MB at 4 MB/s, less the burst of 0.1 s.
    assert!(since.elapsed() > Duration::from_millis(380), "{:?}", since.elapsed());
}
