//! Session changes a second through three replicas in one process.
//!
//! Three real stores: raft-rs, RocksDB in temporary directories, the byte formats of the wire; only
//! the network is in memory. Changes are proposed at one director, a given number at a time, and
//! count when all three have applied them. `--seconds N` sets the time for each row (default 3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, Known, SessionChange, SessionFlags, SessionRecord,
    SessionSink, SessionUpdate,
};
use holdfast_state_store::memory::MemoryNetwork;
use holdfast_state_store::metrics::LATENCY_BOUNDS_US;
use holdfast_state_store::{PeerCalls, Store, StoreConfig};

/// Counts what was applied.
#[derive(Default)]
struct Count(AtomicU64);

impl SessionSink for Count {
    fn created(&self, _: &SessionRecord) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn updated(&self, _: &SessionUpdate) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn expired(&self, _: &FlowKey, _: &Incarnation) {}
    fn installed(&self, _: ShardId, _: &[SessionRecord]) {}
    fn twin(&self, _first: &SessionRecord) {}
    fn find(&self, _: &FlowKey) -> Known {
        Known::Nobody
    }
}

struct Silent;

impl PeerCalls for Silent {
    fn call(&self, _: DirectorId, _: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn message(&self, _: DirectorId, _: Vec<u8>) {}
}

const DIRECTORS: usize = 3;
const SHARDS: u16 = 16;
/// Most changes under way at a time.
const UNDER_WAY: u64 = 50_000;
/// Distinct sessions; creates beyond them are refreshes of known ones.
const SESSIONS: u32 = 200_000;

fn key(n: u32) -> FlowKey {
    let client = std::net::SocketAddr::from(([10, 0, (n >> 16) as u8, 1], n as u16));
    FlowKey::new(Protocol::Tcp, client, ([203, 0, 113, 10], 80).into())
}

fn incarnation(n: u32) -> Incarnation {
    Incarnation { stamp: 1, creator: DirectorId(1), counter: u64::from(n), isn: n }
}

fn create(n: u32) -> SessionChange {
    let half = HalfSeen { age_ms: 0, seq: n, ack: n };
    SessionChange::Create(SessionRecord {
        key: key(n),
        reply: key(n).reversed(),
        incarnation: incarnation(n),
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        owner: DirectorId(1),
        flags: SessionFlags::ESTABLISHED,
        created_age_ms: 3_000,
        idle_timeout_ms: 900_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: half,
        backend_seen: half,
    })
}

fn refresh(n: u32) -> SessionChange {
    SessionChange::Update(SessionUpdate {
        key: key(n),
        incarnation: incarnation(n),
        from: DirectorId(1),
        owner: DirectorId(1),
        flags: SessionFlags::ESTABLISHED,
        client: Some(HalfSeen { age_ms: 5, seq: n, ack: n }),
        backend_seen: None,
    })
}

/// Makes the change number so and so.
type Make = fn(u32) -> SessionChange;

struct Row {
    what: &'static str,
    at_once: u32,
    changes: u64,
    lost: u64,
    seconds: f64,
    entries: u64,
    median_us: u64,
    p99_us: u64,
}

/// The upper bound of the bucket that holds this share of the observations.
fn quantile(before: &[u64], after: &[u64], share: f64) -> u64 {
    let counts: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let wanted = (counts.iter().sum::<u64>() as f64 * share) as u64;
    let mut seen = 0;
    for (at, count) in counts.iter().enumerate() {
        seen += count;
        if seen > wanted {
            return LATENCY_BOUNDS_US.get(at).copied().unwrap_or(u64::MAX);
        }
    }
    0
}

fn applied(counts: &[Arc<Count>]) -> u64 {
    counts.iter().map(|c| c.0.load(Ordering::Relaxed)).min().unwrap_or(0)
}

/// Waits until all but `most` of `expected` changes have been applied everywhere. Changes can be lost
/// when a leader changes (directors propose again): what has not moved for two seconds is lost.
async fn settle(counts: &[Arc<Count>], expected: u64, most: u64) -> u64 {
    let (mut seen, mut since) = (applied(counts), Instant::now());
    while expected.saturating_sub(seen) > most {
        tokio::time::sleep(Duration::from_micros(500)).await;
        let now = applied(counts);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(2) {
            return expected - seen;
        }
    }
    0
}

async fn measure(
    stores: &[Store],
    counts: &[Arc<Count>],
    what: &'static str,
    at_once: u32,
    time: Duration,
    make: Make,
) -> Row {
    let leader_latency = || {
        let mut all = [0; LATENCY_BOUNDS_US.len() + 1];
        for store in stores {
            let (buckets, _) = store.metrics().commit_latency.read();
            all.iter_mut().zip(buckets).for_each(|(a, b)| *a += b);
        }
        all
    };
    let entries = || stores[0].metrics().applied_entries.load(Ordering::Relaxed);
    let cluster = stores[0].cluster().borrow().clone().expect("a member");
    let shard = |n: u32| {
        let k = key(n);
        cluster.shards.shard(cluster.bucket_key.bucket(k.protocol, &k.src, k.src_port))
    };
    // Keys by shard, so that a proposal has `at_once` changes of one shard.
    let mut by_shard: Vec<Vec<u32>> = vec![Vec::new(); usize::from(SHARDS)];
    (0..SESSIONS).for_each(|n| by_shard[usize::from(shard(n).0)].push(n));

    let (latency_before, entries_before) = (leader_latency(), entries());
    let (begun, mut proposed, start) = (Instant::now(), 0u64, applied(counts));
    let mut lost = 0;
    let mut cursors = vec![0usize; usize::from(SHARDS)];
    'time: loop {
        for shard in 0..SHARDS {
            let keys = &by_shard[usize::from(shard)];
            let cursor = &mut cursors[usize::from(shard)];
            let changes = (0..at_once as usize)
                .map(|i| make(keys[(*cursor + i) % keys.len()]))
                .collect::<Vec<_>>();
            if stores[0].propose(ShardId(shard), changes).is_ok() {
                *cursor = (*cursor + at_once as usize) % keys.len();
                proposed += u64::from(at_once);
            } else {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            // A closed loop: what is under way stays below what the queues can hold.
            lost += settle(counts, start + proposed - lost, UNDER_WAY).await;
            if begun.elapsed() >= time {
                break 'time;
            }
        }
    }
    lost += settle(counts, start + proposed - lost, 0).await;
    let seconds = begun.elapsed().as_secs_f64();
    let latency = leader_latency();
    Row {
        what,
        at_once,
        changes: applied(counts) - start,
        lost,
        seconds,
        entries: entries() - entries_before,
        median_us: quantile(&latency_before, &latency, 0.5),
        p99_us: quantile(&latency_before, &latency, 0.99),
    }
}

async fn cluster(dirs: &[tempfile::TempDir]) -> (Vec<Store>, Vec<Arc<Count>>) {
    let network = MemoryNetwork::new();
    let (mut stores, mut counts): (Vec<Store>, Vec<Arc<Count>>) = (Vec::new(), Vec::new());
    for (at, dir) in dirs.iter().enumerate() {
        let name = format!("d{at}");
        let listen = ([127, 0, 0, 1], 1 + at as u16).into();
        let config = StoreConfig::new(dir.path().join("d"), name.clone(), listen, Arc::new(Silent));
        let store = Store::open_with(config, Arc::new(network.clone())).await.expect("opens");
        let count = Arc::new(Count::default());
        store.attach_sink(count.clone());
        match stores.first() {
            None => store.init_cluster(SHARDS).await.expect("a new cluster"),
            Some(first) => {
                let token =
                    first.issue_token(&name, Duration::from_secs(60)).await.expect("a token");
                store.join(&token).await.expect("joins");
            }
        }
        stores.push(store);
        counts.push(count);
    }
    let settled = |s: &Store| {
        s.caught_up().is_ok() && s.groups().iter().all(|g| g.voters.len() == DIRECTORS && !g.joint)
    };
    while !stores.iter().all(settled) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (stores, counts)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut seconds = 3.0;
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next().map(|v| v.parse::<f64>())) {
            ("--seconds", Some(Ok(value))) if value > 0.0 => seconds = value,
            _ => {
                eprintln!("usage: replicate_bench [--seconds N]");
                std::process::exit(2);
            }
        }
    }
    let time = Duration::from_secs_f64(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let dirs: Vec<tempfile::TempDir> =
            (0..DIRECTORS).map(|_| tempfile::tempdir().expect("a directory")).collect();
        let (stores, counts) = cluster(&dirs).await;
        println!(
            "{DIRECTORS} replicas in one process, {SHARDS} shards, session groups not synced to disk; \
             a change counts when all have applied it"
        );
        println!(
            "{:<8} {:>9} {:>12} {:>14} {:>15} {:>12} {:>12}",
            "change", "at once", "changes", "changes/s", "changes/entry", "commit p50", "commit p99"
        );
        for (what, make) in [("create", create as Make), ("refresh", refresh)] {
            for at_once in [1, 64, 512] {
                let row = measure(&stores, &counts, what, at_once, time, make).await;
                println!(
                    "{:<8} {:>9} {:>12} {:>14.0} {:>15.1} {:>9} us {:>9} us",
                    row.what,
                    row.at_once,
                    row.changes,
                    row.changes as f64 / row.seconds,
                    row.changes as f64 / row.entries.max(1) as f64,
                    format!("<{}", row.median_us),
                    format!("<{}", row.p99_us),
                );
                if row.lost > 0 {
                    println!("         {} changes were lost: a leader changed", row.lost);
                }
            }
        }
        for store in stores {
            store.shutdown().await;
        }
    });
}
