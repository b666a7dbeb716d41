//! The lab's ground (everything but the cluster) on this kernel: it comes up, works, and leaves nothing
//! behind. Needs root; `tests/run.sh` sees to that.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const CHAOS: &str = env!("CARGO_BIN_EXE_holdfast-chaos");

fn may_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn output(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().expect(program)
}

fn text(program: &str, args: &[&str]) -> String {
    let out = output(program, args);
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run_id(lab: &Path) -> String {
    let text = std::fs::read_to_string(lab).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["run"].as_str().unwrap().to_owned()
}

/// What a run has left: namespaces, processes that belong to it, its folder.
fn traces(run: &str) -> Vec<String> {
    let prefix = format!("hf-{run}");
    let mut left: Vec<String> = text("ip", &["netns", "list"])
        .lines()
        .filter(|l| l.starts_with(&prefix))
        .map(|l| format!("namespace {l}"))
        .collect();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{prefix}-")) || line.contains(&format!("/{prefix}/")) {
            left.push(format!("process {line}"));
        }
    }
    if Path::new("/tmp").join(&prefix).exists() {
        left.push("its folder".into());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|l| l.contains(&prefix)).map(|l| format!("mount {l}")));
    left
}

fn up(lab: &Path) -> Command {
    let mut command = Command::new(CHAOS);
    command.args(["lab", "up", "--no-cluster", "--directors", "2", "--backends", "1", "--lab"]);
    command.arg(lab).stdin(Stdio::null());
    command
}

/// Takes the lab away when the test is over, also when it fails.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        Command::new(CHAOS).args(["lab", "down", "--lab"]).arg(self.0).status().ok();
    }
}

#[test]
fn the_ground_works_and_leaves_nothing_behind() {
    if !may_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = dir.path().join("lab.json");
    let raised = up(&lab).output().unwrap();
    assert!(raised.status.success(), "{}", String::from_utf8_lossy(&raised.stderr));
    let down = Down(&lab);
    let run = run_id(&lab);
    let netns = |name: &str| format!("hf-{run}-{name}");
    assert!(!traces(&run).is_empty(), "a standing lab has to be seen");

    let again = up(&lab).output().unwrap();
    assert!(!again.status.success(), "a lab is not overwritten");

    // The template's filter, the TUN's routes and ECMP: two directors announce a VIP, one of them worse.
    for (name, metric) in [("d1", "100"), ("d2", "100")] {
        let ns = netns(name);
        text("ip", &["-n", &ns, "tuntap", "add", "hf0", "mode", "tun"]);
        text("ip", &["-n", &ns, "link", "set", "hf0", "up"]);
        let route = ["203.0.113.10/32", "dev", "hf0", "table", "4242", "metric", metric];
        text("ip", &[&["-n", &ns, "route", "add"][..], &route[..]].concat());
    }
    let router = netns("r1");
    let routes = || text("ip", &["-n", &router, "-o", "route", "show", "203.0.113.10"]);
    until("both directors get flows", || {
        let routes = routes();
        routes.contains("dev d1") && routes.contains("dev d2")
    });
    let ns = netns("d2");
    let vip = ["203.0.113.10/32", "dev", "hf0", "table", "4242"];
    text("ip", &[&["-n", &ns, "route", "add"][..], &vip[..], &["metric", "900"]].concat());
    text("ip", &[&["-n", &ns, "route", "del"][..], &vip[..], &["metric", "100"]].concat());
    until("a draining director gets none", || {
        let routes = routes();
        routes.contains("dev d1") && !routes.contains("dev d2")
    });
    text("ip", &["-n", &netns("d1"), "link", "del", "hf0"]);
    until("it is the last resort", || routes().contains("dev d2"));

    // The real nginx answers through the router.
    let (client, bytes) = (netns("c1"), "http://10.73.1.2:8080/bulk.bin");
    let got = text("ip", &["netns", "exec", &client, "curl", "-sSI", bytes]);
    assert!(got.contains("X-Backend: b1"), "{got}");

    drop(down);
    until("everything is gone", || traces(&run).is_empty());
    let nothing = output(CHAOS, &["lab", "down", "--lab", &lab.display().to_string()]);
    assert!(nothing.status.success(), "taking away nothing is no error");
}

#[test]
fn an_interrupted_one_cleans_up_and_a_killed_one_is_found() {
    if !may_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let lab = dir.path().join(signal);
        let before = folders();
        let mut child = up(&lab).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut run = String::new();
        until("it is being raised", || {
            let mine = |name: &&String| {
                let plan = std::fs::read_to_string(format!("/tmp/{name}/holdfast-lab.json"));
                plan.is_ok_and(|p| p.contains(&format!("\n    {},", child.id())))
            };
            if let Some(name) = folders().difference(&before).find(mine) {
                run = name.trim_start_matches("hf-").to_owned();
            }
            !run.is_empty()
        });
        text("kill", &[&format!("-{signal}"), &child.id().to_string()]);
        let status = child.wait().unwrap();
        if status.success() {
            // It was faster than the signal; the lab stands and is taken away as usual.
            drop(Down(&lab));
            continue;
        }
        assert_eq!(status.code(), code, "after SIG{signal}");
        if signal == "KILL" {
            assert!(text(CHAOS, &["lab", "list"]).contains(&format!("{run}: left behind")));
            text(CHAOS, &["lab", "down", "--run", &run]);
        }
        until("everything is gone", || traces(&run).is_empty());
        assert!(!lab.exists());
    }
}

fn folders() -> std::collections::BTreeSet<String> {
    let entries = std::fs::read_dir("/tmp").unwrap().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with("hf-"))
        .collect()
}
