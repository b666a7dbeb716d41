//! How long the packet core takes for a packet of an established session: FullNAT of TCP, both
//! directions in equal parts, sessions in random order (the worst case for caches).
//!
//! `core_bench [--sessions N] [--packets N]`: ns a packet, median and quartiles over rounds. Without
//! `--sessions`: 1k, 100k and 1M. `--callgrind N` processes exactly N packets, each once, for
//! counting instructions: everything else is the same whatever N is (200,000 at the most).
#![forbid(unsafe_code)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use holdfast_director::core::{BATCH, CoreConfig, Frame, Verdict};
use holdfast_director::session::{NewSession, SessionTable};
use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{BackendId, ListenerId};
use holdfast_schema::config::ReplicateAfter;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{ForwardingMode, SessionFlags};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use support::packet::{ACK, Packet, at};
use support::{BACKEND_PORT, Lab, ME, START, VIP, WEB, cluster, tables_of};

/// Bytes of a chunk of packet memory, as in a UMEM, and where a frame begins in it.
const CHUNK: usize = 2048;
const HEADROOM: usize = 256;

/// Bytes of a frame: a bare ACK, as Ethernet pads it.
const FRAME: usize = 60;

/// Packets of a round.
const ROUND: usize = 64 * BATCH;

/// Most packets of a callgrind run; that many are made in any case.
const CALLGRIND_MOST: usize = 200_000;

struct Options {
    sessions: Vec<u32>,
    packets: usize,
    callgrind: Option<usize>,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { sessions: vec![1_000, 100_000, 1_000_000], packets: 4_000_000, callgrind: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || -> Result<usize, String> {
            let value = arguments.next().ok_or(format!("{name} needs a number"))?;
            value.parse().map_err(|_| format!("{name} {value}: not a number"))
        };
        match name.as_str() {
            "--sessions" => options.sessions = vec![number()? as u32],
            "--packets" => options.packets = number()?,
            "--callgrind" => options.callgrind = Some(number()?),
            _ => return Err(format!("{name}: unknown; see the head of core_bench.rs")),
        }
    }
    if options.callgrind.is_some_and(|n| n > CALLGRIND_MOST) {
        return Err(format!("--callgrind: {CALLGRIND_MOST} packets at the most"));
    }
    Ok(options)
}

/// The keys of session number `n`: different clients, LIPs, backends and local ports.
fn keys(n: u32) -> (FlowKey, FlowKey) {
    let [_, a, b, c] = n.to_be_bytes();
    let key = FlowKey {
        src: Ipv4Addr::new(100, a, b, c).into(),
        dst: VIP.into(),
        src_port: 1024 + (n % 50_021) as u16,
        dst_port: WEB,
        protocol: Protocol::Tcp,
    };
    let (place, port) = (n / 64_000, 1024 + (n % 64_000) as u16);
    let reply = FlowKey {
        src: Ipv4Addr::new(10, 1, 0, 1 + (place % 200) as u8).into(),
        dst: Ipv4Addr::new(10, 9, 0, 1 + (place / 200) as u8).into(),
        src_port: BACKEND_PORT,
        dst_port: port,
        protocol: Protocol::Tcp,
    };
    (key, reply)
}

fn open(table: &SessionTable, n: u32) {
    let (key, reply) = keys(n);
    let new = NewSession {
        key,
        reply,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        bucket: Bucket::of_local_port(reply.dst_port),
        idle_timeout_ms: 900_000,
        replicate_after: ReplicateAfter::Millis(3_000),
        stamp: 1,
        isn: 0,
        flags: SessionFlags::CLIENT_OPENED
            .with(SessionFlags::BACKEND_ANSWERED)
            .with(SessionFlags::ESTABLISHED),
        seq_end: 1,
        ack: 0,
        isn_delta: 0,
        timestamp_delta: 0,
        replaces: None,
    };
    table.open(new, START / 1_000_000).expect("the table has room");
}

/// The packet of one direction of session number `n`.
fn frame(n: u32, reply: bool) -> [u8; FRAME] {
    let (key, back) = keys(n);
    let key = if reply { back } else { key };
    let v4 = |addr: holdfast_schema::flow::Addr, port| {
        at(addr.v4_octets().expect("the benchmark uses IPv4").into(), port)
    };
    let packet = Packet::tcp(v4(key.src, key.src_port), v4(key.dst, key.dst_port), ACK, n, n >> 1);
    let mut bytes = [0; FRAME];
    let written = packet.bytes();
    bytes[..written.len()].copy_from_slice(&written);
    bytes
}

