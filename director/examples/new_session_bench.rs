//! What telling the homes of new sessions costs the packet core: new sessions a second, with a thread that
//! takes them from the ring and describes them as the daemon's does, and with nobody told. Both in turn in
//! one run; medians over rounds. The worker's processor time counts: on a machine with few processors the
//! other thread takes its turn, which is not what is asked here.
//!
//! `new_session_bench [ROUNDS]`

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_director::core::{BATCH, CoreConfig, Frame, Verdict};
use holdfast_director::session::{SessionTable, Slot};
use support::packet::{Packet, SYN, at};
use support::{Lab, ME, START, VIP, WEB, cluster, tables_of};

/// Sessions of a round.
const SESSIONS: u32 = 64 * BATCH as u32;

/// Bytes of a chunk of packet memory.
const CHUNK: usize = 256;

/// Processor time of this thread (ns).
fn thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes a timespec, and this is one.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock is always there");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn syn(n: u32) -> Vec<u8> {
    let [_, a, b, c] = n.to_be_bytes();
    let client = at(Ipv4Addr::new(11, a, b, c), 1_024 + (n % 50_021) as u16);
    Packet::tcp(client, at(VIP, WEB), SYN, n, 0).bytes()
}

/// Opens all sessions of a round; ns a session.
fn round(syns: &[Vec<u8>], tell: bool) -> f64 {
    let table = Arc::new(SessionTable::new(SESSIONS + 1_000, SESSIONS + 1_000, ME, 1));
    let mut lab =
        Lab::on(table.clone(), tables_of(&cluster()), CoreConfig::for_workers(SESSIONS, 1));
    let (mut ring, mut homes) = rtrb::RingBuffer::<Slot>::new(16_384);
    let done = Arc::new(AtomicBool::new(false));
    let (ended, seen) = (done.clone(), table);
    let thread = std::thread::spawn(move || {
        let mut told = 0u32;
        while !ended.load(Ordering::Relaxed) || !homes.is_empty() {
            std::thread::sleep(Duration::from_micros(500));
            while let Ok(slot) = homes.pop() {
                told += u32::from(seen.young(slot, START / 1_000_000).is_some());
            }
        }
        told
    });
    let mut spent = 0;
    let mut lost = 0;
    for syns in syns.chunks(BATCH) {
        let mut chunks: Vec<[u8; CHUNK]> = vec![[0; CHUNK]; syns.len()];
        let copied = chunks.iter_mut().zip(syns);
        let mut frames: Vec<Frame<'_>> = copied
            .map(|(chunk, syn)| {
                chunk[..syn.len()].copy_from_slice(syn);
                Frame::new(chunk, 0, syn.len())
            })
            .collect();
        let mut verdicts = vec![Verdict::Parked; frames.len()];
        lab.now_ns += 50_000;
        let begun = thread_ns();
        lab.core.process(&lab.tables, lab.now_ns, &mut frames, &mut verdicts);
        lab.core.take_young(|slot| {
            if tell && ring.push(slot).is_err() {
                lost += 1;
            }
            true
        });
        spent += thread_ns() - begun;
        assert!(verdicts.iter().all(|v| *v == Verdict::Transmit), "{verdicts:?}");
    }
    done.store(true, Ordering::Relaxed);
    let told = thread.join().expect("the thread of the homes");
    assert_eq!(told + lost, if tell { SESSIONS } else { 0 });
    spent as f64 / f64::from(SESSIONS)
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200usize);
    let syns: Vec<Vec<u8>> = (0..SESSIONS).map(syn).collect();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        without.push(round(&syns, false));
        with.push(round(&syns, true));
    }
    let (with, without) = (median(with), median(without));
    println!(
        "registered_ns={with:.1} unregistered_ns={without:.1} cost={:.2}% rounds={rounds} of {SESSIONS} sessions",
        (with / without - 1.0) * 100.0,
    );
}
