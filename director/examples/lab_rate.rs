//! Forwarding rate in the lab: Holdfast's director against a bare AF_XDP forwarder, on a veth pair,
//! alternating, median of several rounds.
//!
//! ```text
//! lab_rate [--flows N[,N...]] [--rounds N] [--seconds N]      (as root)
//! ```
//!
//! A generator inside the kernel sends 64-byte UDP packets of N clients' flows and, half of them, the
//! backends' replies; a sink inside the kernel counts what comes back. The bare forwarder swaps MAC
//! addresses on the same rings; Holdfast does FullNAT in both directions with its whole packet core.
//! Of two CPUs one has the generator and the receiving side of the director's interface, the other
//! the worker and its sending. Figures of a machine differ by its load: the ratio is what counts, and
//! it is void when the bare forwarder stays under 0.5 Mpps.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_director::core::Count;
use holdfast_director::director::{Director, DirectorConfig};
use holdfast_director::session::SessionTable;
use holdfast_director::tables::ForwardingTables;
use holdfast_director::worker::{Pool, PoolConfig};
use holdfast_schema::config::XdpMode;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use support::cluster::{ME, cluster, tables};
use support::link::{DIRECTOR_MAC, Link, PEER_MAC, privileged};
use support::reflector::Reflector;
use support::traffic::{self, Flow, Traffic, run_on_cpu};

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const PORT: u16 = 53;
/// The director's CPU; the generator has the other one.
const WORKER_CPU: usize = 1;
const GENERATOR_CPU: usize = 0;
/// Packets a call of the generator: each call costs the kernel about 20 ms of doing nothing.
const CALL: u32 = 2_000_000;
/// A bare forwarder slower than this says more about the machine than about us.
const VOID_BELOW_MPPS: f64 = 0.5;

struct Arguments {
    flows: Vec<usize>,
    rounds: usize,
    seconds: u64,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { flows: vec![1_000, 100_000], rounds: 5, seconds: 2 };
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        let bad = || format!("{option}: `{value}` is not a number");
        match option.as_str() {
            "--flows" => {
                let numbers = value.split(',').map(|n| n.parse().with_context(bad));
                parsed.flows = numbers.collect::<Result<_>>()?;
            }
            "--rounds" => parsed.rounds = value.parse().with_context(bad)?,
            "--seconds" => parsed.seconds = value.parse().with_context(bad)?,
            _ => bail!("unknown option {option}; known: --flows, --rounds, --seconds"),
        }
    }
    let most = traffic::MAX_FLOWS / 2;
    ensure!(parsed.flows.iter().all(|n| (1..=most).contains(n)), "--flows: 1 to {most}");
    ensure!(parsed.rounds > 0 && parsed.seconds > 0, "--rounds and --seconds: at least 1");
    Ok(parsed)
}

fn client(n: usize) -> (Ipv4Addr, u16) {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 1));
    (Ipv4Addr::from(base + (n >> 14) as u32), 1024 + (n & 0x3fff) as u16)
}

fn forwarding_tables() -> Arc<ForwardingTables> {
    // Enough pairs of LIP and backend for a million flows that are all new at once.
    let lips: Vec<IpAddr> = (1..=16).map(|n| Ipv4Addr::new(198, 51, 100, n).into()).collect();
    let backends: Vec<SocketAddr> = (1..=16).map(|n| ([192, 0, 2, 100 + n], 5353).into()).collect();
    tables(&cluster((VIP, PORT).into(), &lips, &backends), DIRECTOR_MAC, PEER_MAC)
}

/// One measurement.
#[derive(Clone, Copy)]
struct Rate {
    /// Packets a second that come back, in millions.
    mpps: f64,
    /// Time on its CPU that the worker's thread spends on each, in ns; 0: the kernel does not say.
    /// What softirqs did on its behalf is part of it. It holds better than the rate on a busy machine.
    cpu_ns: f64,
}

/// Sends so few packets at a time that hardly one is lost, `packets` in all.
fn send_gently(traffic: &mut Traffic, packets: u32) -> Result<()> {
    let mut left = packets;
    while left > 0 {
        let before = traffic.arrived()?;
        let now = left.min(1_500);
        traffic.send(now)?;
        left -= now;
        // On a busy machine a queue overflows now and then: what has not come by then is lost.
        let deadline = Instant::now() + Duration::from_millis(500);
        while traffic.arrived()? < before + u64::from(now) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
    Ok(())
}

/// The time that this process' worker has spent on a CPU, in ns.
fn worker_cpu_ns() -> Option<u64> {
    std::fs::read_dir("/proc/self/task").ok()?.flatten().find_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        (name.trim_end() == "hf-worker-0").then(|| times.split(' ').next()?.parse().ok()).flatten()
    })
}

fn measure(traffic: &mut Traffic, seconds: u64) -> Result<Rate> {
    let (start, before) = (Instant::now(), traffic.arrived()?);
    let cpu_before = worker_cpu_ns();
    while start.elapsed() < Duration::from_secs(seconds) {
        traffic.send(CALL)?;
    }
    let arrived = (traffic.arrived()? - before) as f64;
    let cpu = worker_cpu_ns().zip(cpu_before).map_or(0, |(after, before)| after - before);
    Ok(Rate {
        mpps: arrived / start.elapsed().as_secs_f64() / 1e6,
        cpu_ns: cpu as f64 / arrived.max(1.0),
    })
}

