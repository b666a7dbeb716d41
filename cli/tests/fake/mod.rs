//! A director's admin API that says what a test wants, and remembers what it was asked.
//!
//! It speaks HTTP/1.1 by hand, so that it shares no code with the command under test.
#![allow(dead_code)] // Every test file uses its own part of this module.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_schema::admin::{
    BackendStatus, ClusterStatus, ErrorBody, ErrorCode, NodeStatus, PlannedStatus, RaftGroupStatus,
    SessionEntry, Status,
};
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId, MemberState, PlannedKind};
use holdfast_schema::config::{ClusterSpec, parse_cluster, reference::EXAMPLE_CLUSTER};
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{
    ForwardingMode, HalfSeen, Incarnation, SessionFlags, SessionRecord,
};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the command asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub body: Value,
}

impl Seen {
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What it is answered.
pub enum Reply {
    Json(u16, Value),
    Text(u16, &'static str),
    /// The connection is closed without an answer.
    Silence,
}

pub fn ok(body: &impl Serialize) -> Reply {
    Reply::Json(200, serde_json::to_value(body).unwrap())
}

pub fn error(code: ErrorCode, message: &str, hint: &str) -> Reply {
    let body = ErrorBody { code, message: message.into(), hint: hint.into() };
    Reply::Json(code.http_status(), serde_json::to_value(body).unwrap())
}

pub fn done(revision: u64, message: &str) -> Reply {
    Reply::Json(200, json!({ "revision": revision, "message": message }))
}

/// A director.
pub struct Fake {
    dir: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + 'static) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ended) = (seen.clone(), stop.clone());
        let server = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let Some(request) = read(&stream) else { continue };
                // Logged before it is answered: who has the answer finds the question here.
                log.lock().unwrap().push(request.clone());
                write(&stream, answer(&request));
            }
        });
        Fake { dir, seen, stop, server: Some(server) }
    }

    /// One that has no cluster to speak of: every request is answered with this.
    pub fn always(reply: impl Fn() -> Reply + Send + 'static) -> Fake {
        Fake::start(move |_| reply())
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    /// Runs `holdfast` against it.
    pub fn run(&self, args: &[&str]) -> Ran {
        run(&self.socket(), args)
    }

    pub fn json(&self, args: &[&str]) -> Ran {
        run(&self.socket(), &[&["--output", "json"], args].concat())
    }

    /// `holdfast` with pipes, not started yet.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        command(&self.socket(), args)
    }

    /// Waits until the command has asked this.
    pub fn wait_for(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.lines().iter().any(|l| l == line) {
            assert!(Instant::now() < deadline, "{line} was not asked; seen {:?}", self.lines());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.socket());
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn read(stream: &UnixStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, path, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn write(mut stream: &UnixStream, reply: Reply) {
    let (status, body) = match reply {
        Reply::Json(status, json) => (status, json.to_string()),
        Reply::Text(status, text) => (status, text.to_owned()),
        Reply::Silence => return,
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// It succeeded and said nothing but its result.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// It failed with this exit code, without a result.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        self.err
    }

    #[track_caller]
    pub fn value(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

pub fn command(socket: &Path, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--socket").arg(socket).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn run(socket: &Path, args: &[&str]) -> Ran {
    let mut command = assert_cmd::Command::from_std(command(socket, args));
    ran(command.timeout(Duration::from_secs(60)).output().unwrap())
}

pub fn run_with_input(socket: &Path, args: &[&str], input: &str) -> Ran {
    let mut command = assert_cmd::Command::from_std(command(socket, args));
    ran(command.write_stdin(input).timeout(Duration::from_secs(60)).output().unwrap())
}

pub fn ran(output: std::process::Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap_or(-1);
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}

/// The example of the reference: listener web, group web with two backends.
pub fn example() -> ClusterSpec {
    parse_cluster(EXAMPLE_CLUSTER, "example").unwrap()
}

/// A director that keeps a configuration, refuses a wrong revision, and says so `conflicts` times
/// in any case.
pub fn with_config(spec: ClusterSpec, conflicts: u32) -> Fake {
    let state = Mutex::new((7u64, serde_json::to_value(spec).unwrap(), conflicts));
    Fake::start(move |seen| {
        let (revision, spec, conflicts) = &mut *state.lock().unwrap();
        match seen.line().as_str() {
            "GET /v1/config" => ok(&json!({ "revision": *revision, "spec": *spec })),
            "PUT /v1/config" => {
                let expected = seen.body["expected_revision"].as_u64();
                if *conflicts > 0 {
                    *conflicts -= 1;
                    *revision += 1;
                }
                if expected != Some(*revision) {
                    let message = format!("the configuration is at revision {revision}");
                    return error(ErrorCode::RevisionConflict, &message, "read it again");
                }
                *revision += 1;
                *spec = seen.body["spec"].clone();
                done(*revision, "configuration replaced")
            }
            _ => Reply::Text(404, "no such path"),
        }
    })
}

/// A cluster of two, one of them a little behind.
pub fn status() -> Status {
    let node = |id: u32, name: &str, state, up: bool| NodeStatus {
        id,
        name: name.into(),
        address: format!("192.0.2.{id}:7411").parse().unwrap(),
        state,
        up,
        ready: up.then_some(true),
        announcement: up.then(|| "announced".into()),
        incarnation: 1,
        lips: vec![format!("198.51.100.{id}")],
        sessions: up.then_some(u64::from(id) * 100),
        votes: id % 2 * 2,
    };
    let group = |name: &str, leader: Option<&str>, applied, sessions| RaftGroupStatus {
        name: name.into(),
        leader: leader.map(str::to_owned),
        term: 3,
        committed: 120,
        applied,
        voters: vec!["d1".into()],
        learners: vec!["d2".into()],
        sessions,
    };
    let backend = |name: &str, healthy, reason: Option<&str>| BackendStatus {
        group: "web".into(),
        name: name.into(),
        address: "10.0.0.11:443".parse().unwrap(),
        weight: 100,
        draining: healthy == Some(false),
        healthy,
        reason: reason.map(str::to_owned),
    };
    Status {
        director: "d1".into(),
        version: "0.1.0".into(),
        phase: "member".into(),
        cluster: Some(ClusterStatus {
            id: "0123456789abcdef0123456789abcdef".into(),
            revision: 7,
            membership_epoch: 3,
            leader: Some("d1".into()),
            nodes: vec![
                node(1, "d1", MemberState::Active, true),
                node(2, "d2", MemberState::Draining, false),
            ],
            groups: vec![
                group("control", Some("d1"), 120, 0),
                group("shard-0", Some("d1"), 118, 40),
                group("shard-1", None, 120, 2),
            ],
            planned: vec![PlannedStatus { id: 1, kind: PlannedKind::Drain, director: "d2".into() }],
            backends: vec![
                backend("web-1", Some(true), None),
                backend("web-2", Some(false), Some("connection refused")),
                backend("web-3", None, None),
            ],
            settled: false,
            unsettled: vec!["d2 is draining".into(), "shard-1 has no leader".into()],
        }),
        not_ready: vec![],
        tables: None,
        xdp_mode: "skb".into(),
        warnings: vec!["huge pages are not available".into()],
    }
}

/// Everything as it should be.
pub fn healthy() -> Status {
    let mut status = status();
    let cluster = status.cluster.as_mut().unwrap();
    (cluster.settled, cluster.unsettled) = (true, vec![]);
    status
}

/// A session of 192.0.2.77 to the web listener, carried by d1.
pub fn session(port: u16) -> SessionEntry {
    let socket = |text: &str| text.parse().unwrap();
    let client = std::net::SocketAddr::new("192.0.2.77".parse().unwrap(), port);
    let record = SessionRecord {
        key: FlowKey::new(Protocol::Tcp, client, socket("203.0.113.10:443")),
        reply: FlowKey::new(Protocol::Tcp, socket("10.0.0.11:443"), socket("198.51.100.1:2048")),
        incarnation: Incarnation {
            stamp: 1,
            creator: DirectorId(1),
            counter: (1 << 32) + 5,
            isn: 9,
        },
        generation: 1,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        owner: DirectorId(1),
        flags: SessionFlags::ESTABLISHED,
        created_age_ms: 427_000,
        idle_timeout_ms: 900_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: HalfSeen { age_ms: 1_500, seq: 1, ack: 1 },
        backend_seen: HalfSeen { age_ms: 250, seq: 1, ack: 1 },
    };
    SessionEntry {
        record,
        state: "established".into(),
        listener: "web".into(),
        backend: "web/web-1".into(),
        director: "d1".into(),
        replicated: true,
        holders: vec!["d1".into(), "d2".into()],
    }
}
