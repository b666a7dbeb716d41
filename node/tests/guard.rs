//! The guard as a process, in a network namespace of its own. Needs root; says so and passes
//! without.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_node::clock::mono_ns;
use holdfast_node::guard::child::Guard;

const TIMEOUT_MS: u64 = 60;

/// What a release may take on a busy machine.
const SOON: Duration = Duration::from_millis(600);

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !root {
        eprintln!("skipped: needs root and /dev/net/tun");
    }
    root
}

struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Namespace {
        let name = format!("hf-node-{name}-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Namespace(name)
    }

    fn device_there(&self) -> bool {
        let out = Command::new("ip").args(["-n", &self.0, "-o", "link"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).contains("hf0")
    }

    fn gone_within(&self, limit: Duration) -> Duration {
        let from = Instant::now();
        while self.device_there() {
            assert!(from.elapsed() < limit, "the device is still there after {limit:?}");
        }
        from.elapsed()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("the command exists");
    assert!(status.success(), "{command:?}: {status}");
}

/// A process that has a guard and beats like a daemon: this test binary again.
struct Daemon {
    child: Child,
    guard_pid: u32,
}

impl Daemon {
    fn start(ns: &Namespace) -> Daemon {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &ns.0])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "helper_daemon", "--ignored", "--nocapture"])
            .env("HF_GUARD_HELPER", env!("CARGO_BIN_EXE_holdfast-guard"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines
            .map(Result::unwrap)
            .find_map(|l| l.split_once("guard=").map(|(_, pid)| pid.trim().to_owned()));
        let guard_pid = said.expect("the helper tells its guard").parse().unwrap();
        assert!(ns.device_there());
        Daemon { child, guard_pid }
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the process that the tests start.
#[test]
#[ignore = "started by the other tests"]
fn helper_daemon() {
    let Some(program) = std::env::var_os("HF_GUARD_HELPER") else { return };
    let guard = Guard::new(Path::new(&program), "hf0", TIMEOUT_MS).unwrap();
    let page = guard.page();
    let beating = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let beats = beating.clone();
    std::thread::spawn(move || {
        // As the daemon's heartbeat: a busy machine must not look like a hung daemon.
        let _ = holdfast_node::os::realtime_priority(2);
        while beats.load(Ordering::Relaxed) {
            for slot in [0, 1] {
                page.beat(slot).store(mono_ns(), Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        loop {
            page.beat(0).store(mono_ns(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    guard.start().unwrap();
    println!("\nguard={}", guard.pid().unwrap());
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "release" => guard.command_release(),
            "end-if-frozen" => {
                guard.end_if_frozen(Duration::from_millis(300));
            }
            "silence-worker" => beating.store(false, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[test]
fn lets_go_when_the_daemon_is_killed() {
    if !root() {
        return;
    }
    let ns = Namespace::new("kill");
    let daemon = Daemon::start(&ns);
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    let took = ns.gone_within(SOON);
    eprintln!("gone {took:?} after kill -9");
}

#[test]
fn lets_go_when_the_daemon_hangs() {
    if !root() {
        return;
    }
    let ns = Namespace::new("hang");
    let daemon = Daemon::start(&ns);
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    let took = ns.gone_within(SOON + Duration::from_millis(TIMEOUT_MS));
    eprintln!("gone {took:?} after SIGSTOP");
}

#[test]
fn lets_go_when_a_worker_is_silent_although_the_rest_beats() {
    if !root() {
        return;
    }
    let ns = Namespace::new("worker");
    let mut daemon = Daemon::start(&ns);
    daemon.tell("silence-worker");
    ns.gone_within(SOON + Duration::from_millis(TIMEOUT_MS));
}

#[test]
fn lets_go_on_command_and_when_it_is_killed_itself() {
    if !root() {
        return;
    }
    let ns = Namespace::new("command");
    let mut daemon = Daemon::start(&ns);
    daemon.tell("release");
    ns.gone_within(SOON);
    drop(daemon);
    let daemon = Daemon::start(&ns);
    let guard = nix::unistd::Pid::from_raw(daemon.guard_pid as i32);
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGKILL).unwrap();
    ns.gone_within(SOON);
}

#[test]
fn a_frozen_guard_is_ended_by_its_daemon() {
    if !root() {
        return;
    }
    let ns = Namespace::new("frozen");
    let mut daemon = Daemon::start(&ns);
    daemon.tell("end-if-frozen");
    let guard = nix::unistd::Pid::from_raw(daemon.guard_pid as i32);
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGSTOP).unwrap();
    assert!(ns.device_there(), "a guard that looks is left alone");
    let deadline = Instant::now() + Duration::from_secs(5);
    while ns.device_there() {
        assert!(Instant::now() < deadline, "a frozen guard is left alone");
        daemon.tell("end-if-frozen");
    }
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon lives on");
}

#[test]
fn holds_on_while_the_beats_go_on_whatever_signals_it_gets() {
    if !root() {
        return;
    }
    let ns = Namespace::new("hold");
    let daemon = Daemon::start(&ns);
    let guard = nix::unistd::Pid::from_raw(daemon.guard_pid as i32);
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        nix::sys::signal::kill(guard, signal).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert!(ns.device_there(), "released without need");
    }
}