fn bare(link: &Link, traffic: &mut Traffic, seconds: u64) -> Result<Rate> {
    let pool = link.director.run(|| {
        run_on_cpu(WORKER_CPU);
        let config = PoolConfig { mode: XdpMode::Native, ..PoolConfig::new("d0") };
        let tables = forwarding_tables();
        Pool::start(&config, tables.vips(), tables.lips(), |_, _| Reflector)
    })?;
    let rate = measure(traffic, seconds)?;
    pool.stop();
    Ok(rate)
}

/// A director with these sessions, or with none yet.
fn director(link: &Link, flows: usize, sessions: Option<Arc<SessionTable>>) -> Result<Director> {
    let room = (flows * 2).max(4_096) as u32;
    let config = DirectorConfig {
        mode: XdpMode::Native,
        sessions,
        max_half_open: room,
        max_sessions: room,
        ..DirectorConfig::new("d0", ME, 1)
    };
    Ok(link.director.run(|| {
        run_on_cpu(WORKER_CPU);
        Director::start(config, forwarding_tables())
    })?)
}

/// Opens a session for each flow.
fn open(link: &Link, traffic: &mut Traffic, flows: &[Flow]) -> Result<Arc<SessionTable>> {
    let director = director(link, flows.len(), None)?;
    traffic.set_flows(flows)?;
    let sessions = director.sessions().clone();
    for _ in 0..10 {
        send_gently(traffic, flows.len() as u32)?;
        if sessions.sessions() as usize == flows.len() {
            break;
        }
    }
    let counters = director.counters()?.packets;
    ensure!(counters.dropped_packets() == 0, "packets were dropped: {counters:?}");
    ensure!(sessions.sessions() as usize == flows.len(), "{} sessions", sessions.sessions());
    director.stop();
    Ok(sessions)
}

/// The packets of both directions of all sessions, in no order.
fn both_directions(sessions: &SessionTable) -> Vec<Flow> {
    let mut flows = Vec::new();
    sessions.for_each(0, |record, _| {
        for key in [&record.key, &record.reply] {
            if let (SocketAddr::V4(from), SocketAddr::V4(to)) = (key.source(), key.destination()) {
                flows.push(Flow::new((*from.ip(), from.port()), (*to.ip(), to.port())));
            }
        }
    });
    // Memory must not be met in the order in which it was filled.
    flows.shuffle(&mut rand::rngs::SmallRng::seed_from_u64(1));
    flows
}

fn holdfast(
    link: &Link,
    traffic: &mut Traffic,
    sessions: &Arc<SessionTable>,
    seconds: u64,
) -> Result<Rate> {
    let director = director(link, sessions.sessions() as usize, Some(sessions.clone()))?;
    send_gently(traffic, sessions.sessions() * 2)?; // fills the worker's flow cache
    let rate = measure(traffic, seconds)?;
    let counters = director.counters()?.packets;
    let forwarded = counters.forwarded_packets();
    ensure!(
        counters.count(Count::ToClientPackets) * 10 > forwarded * 4
            && counters.count(Count::ToBackendPackets) * 10 > forwarded * 4
            && counters.dropped_packets() * 100 < forwarded,
        "not what was to be measured: {counters:?}"
    );
    director.stop();
    Ok(rate)
}

fn print(what: &str, bare: Rate, ours: Rate, ratio: f64) {
    println!(
        "{what:<6}  {:>9.3} {:>8.0}   {:>13.3} {:>8.0}   {ratio:>5.2}",
        bare.mpps, bare.cpu_ns, ours.mpps, ours.cpu_ns
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    if !privileged() {
        return Ok(());
    }
    run_on_cpu(GENERATOR_CPU);
    for &count in &arguments.flows {
        let link = Link::new(1);
        let mut traffic = traffic::on(&link)?;
        let clients: Vec<Flow> = (0..count).map(|n| Flow::new(client(n), (VIP, PORT))).collect();
        let mut rates = Vec::new();
        link.peer.run(|| -> Result<()> {
            let sessions = open(&link, &mut traffic, &clients)?;
            traffic.set_flows(&both_directions(&sessions))?;
            println!(
                "{count} flows, 64-byte UDP, both directions\n        \
                 bare Mpps (ns CPU)   Holdfast Mpps (ns CPU)   ratio"
            );
            for round in 1..=arguments.rounds {
                let bare = bare(&link, &mut traffic, arguments.seconds)?;
                let ours = holdfast(&link, &mut traffic, &sessions, arguments.seconds)?;
                print(&round.to_string(), bare, ours, ours.mpps / bare.mpps);
                rates.push((bare, ours));
            }
            Ok(())
        })?;
        let middle = |of: &dyn Fn(&(Rate, Rate)) -> f64| median(rates.iter().map(of).collect());
        let of = |which: &dyn Fn(&(Rate, Rate)) -> Rate| Rate {
            mpps: middle(&|r| which(r).mpps),
            cpu_ns: middle(&|r| which(r).cpu_ns),
        };
        let ratio = middle(&|(bare, ours)| ours.mpps / bare.mpps);
        print("median", of(&|r| r.0), of(&|r| r.1), ratio);
        let bare = of(&|r| r.0).mpps;
        if bare < VOID_BELOW_MPPS {
            println!(
                "void: the bare forwarder stayed under {VOID_BELOW_MPPS} Mpps on this machine"
            );
        } else {
            println!(
                "Holdfast forwards {:.0}% of what a bare AF_XDP forwarder does (aim: 80%)",
                ratio * 100.0
            );
        }
    }
    Ok(())
}
