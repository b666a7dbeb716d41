//! Takeover: how long the first packet of a moved session takes through the director that it moved to.
//!
//! ```text
//! takeover [--rounds N] [--packets N]      (as root)
//! ```
//!
//! A lab of four directors with the real daemons and nothing else to do. Sessions are opened through
//! one director; the next packet of each is handed to another, as a router does whose paths have
//! changed. It is timed by the kernel on the router's end of that director's link, on its way in and on
//! its way out.
//!
//! - *known*: the session is long replicated, so every director has it in its shared table (L2).
//! - *asked*: the session is some hundred milliseconds old, and the director is no home of it, so it has
//!   to ask.
//!
//! The floors, in the same rounds: *bare*, the same hop through a bare AF_XDP forwarder (one process,
//! nothing looked up); *there and back*, a datagram from one director's machine to another's and back
//! between two threads. Between two packets everything goes to sleep: waking is part of it.
//!
//! When it is interrupted, `holdfast-chaos lab down --stale` takes its lab away.

mod floor;
mod hop;
mod load;
mod segment;
mod sessions;
mod tap;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use floor::Bare;
use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::homes::HomeTable;
use holdfast_tests::{Lab, run};
use load::{CALM, Load};
use sessions::{Opener, Session};
use tap::Tap;

/// One that a session is opened through, its two homes, and one that knows nothing of it.
const DIRECTORS: usize = 4;
/// Sessions that are asked for in one go: few enough that the last one is still young.
const YOUNG: usize = 64;
/// How old a young session is at least.
const YOUNG_AGE: Duration = Duration::from_millis(120);
/// How old a long session is at least: replicate-after (3 s), and time enough to be applied.
const LONG_AGE: Duration = Duration::from_secs(6);
/// What is aimed at.
const KNOWN_P50_US: f64 = 50.0;
const ASKED_P99_US: f64 = 2_000.0;

/// A director, from outside.
struct Director {
    tap: Tap,
    metrics: String,
}

struct Bench {
    lab: Lab,
    router: String,
    directors: Vec<Director>,
    namespaces: Vec<String>,
    opener: Opener,
    bare: Bare,
}

/// Times (ns) of one case in one round, or in all.
struct Times(Vec<u64>);

impl Times {
    fn sorted(mut times: Vec<u64>) -> Times {
        times.sort_unstable();
        Times(times)
    }

    /// A quantile in microseconds.
    fn us(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((last * part) as usize).map_or(f64::NAN, |ns| *ns as f64 / 1e3)
    }
}

/// One round.
struct Round {
    bare: Times,
    known: Times,
    there_and_back: Times,
    asked: Times,
    /// Of the packets of `known`, how many a director had to ask for.
    unknown: u64,
    others: f64,
}

/// The hardware address of the machine in a namespace.
fn machine_mac(netns: &str) -> Result<[u8; 6]> {
    let mut ip = Command::new("ip");
    let argv = ["-n", netns, "-j", "link", "show", "data0"];
    let text = run(ip.args(argv), Duration::from_secs(10))?.ok()?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let text = links[0]["address"].as_str().context("data0 has no address")?;
    let octets: Vec<u8> =
        text.split(':').map(|o| u8::from_str_radix(o, 16)).collect::<Result<_, _>>()?;
    octets.try_into().map_err(|_| anyhow::anyhow!("{text} is no hardware address"))
}

impl Bench {
    fn start() -> Result<Bench> {
        let lab = Lab::up(DIRECTORS as u32, 3, 1)?;
        let router = lab.text("/routers/0/netns")?;
        let mut ip = Command::new("ip");
        // Answers to our clients have been seen by then.
        let argv = ["-n", &router, "route", "add", "blackhole", "10.90.0.0/16"];
        run(ip.args(argv), Duration::from_secs(10))?.ok()?;
        let (mut directors, mut namespaces) = (Vec::new(), Vec::new());
        for director in lab.directors()? {
            let mac = machine_mac(&director.netns)?;
            let tap = floor::inside(&router, || Tap::open(&director.id, mac))?;
            directors.push(Director { tap, metrics: director.metrics });
            namespaces.push(director.netns);
        }
        let opener = Opener::new(format!("{}:{ECHO_PORT}", lab.text("/vips/0")?).parse()?);
        let bare = Bare::start(&lab, &router)?;
        Ok(Bench { lab, router, directors, namespaces, opener, bare })
    }

    /// How many questions the directors have asked so far.
    fn questions(&self) -> Result<u64> {
        let mut sum = 0;
        for director in &self.directors {
            let mut curl = self.lab.command_in(&self.router, "curl");
            curl.args(["-sS", "--fail", &director.metrics]);
            let text = run(&mut curl, Duration::from_secs(10))?.ok()?;
            let mut values =
                text.lines().filter_map(|l| l.strip_prefix(QUESTIONS)?.trim().parse().ok());
            sum += values.next().unwrap_or(0u64);
        }
        Ok(sum)
    }

