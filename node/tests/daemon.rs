//! holdfastd as a process: a cluster of one in a network namespace, driven through its admin
//! socket. Needs root; says so and passes without.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn ip(args: &str) {
    let out = Command::new("ip").args(args.split_whitespace()).output().expect("ip exists");
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A director's machine and the router it hangs on.
struct Machine {
    name: String,
    dir: tempfile::TempDir,
}

impl Machine {
    fn new(test: &str) -> Machine {
        let name = format!("hf-nd-{test}-{}", std::process::id());
        let machine = Machine { dir: tempfile::tempdir().unwrap(), name };
        let (d, r) = (&machine.name, machine.router());
        ip(&format!("netns add {d}"));
        ip(&format!("netns add {r}"));
        ip(&format!("link add eth0 netns {d} type veth peer name eth0 netns {r}"));
        for (ns, address) in [(d, "10.78.0.2/24"), (&r, "10.78.0.1/24")] {
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} addr add {address} dev eth0"));
            ip(&format!("-n {ns} link set eth0 up"));
        }
        ip(&format!("-n {d} route add default via 10.78.0.1"));
        machine
    }

    fn router(&self) -> String {
        format!("{}r", self.name)
    }

    /// A listening socket in a namespace; the kernel accepts for it.
    fn listen(&self, namespace: &str, address: &str) -> TcpListener {
        let ns = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        let address = address.to_owned();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(address).unwrap()
        });
        thread.join().unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn node_file(&self) -> PathBuf {
        let path = self.path("node.toml");
        let text = format!(
            "kind = \"node\"\nid = \"d1\"\npeer-address = \"10.78.0.2:7400\"\ninterface = \"eth0\"\n\
             max-sessions = 1024\ndata-dir = \"{}\"\nadmin-socket = \"{}\"\nmetrics-address = \"10.78.0.2:9600\"\n",
            self.path("data").display(),
            self.path("admin.sock").display(),
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_holdfastd"), "--config"]);
        command.arg(self.node_file()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn start(&self) -> Daemon<'_> {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = self.command(&[]).stderr(log).spawn().unwrap();
        let daemon = Daemon { machine: self, child };
        daemon.until("the admin socket", |d| d.try_get("/v1/status").is_some());
        daemon
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for ns in [&self.name, &self.router()] {
            let _ = Command::new("ip").args(["netns", "del", ns]).status();
        }
    }
}

struct Daemon<'m> {
    machine: &'m Machine,
    child: Child,
}

