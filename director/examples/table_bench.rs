//! Figures of the session table: `cargo run --release --example table_bench -- [SESSIONS]`.
//!
//! One thread, nothing else at work: opens, lookups in L1 and L2, the store's creates, sweep passes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_director::session::{
    FlowCache, Lookup, NewSession, SessionTable, Side, SweepPolicy, Sweeper,
};
use holdfast_director::tables::{ForwardingTables, NextHops};
use holdfast_schema::bucket::{Bucket, BucketKey, ShardTable};
use holdfast_schema::cluster::{BackendId, ClusterState, DirectorId, ListenerId, NextIds};
use holdfast_schema::config::{ClusterSpec, ReplicateAfter};
use holdfast_schema::flow::{Addr, FlowKey, Protocol};
use holdfast_schema::session::{ForwardingMode, SessionChange, SessionFlags, SessionSink};

const ME: DirectorId = DirectorId(1);

fn client_key(n: u32) -> FlowKey {
    FlowKey {
        src: Addr::from_v4_octets((0x0a00_0000 + n).to_be_bytes()),
        dst: Addr::from_v4_octets([203, 0, 113, 10]),
        src_port: 40_000,
        dst_port: 80,
        protocol: Protocol::Tcp,
    }
}

fn reply_key(n: u32) -> FlowKey {
    FlowKey {
        src: Addr::from_v4_octets([198, 51, 100, 1]),
        dst: Addr::from_v4_octets((0xc000_0200 + n / 64_000).to_be_bytes()),
        src_port: 8_080,
        dst_port: 1_024 + (n % 64_000) as u16,
        protocol: Protocol::Tcp,
    }
}

fn empty_cluster() -> ClusterState {
    ClusterState {
        cluster_id: String::new(),
        bucket_key: BucketKey([1; 16]),
        shards: ShardTable::spread(16),
        shard_count: 16,
        revision: 1,
        membership_epoch: 1,
        members: BTreeMap::new(),
        lips: BTreeMap::new(),
        spec: ClusterSpec::default(),
        listeners: BTreeMap::new(),
        groups: BTreeMap::new(),
        tokens: BTreeMap::new(),
        planned: Vec::new(),
        next: NextIds::default(),
        ca_certificate: String::new(),
        ca_key: String::new(),
        requests: Vec::new(),
    }
}

/// Resident memory of this process in MB.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * 4 / 1024
}

/// A stopwatch of this thread's processor time, so that other work on the machine hardly counts; of
/// the wall's for times that are too short for the kernel's accounting.
struct Cpu(Duration, Instant);

fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

impl Cpu {
    fn now() -> Cpu {
        Cpu(cpu_time(), Instant::now())
    }

    fn elapsed(&self) -> Duration {
        let (cpu, wall) = (cpu_time() - self.0, self.1.elapsed());
        if wall < Duration::from_millis(50) { wall } else { cpu }
    }
}

fn each(name: &str, count: u32, took: Duration) {
    println!("{name:<44} {:>9.1} ns", took.as_nanos() as f64 / f64::from(count));
}

fn main() {
    let sessions: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let flags = SessionFlags::CLIENT_OPENED
        .with(SessionFlags::BACKEND_ANSWERED)
        .with(SessionFlags::ESTABLISHED);
    let table = Arc::new(SessionTable::new(sessions, sessions, ME, 1));
    let worker = table.register_worker();
    println!("{sessions} sessions; resident before: {} MB", resident_mb());

    let begun = Cpu::now();
    for n in 0..sessions {
        let reply = reply_key(n);
        let new = NewSession {
            key: client_key(n),
            reply,
            listener: ListenerId(1),
            backend: BackendId(1),
            mode: ForwardingMode::FullNat,
            bucket: Bucket::of_local_port(reply.dst_port),
            idle_timeout_ms: 900_000,
            replicate_after: ReplicateAfter::Millis(3_000),
            stamp: 1,
            isn: 0,
            flags,
            seq_end: 0,
            ack: 0,
            isn_delta: 0,
            timestamp_delta: 0,
            replaces: None,
        };
        table.open(new, 0).expect("room for every session");
    }
    each("open", sessions, begun.elapsed());

    // Visit in an order the hardware cannot guess (an odd step is a permutation).
    let at = |i: u32| (u64::from(i) * 7_368_787 % u64::from(sessions)) as u32;
    let begun = Cpu::now();
    let mut cache = FlowCache::new(sessions, 42);
    for n in 0..sessions {
        for (key, side) in [(client_key(n), Side::Client), (reply_key(n), Side::Backend)] {
            if let Lookup::Found(slot, _) = table.lookup(&key) {
                cache.insert(&key, slot, side);
            }
        }
    }
    each("L2 lookup + L1 insert, in order", 2 * sessions, begun.elapsed());

    let keys: Vec<FlowKey> = (0..sessions)
        .map(|i| if i % 2 == 0 { client_key(at(i)) } else { reply_key(at(i)) })
        .collect();
    let begun = Cpu::now();
    for key in &keys {
        black_box(table.lookup(key));
    }
    each("L2 lookup, random", sessions, begun.elapsed());

    let mut out = [None; 32];
    for _ in 0..2 {
        let begun = Cpu::now();
        let mut found = 0;
        for batch in keys.chunks(32) {
            cache.lookup_batch(&table, batch, &mut out[..batch.len()]);
            for (slot, side) in out[..batch.len()].iter().flatten() {
                found += 1;
                let session = table.session(*slot);
                session.touch(*side, 1, 2, 3);
                black_box(session.reply());
            }
            worker.quiescent();
        }
        each("L1 lookup + touch, random, batches of 32", sessions, begun.elapsed());
        println!("    found {:.2}%", f64::from(found) * 100.0 / f64::from(sessions));
    }

    let fw = ForwardingTables::build(
        &empty_cluster(),
        ME,
        &|_| true,
        Arc::new(NextHops::default()),
        None,
    );
    let mut sweeper = Sweeper::new(&table);
    let policy = SweepPolicy::CALM;
    let mut changes = Vec::with_capacity(sessions as usize);
    let mut pass = |name: &str, now_ms: u64, changes: &mut Vec<_>| {
        let begun = Cpu::now();
        let mut steps = 0;
        while !sweeper.step(&table, &fw, now_ms, &policy, 10_000, changes).pass_complete {
            steps += 1;
        }
        each(name, sessions, begun.elapsed());
        println!("    {} changes, {} steps, {:?}", changes.len(), steps + 1, begun.elapsed());
    };
    pass("sweep pass: too young", 1_000, &mut changes);
    pass("sweep pass: nothing due", 1_001, &mut changes);
    pass("sweep pass: everything is promoted", 3_000, &mut changes);
    let begun = Cpu::now();
    for (_, change) in &changes {
        if let SessionChange::Create(record) = change {
            table.created(record);
        }
    }
    each("created: confirmation", sessions, begun.elapsed());
    changes.clear();
    pass("sweep pass: after the confirmations", 3_500, &mut changes);
    pass("sweep pass: nothing due", 3_501, &mut changes);

    let begun = Cpu::now();
    let removed = table.remove_where(|_| true);
    each("remove", removed as u32, begun.elapsed());
    println!("{:?}\nresident: {} MB", table.stats(), resident_mb());
}