    /// Hands the next packet of each session to another director, which keeps none of its bucket's young
    /// sessions; then ends it.
    fn moved(&self, from: usize, sessions: &[Session]) -> Result<Vec<u64>> {
        let id = |n: usize| DirectorId(n as u32 + 1);
        let homes = HomeTable::over((0..DIRECTORS).map(id));
        let mut times = Vec::with_capacity(sessions.len());
        for (to, director) in self.directors.iter().enumerate().filter(|(to, _)| *to != from) {
            let stranger = |session: &&Session| {
                let bucket = Bucket::of_local_port(session.local_port());
                homes.homes(bucket, id(from)).all(|home| home != id(to))
            };
            let sessions: Vec<&Session> = sessions.iter().filter(stranger).collect();
            let probes: Vec<_> = sessions.iter().map(|s| s.probe(&director.tap)).collect();
            times.extend(hop::measure(&director.tap, &probes)?);
            for session in sessions {
                session.reset(&director.tap)?;
                session.reset(&self.directors[from].tap)?;
            }
        }
        Ok(times)
    }

    fn round(&mut self, number: usize, packets: usize) -> Result<Round> {
        let load = Load::now();
        let from = number % DIRECTORS;
        let opened = Instant::now();
        let long = self.opener.open(&self.directors[from].tap, packets)?;
        let bare = self.bare.measure(packets)?;
        let there_and_back =
            floor::there_and_back(&self.namespaces[0], &self.namespaces[1], packets)?;
        let mut asked = Vec::with_capacity(packets);
        let before = self.questions()?;
        while asked.len() < packets {
            let young = self.opener.open(&self.directors[from].tap, YOUNG)?;
            std::thread::sleep(YOUNG_AGE);
            let times = self.moved(from, &young)?;
            ensure!(!times.is_empty(), "nothing came out of the other directors");
            asked.extend(times);
        }
        let questions = self.questions()? - before;
        ensure!(
            questions * 100 >= 99 * asked.len() as u64,
            "only {questions} of {} young sessions were asked for",
            asked.len()
        );
        std::thread::sleep(LONG_AGE.saturating_sub(opened.elapsed()));
        let before = self.questions()?;
        let known = self.moved(from, &long)?;
        let unknown = self.questions()? - before;
        ensure!(known.len() * 100 > packets * 99, "only {} of {packets} came out", known.len());
        Ok(Round {
            bare: Times::sorted(bare),
            known: Times::sorted(known),
            there_and_back: Times::sorted(there_and_back),
            asked: Times::sorted(asked),
            unknown,
            others: load.others(),
        })
    }
}

/// Port of the lab's echo listener.
const ECHO_PORT: u16 = 7001;
/// The line of a director's metrics that counts questions.
const QUESTIONS: &str = "holdfast_misses_total{result=\"asked\"}";

fn options() -> Result<(usize, usize)> {
    let (mut rounds, mut packets) = (5, 2_000);
    let mut words = std::env::args().skip(1);
    while let Some(option) = words.next() {
        let value = words.next().with_context(|| format!("{option} wants a value"))?;
        let number = || value.parse().with_context(|| format!("{option}: `{value}` is no number"));
        match option.as_str() {
            "--rounds" => rounds = number()?,
            "--packets" => packets = number()?,
            _ => bail!("unknown option {option}; known: --rounds, --packets"),
        }
    }
    ensure!(rounds > 0 && (1..=5_000).contains(&packets), "--packets: 1 to 5000 a round");
    Ok((rounds, packets))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One of the cases of a round.
type Case = fn(&Round) -> &Times;
const BARE: Case = |round| &round.bare;
const KNOWN: Case = |round| &round.known;
const THERE_AND_BACK: Case = |round| &round.there_and_back;
const ASKED: Case = |round| &round.asked;

/// Prints three quantiles of each case.
fn print(what: &str, of: impl Fn(Case, f64) -> f64) {
    let columns = [BARE, KNOWN, THERE_AND_BACK, ASKED].map(|case| {
        format!("{:>7.1} {:>7.1} {:>7.1}", of(case, 0.5), of(case, 0.9), of(case, 0.99))
    });
    println!("{what:<6} {}", columns.join("   "));
}

fn main() -> Result<()> {
    let (rounds, packets) = options()?;
    let mut bench = Bench::start()?;
    println!(
        "{DIRECTORS} directors, {packets} packets a case and round, microseconds: p50 p90 p99"
    );
    println!(
        "round          bare                  known (L2)          there and back              asked"
    );
    let mut done: Vec<Round> = Vec::new();
    for number in 1..=rounds {
        let round = bench.round(number, packets)?;
        print(&number.to_string(), |case, part| case(&round).us(part));
        if round.unknown > 0 {
            println!("       {} of {packets} long sessions had to be asked for", round.unknown);
        }
        done.push(round);
    }
    let middle = |case: Case, part: f64| median(done.iter().map(|r| case(r).us(part)).collect());
    print("median", middle);
    let (known, asked) = (middle(KNOWN, 0.5), middle(ASKED, 0.99));
    println!(
        "known: {known:.1} us, {:.2} times the bare hop (aim: p50 under {KNOWN_P50_US:.0} us); \
         asked: {asked:.0} us, {:.1} times there and back (aim: p99 under {ASKED_P99_US:.0} us)",
        known / middle(BARE, 0.5),
        asked / middle(THERE_AND_BACK, 0.99),
    );
    let others = median(done.iter().map(|r| r.others).collect());
    if others > CALM {
        println!("void: others had {:.0}% of this machine's processors", others * 100.0);
    }
    bench.lab.down()
}