impl Daemon<'_> {
    fn try_request(&self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let mut stream = UnixStream::connect(self.machine.path("admin.sock")).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).ok()?))
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.try_request(method, path, &body.to_string()).expect("an answer")
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        self.try_request("GET", path, "").filter(|(status, _)| *status == 200).map(|(_, v)| v)
    }

    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !condition(self) {
            let log = || std::fs::read_to_string(self.machine.path("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited too long for {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn settled(&self) {
        self.until("the cluster to settle", |d| {
            d.try_get("/v1/status").is_some_and(|s| s["cluster"]["settled"] == json!(true))
        });
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spec(backend: &str) -> Value {
    json!({
        "lip_pool": ["198.51.100.0/29"], "lips_per_director": 2,
        "listeners": [{"name": "web", "vip": "203.0.113.10", "port": 80, "protocol": "tcp",
            "mode": "full-nat", "group": "web", "replicate_after": {"millis": 3000},
            "idle_timeout_ms": 900_000, "unknown_session": "reset", "new_udp": "schedule"}],
        "groups": [{"name": "web", "health": {"check": {"type": "tcp", "port": null},
            "interval_ms": 500, "timeout_ms": 300, "rise": 2, "fall": 2},
            "backends": [{"name": "b1", "address": backend, "weight": 100, "draining": false}]}],
    })
}

#[test]
fn a_cluster_of_one_from_nothing_to_a_restart() {
    if !root() {
        return;
    }
    let machine = Machine::new("one");
    let daemon = machine.start();
    let status = daemon.try_get("/v1/status").unwrap();
    assert_eq!((&status["phase"], &status["director"]), (&json!("waiting"), &json!("d1")));
    // Nothing works without a cluster, and says what to do.
    let (code, error) = daemon.request("GET", "/v1/config", &json!(null));
    assert_eq!((code, &error["code"]), (503, &json!("unavailable")));
    assert!(error["message"].as_str().unwrap().contains("holdfast cluster init"), "{error}");

    let (code, done) = daemon.request("POST", "/v1/cluster/init", &json!({"shards": 2}));
    assert_eq!(code, 200, "{done}");
    let (code, again) = daemon.request("POST", "/v1/cluster/init", &json!({"shards": 2}));
    assert_eq!(code, 412, "{again}");
    bad_requests(&daemon);

    // Something listens on the router: the backend is judged and taken.
    let server = machine.listen(&machine.router(), "0.0.0.0:80");
    let revision = daemon.try_get("/v1/config").unwrap()["revision"].clone();
    let change = json!({"expected_revision": revision, "spec": spec("10.78.0.1:80")});
    let (code, done) = daemon.request("PUT", "/v1/config", &change);
    assert_eq!(code, 200, "{done}");
    let (code, conflict) = daemon.request("PUT", "/v1/config", &change);
    assert_eq!((code, &conflict["code"]), (409, &json!("revision-conflict")), "{conflict}");
    daemon.until("a healthy backend", |d| {
        let status = d.try_get("/v1/status").unwrap();
        status["cluster"]["backends"][0]["healthy"] == json!(true)
    });
    daemon.settled();
    drop(server);
    daemon.until("an unhealthy backend with a reason", |d| {
        let backend = &d.try_get("/v1/status").unwrap()["cluster"]["backends"][0];
        backend["healthy"] == json!(false)
            && backend["reason"].as_str().unwrap().contains("refused")
    });

    // A second daemon on the same data is refused and harms nobody.
    let second = machine.run(&[]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("in use by another holdfastd"), "{said}");
    assert!(daemon.try_get("/v1/status").is_some());

    assert_eq!(daemon.stop(), Some(0));
    assert!(!machine.path("admin.sock").exists());
    let daemon = machine.start();
    daemon.settled();
    let config = daemon.try_get("/v1/config").unwrap();
    assert_eq!(config["spec"]["listeners"][0]["name"], json!("web"));
    assert_eq!(daemon.stop(), Some(0));
}

fn bad_requests(daemon: &Daemon<'_>) {
    let before = daemon.try_get("/v1/config").unwrap();
    let mut overlap = spec("10.78.0.1:80");
    overlap["lip_pool"] = json!(["203.0.113.0/28"]);
    let mut connected = spec("10.78.0.1:80");
    connected["lip_pool"] = json!(["10.78.0.128/29"]);
    let mut mode = spec("10.78.0.1:80");
    mode["listeners"][0]["mode"] = json!("dsr-l2");
    let change = |spec: &Value| json!({"expected_revision": before["revision"], "spec": spec});
    for (method, path, body, code, word) in [
        ("PUT", "/v1/config", change(&overlap), 422, "203.0.113.10"),
        ("PUT", "/v1/config", change(&connected), 422, "10.78.0.0/24"),
        ("PUT", "/v1/config", change(&mode), 422, "dsr-l2"),
        ("PUT", "/v1/config", json!({"spec": 1}), 400, "ClusterSpec"),
        ("POST", "/v1/nodes", json!({"name": "no good", "expires_in_s": 60}), 400, "no good"),
        ("POST", "/v1/nodes/d1/drain", json!({}), 412, "last"),
        ("POST", "/v1/nodes/d9/drain", json!({}), 404, "d9"),
        ("DELETE", "/v1/nodes/d1", json!({}), 412, "quorum"),
        ("GET", "/v1/sessions?state=odd", json!(null), 400, "odd"),
        ("GET", "/v1/sessions/count?backend=web/b9", json!(null), 404, "web/b9"),
        ("GET", "/v1/sessions?colour=red", json!(null), 400, "colour"),
        ("GET", "/v1/nothing", json!(null), 404, "/v1/nothing"),
        ("DELETE", "/v1/status", json!(null), 400, "DELETE"),
    ] {
        let (got, error) = daemon.request(method, path, &body);
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!(got, code, "{method} {path}: {error}");
        assert!(message.contains(word), "{method} {path}: {error}");
    }
    assert_eq!(daemon.try_get("/v1/config").unwrap(), before, "nothing changed");
}

/// A daemon that has opened its data and cannot go on ends in order all the same, or every restart
/// would count as one after a crash.
#[test]
fn a_start_that_fails_half_way_stops_in_order() {
    if !root() {
        return;
    }
    let machine = Machine::new("half");
    let taken = machine.listen(&machine.name, "10.78.0.2:9600");
    let out = machine.run(&[]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("metrics address 10.78.0.2:9600"), "{said}");
    assert!(said.contains("stopped"), "{said}");
    assert!(!machine.path("admin.sock").exists(), "{said}");
    drop(taken);
    assert_eq!(machine.start().stop(), Some(0));
}

#[test]
fn a_daemon_that_is_joining_still_listens_to_signals() {
    if !root() {
        return;
    }
    let machine = Machine::new("join");
    let daemon = machine.start();
    let (code, done) = daemon.request("POST", "/v1/cluster/init", &json!({"shards": 2}));
    assert_eq!(code, 200, "{done}");
    daemon.settled();
    let slot = json!({"name": "d2", "expires_in_s": 600});
    let (code, added) = daemon.request("POST", "/v1/nodes", &slot);
    assert_eq!(code, 200, "{added}");
    let token = added["token"].as_str().unwrap();
    assert_eq!(daemon.stop(), Some(0));

    // The cluster is gone; the newcomer goes on trying, until it is told to stop.
    let text = std::fs::read_to_string(machine.node_file()).unwrap();
    let other = machine.path("d2.toml");
    let text = text.replace("\"d1\"", "\"d2\"").replace("/data\"", "/data2\"");
    std::fs::write(&other, text.replace("10.78.0.2:7400", "10.78.0.2:7401")).unwrap();
    let log = std::fs::File::create(machine.path("log")).unwrap();
    let child = Command::new("ip")
        .args(["netns", "exec", &machine.name, env!("CARGO_BIN_EXE_holdfastd"), "--config"])
        .arg(&other)
        .args(["--join", token])
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let joining = Daemon { machine: &machine, child };
    joining.until("an attempt to join", |_| {
        std::fs::read_to_string(machine.path("log")).unwrap().contains("not joined yet")
    });
    let from = Instant::now();
    assert_eq!(joining.stop(), Some(0));
    assert!(from.elapsed() < Duration::from_secs(20), "{:?}", from.elapsed());
    assert!(!machine.path("admin.sock").exists());
}

#[test]
fn what_cannot_work_ends_with_a_sentence() {
    if !root() {
        return;
    }
    let machine = Machine::new("bad");
    let refused = |args: &[&str], code: i32, word: &str| {
        let out = machine.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    };
    refused(&["--join", "nonsense"], 1, "token");
    refused(&["--colour"], 2, "--colour");
    ip(&format!("-n {} link set eth0 name eth7", machine.name));
    refused(&[], 1, "there is no interface `eth0`");
    let check = machine.run(&["--check"]);
    assert!(check.status.success());
    let file = machine.path("node.toml");
    std::fs::write(&file, "kind = \"node\"\nid = 7\ncolour = \"red\"\n").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_holdfastd"))
        .args(["--check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("colour") && said.contains(":2:") && said.contains(":3:"), "{said}");
}