fn lab(sessions: u32) -> Lab {
    let table = Arc::new(SessionTable::new(sessions + 1_000, 1_000, ME, 1));
    for n in 0..sessions {
        open(&table, n);
    }
    Lab::on(table, tables_of(&cluster()), CoreConfig::for_workers(sessions, 1))
}

/// Every flow once, in random order, repeated until there are at least `least`.
fn frames(sessions: u32, least: usize) -> Vec<[u8; FRAME]> {
    let mut flows: Vec<(u32, bool)> = (0..sessions).flat_map(|n| [(n, false), (n, true)]).collect();
    flows.shuffle(&mut StdRng::seed_from_u64(1));
    let count = least.max(flows.len());
    flows.iter().cycle().take(count).map(|(n, reply)| frame(*n, *reply)).collect()
}

/// Processes one batch that lies in `chunks`; returns how long it took (ns).
fn process(lab: &mut Lab, chunks: &mut [u8], chunk: usize, headroom: usize) -> u64 {
    let mut verdicts = [Verdict::Parked; BATCH];
    let mut frames: Vec<Frame<'_>> =
        chunks.chunks_mut(chunk).map(|bytes| Frame::new(bytes, headroom, FRAME)).collect();
    let verdicts = &mut verdicts[..frames.len()];
    lab.now_ns += 1_000;
    let begin = Instant::now();
    lab.core.process(&lab.tables, lab.now_ns, &mut frames, verdicts);
    let took = begin.elapsed();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Transmit), "{verdicts:?}");
    took.as_nanos() as u64
}

/// Copies frames into chunks, as a driver does.
fn receive(chunks: &mut [u8], frames: &[[u8; FRAME]], chunk: usize, headroom: usize) {
    for (chunk, frame) in chunks.chunks_mut(chunk).zip(frames) {
        chunk[headroom..headroom + FRAME].copy_from_slice(frame);
    }
}

fn measure(sessions: u32, packets: usize) {
    let mut lab = lab(sessions);
    let frames = frames(sessions, ROUND);
    let mut umem = vec![0u8; CHUNK * 4096];
    let mut batches = umem.chunks_mut(CHUNK * BATCH).collect::<Vec<_>>();
    let (mut rounds, mut spent, mut in_round, mut done) = (Vec::new(), 0, 0, 0);
    // One time round to fill the flow cache; it is not counted.
    let warm_up = frames.len();
    let mut place = 0;
    for batch in frames.chunks_exact(BATCH).cycle() {
        if done >= warm_up + packets {
            break;
        }
        place = (place + 1) % batches.len();
        let chunks = &mut *batches[place];
        receive(chunks, batch, CHUNK, HEADROOM);
        let took = process(&mut lab, chunks, CHUNK, HEADROOM);
        done += BATCH;
        if done <= warm_up {
            continue;
        }
        spent += took;
        in_round += BATCH;
        if in_round == ROUND {
            rounds.push(spent as f64 / ROUND as f64);
            (spent, in_round) = (0, 0);
        }
    }
    rounds.sort_by(f64::total_cmp);
    let quantile = |part: f64| rounds[((rounds.len() - 1) as f64 * part) as usize];
    println!(
        "sessions={sessions} ns_per_packet={:.1} quartiles={:.1}..{:.1} best={:.1} rounds={} of {ROUND} packets",
        quantile(0.5),
        quantile(0.25),
        quantile(0.75),
        quantile(0.0),
        rounds.len(),
    );
}

fn count(sessions: u32, packets: usize) {
    let mut lab = lab(sessions);
    // Under callgrind the packets are few, so no more flows than this have any: the table is as large
    // as it is told, but its lookups are those of so many flows.
    let flows = sessions.min(CALLGRIND_MOST as u32 / 2);
    let all = frames(flows, CALLGRIND_MOST);
    // Twice the same packets, close together: once for the flow cache, once to be counted. All are
    // copied whatever is processed of the second half.
    for keep in [CALLGRIND_MOST, packets] {
        let mut memory = vec![0u8; FRAME * CALLGRIND_MOST];
        receive(&mut memory, &all, FRAME, 0);
        for batch in memory[..FRAME * keep].chunks_mut(FRAME * BATCH) {
            process(&mut lab, batch, FRAME, 0);
        }
    }
    println!("sessions={sessions} flows={flows} processed={packets}");
}

fn main() -> std::process::ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("core_bench: {message}");
            return std::process::ExitCode::from(2);
        }
    };
    for sessions in options.sessions {
        match options.callgrind {
            Some(packets) => count(sessions, packets),
            None => measure(sessions, options.packets),
        }
    }
    std::process::ExitCode::SUCCESS
}
