//! Connections that nobody uses for their listener's whole idle timeout: the kernels at both ends learn
//! that it is over, whoever carried them. Those that are used never do.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_tests::{Director, Lab, eventually, run};
use nix::sched::{CloneFlags, setns};

const IDLE: Duration = Duration::from_secs(8);

/// From the end of the idle timeout to the resets at both ends: a quarter of it for news of the last packet,
/// two seconds in which the end of their owner is noticed, the leader's clock and walk, the time for vetoes,
/// probes and their repetitions. (A quarter and eight seconds; this machine is shared.)
const BOUND: Duration = Duration::from_secs(24);

/// Connections of each round.
const CONNECTIONS: usize = 12;

/// Runs `work` on a thread in a network namespace. Sockets stay in the one they were made in.
fn within<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{netns}");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let file = std::fs::File::open(&path).with_context(|| path.clone())?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| path.clone())?;
            work()
        });
        thread.join().expect("no panic in a namespace")
    })
}

/// How an end of an idle connection ended.
#[derive(Debug)]
struct End {
    of: &'static str,
    error: Option<ErrorKind>,
    /// Since its last byte.
    after: Duration,
}

/// Waits for the end of a connection on which nothing is to come any more.
fn watch(of: &'static str, mut stream: TcpStream, ends: Sender<End>) {
    let since = Instant::now();
    std::thread::spawn(move || {
        let error = stream.read(&mut [0]).err().map(|e| e.kind());
        ends.send(End { of, error, after: since.elapsed() }).ok();
    });
}

/// A backend that answers a byte with itself. A connection that begins with `i` is idle from then on.
fn serve(listener: TcpListener, ends: Sender<End>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), ends) = (stream, ends.clone()) else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {
                    if byte == *b"i" {
                        return watch("backend", stream, ends);
                    }
                }
            });
        }
    });
}

fn exchange(stream: &mut TcpStream, byte: u8) -> std::io::Result<()> {
    stream.write_all(&[byte])?;
    let mut back = [0];
    stream.read_exact(&mut back)?;
    if back == [byte] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

fn connect(netns: &str, to: SocketAddr) -> Result<TcpStream> {
    within(netns, || {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    })
}

/// A connection that is used well within the idle timeout, now by one end only and now by both.
struct InUse {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<u32>>,
}

impl InUse {
    fn start(mut stream: TcpStream) -> InUse {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut exchanges = 0;
            while !told.load(Ordering::Relaxed) {
                exchange(&mut stream, b'u')?;
                exchanges += 1;
                let until = Instant::now() + IDLE / 2;
                while Instant::now() < until && !told.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(exchanges)
        });
        InUse { stop, thread }
    }

    fn finish(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        let exchanges = self.thread.join().expect("no panic");
        exchanges.context("a connection in use was broken")
    }
}

/// All ends of a round were reset, and not before the time.
fn all_reset(ends: &Receiver<End>, expected: usize, bound: Duration) -> Result<()> {
    let until = Instant::now() + bound;
    for n in 0..expected {
        let left = until.saturating_duration_since(Instant::now());
        let end =
            ends.recv_timeout(left).with_context(|| format!("only {n} of {expected} ends"))?;
        ensure!(end.error == Some(ErrorKind::ConnectionReset), "{end:?}");
        ensure!(end.after >= IDLE - Duration::from_millis(100), "too early: {end:?}");
        println!("{} reset after {:.1} s", end.of, end.after.as_secs_f64());
    }
    Ok(())
}

/// Names of the directors that carry replicated sessions of a listener; fails until there are `expected`.
fn carriers(lab: &Lab, ask: &Director, vip: &str, expected: usize) -> Result<Vec<String>> {
    let shown = lab.ask(ask, &["session", "list", "--vip", vip])?;
    let all = shown["sessions"].as_array().context("a list")?;
    let open = all.iter().filter(|s| s["state"] == "established" && s["replicated"] == true);
    let names: Vec<String> =
        open.filter_map(|s| s["director"].as_str().map(str::to_owned)).collect();
    if names.len() < expected {
        bail!("{} of {expected} sessions are replicated", names.len());
    }
    Ok(names)
}

#[test]
fn both_ends_of_idle_connections_are_reset_also_after_a_takeover() -> Result<()> {
    let lab = Lab::up(3, 1, 1)?;
    let (client, backend) = (lab.text("/clients/0/netns")?, lab.text("/backends/0/netns")?);
    let (vip, addr) = (lab.text("/spare_vips/0")?, lab.text("/backends/0/addr")?);
    let to: SocketAddr = format!("{vip}:7070").parse()?;
    let (backend_ends, at_backend) = channel();
    let (client_ends, at_client) = channel();
    serve(within(&backend, || Ok(TcpListener::bind((addr.as_str(), 7070))?))?, backend_ends);
    let directors = lab.directors()?;
    lab.holdfast(&directors[0], &["group", "add", "idle"])?.ok()?;
    let target = format!("{addr}:7070");
    lab.holdfast(&directors[0], &["backend", "add", "idle", "b1", &target])?.ok()?;
    let listener = ["listener", "add", "idle", "--vip", &vip, "--port", "7070"];
    let policy =
        ["--protocol", "tcp", "--group", "idle", "--idle-timeout", "8s", "--replicate-after", "1s"];
    lab.holdfast(&directors[0], &[&listener[..], &policy].concat())?.ok()?;

    let opened = eventually("the listener is served", Duration::from_secs(30), || {
        let mut stream = connect(&client, to)?;
        exchange(&mut stream, b'u')?;
        Ok(stream)
    })?;
    let in_use = vec![InUse::start(opened), InUse::start(connect(&client, to)?)];
    let begin = || -> Result<()> {
        for _ in 0..CONNECTIONS {
            let mut stream = connect(&client, to)?;
            exchange(&mut stream, b'i')?;
            watch("client", stream, client_ends.clone());
        }
        Ok(())
    };

    begin()?;
    all_reset(&at_client, CONNECTIONS, IDLE + BOUND)?;
    all_reset(&at_backend, CONNECTIONS, BOUND)?;

    // Once more, and the director that carries most of them dies.
    begin()?;
    let expected = CONNECTIONS + in_use.len();
    let owners =
        eventually("all are replicated", IDLE, || carriers(&lab, &directors[0], &vip, expected))?;
    let names: BTreeSet<&String> = owners.iter().collect();
    let most = names.into_iter().max_by_key(|name| owners.iter().filter(|o| o == name).count());
    let victim =
        directors.iter().find(|d| Some(&d.id) == most).context("a carrier is a director")?;
    println!("killing {}, which carries {owners:?}", victim.id);
    run(Command::new("kill").args(["-KILL", &victim.daemon.to_string()]), Duration::from_secs(5))?
        .ok()?;
    // A dead owner's sessions are idle from its death on.
    all_reset(&at_client, CONNECTIONS, IDLE + BOUND)?;
    all_reset(&at_backend, CONNECTIONS, BOUND)?;

    for connection in in_use {
        let exchanges = connection.finish()?;
        ensure!(exchanges >= 4, "it was used {exchanges} times only");
    }
    ensure!(at_client.try_recv().is_err() && at_backend.try_recv().is_err(), "nobody else ended");
    lab.down()
}
