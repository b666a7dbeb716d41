//! The guard as a process, in a network namespace of its own. Needs root; says so and passes
//! without.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
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
    said: Lines<BufReader<ChildStdout>>,
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
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let guard_pid = value(&mut said, "guard=").parse().unwrap();
        assert!(ns.device_there());
        Daemon { child, said, guard_pid }
    }

    /// The reason of the release that the helper notices next.
    fn noticed(&mut self) -> String {
        value(&mut self.said, "released=")
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

/// What stands behind `name` in the first line that has it.
fn value(said: &mut Lines<BufReader<ChildStdout>>, name: &str) -> String {
    said.map(Result::unwrap)
        .find_map(|line| line.split_once(name).map(|(_, value)| value.trim().to_owned()))
        .expect("the helper says it")
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
    let guard = std::sync::Arc::new(guard);
    let noticing = guard.clone();
    std::thread::spawn(move || {
        loop {
            if let Some(reason) = noticing.poll() {
                println!("\nreleased={}", reason.label());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "release" => guard.command_release(),
            "release-stalled" => guard.release_stalled(),
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
    assert_eq!(daemon.noticed(), "worker-silent");
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
    assert_eq!(daemon.noticed(), "command");
    drop(daemon);
    let mut daemon = Daemon::start(&ns);
    let guard = nix::unistd::Pid::from_raw(daemon.guard_pid as i32);
    nix::sys::signal::kill(guard, nix::sys::signal::Signal::SIGKILL).unwrap();
    ns.gone_within(SOON);
    assert_eq!(daemon.noticed(), "guard-failed");
}

/// A stall is no orderly stop, although the daemon asks for the release in both cases.
#[test]
fn lets_go_of_a_stalled_daemon_under_a_reason_of_its_own() {
    if !root() {
        return;
    }
    let ns = Namespace::new("stalled");
    let mut daemon = Daemon::start(&ns);
    daemon.tell("release-stalled");
    ns.gone_within(SOON);
    assert_eq!(daemon.noticed(), "stalled");
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
