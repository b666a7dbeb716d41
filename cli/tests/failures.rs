//! Everything that can go wrong between the command and a director, and every exit code.

mod fake;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use fake::{Fake, Reply, command, error, ok, ran, run, session};
use holdfast_schema::admin::{ErrorCode, SessionList};
use serde_json::Value;

#[test]
fn an_unreachable_socket_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.sock");
    let err = run(&missing, &["status"]).failed(3);
    assert!(
        err.starts_with(&format!("error: there is no socket {}\n hint: ", missing.display())),
        "{err}"
    );
    assert!(err.contains("is holdfastd running here?") && err.contains("--socket"), "{err}");

    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let err = run(&stale, &["status"]).failed(3);
    assert!(err.contains("exists, but nobody listens on it"), "{err}");

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let err = run(&file, &["status"]).failed(3);
    assert!(err.contains("exists, but it is no socket"), "{err}");

    let long = Path::new("/tmp").join("x".repeat(200));
    let err = run(&long, &["status"]).failed(3);
    assert!(err.contains("cannot open /tmp/xxx"), "{err}");

    let err = run(&missing, &["--output", "json", "status"]).failed(3);
    let err: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(err["code"], "unreachable");
}

#[test]
fn a_forbidden_socket_is_not_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    mode(&socket, 0o000);
    // Root may open everything, so the command is copied and run as nobody.
    let program = dir.path().join("holdfast");
    std::fs::copy(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    mode(&program, 0o755);
    let mut command = std::process::Command::new(&program);
    command.arg("--socket").arg(&socket).arg("status");
    let root = std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if root {
        command.uid(65_534).gid(65_534);
    }
    let err = ran(command.output().unwrap()).failed(4);
    assert!(err.contains(&format!("may not open {} (owner ", socket.display())), "{err}");
    assert!(err.contains("mode 0000)\n hint: run it as root"), "{err}");
}

#[test]
fn the_socket_comes_from_the_environment_if_it_is_not_named() {
    let fake = Fake::always(|| error(ErrorCode::Internal, "so be it", ""));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.env("HOLDFAST_SOCKET", fake.socket()).arg("status");
    assert_eq!(ran(command.output().unwrap()).failed(1), "error: so be it\n");
}

#[test]
fn every_class_of_refusal_has_its_exit_code() {
    for (code, exit) in [
        (ErrorCode::BadRequest, 2),
        (ErrorCode::NotAllowed, 4),
        (ErrorCode::NotFound, 1),
        (ErrorCode::RevisionConflict, 6),
        (ErrorCode::Precondition, 6),
        (ErrorCode::Invalid, 1),
        (ErrorCode::Unsupported, 1),
        (ErrorCode::Unavailable, 5),
        (ErrorCode::Internal, 1),
    ] {
        let fake = Fake::always(move || error(code, "no", "otherwise"));
        assert_eq!(
            fake.run(&["node", "undrain", "d1"]).failed(exit),
            "error: no\n hint: otherwise\n"
        );
        let err: Value =
            serde_json::from_str(&fake.json(&["node", "undrain", "d1"]).failed(exit)).unwrap();
        assert_eq!(err["code"], serde_json::to_value(code).unwrap());
        assert_eq!((&err["message"], &err["hint"]), (&"no".into(), &"otherwise".into()));
    }
}

#[test]
fn strange_answers_are_errors_not_panics() {
    let old = Fake::always(|| Reply::Text(404, "not found"));
    let err = old.run(&["status"]).failed(1);
    assert!(err.contains("the director does not know GET /v1/status"), "{err}");
    let broken = Fake::always(|| Reply::Text(500, "<html>\u{1b}[31m"));
    let err = broken.run(&["status"]).failed(1);
    assert!(err.contains("500") && !err.contains('\u{1b}'), "{err}");
    let nonsense = Fake::always(|| Reply::Text(200, "{\"director\": 5}"));
    let err = nonsense.run(&["status"]).failed(1);
    assert!(err.contains("makes no sense"), "{err}");
    let no_json = Fake::always(|| Reply::Text(200, "hello"));
    assert!(no_json.run(&["status"]).failed(1).contains("makes no sense"));
    let silent = Fake::always(|| Reply::Silence);
    let err = silent.run(&["status"]).failed(3);
    assert!(err.contains("broke off"), "{err}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let nowhere = Path::new("/nonexistent/admin.sock");
    for args in [
        &[][..],
        &["frobnicate"],
        &["status", "--chekc"],
        &["node", "add"],
        &["node", "add", "../etc"],
        &["node", "add", "d1", "--expires", "5"],
        &["node", "add", "d1", "--expires", "1500ms"],
        &["node", "drain", "d1", "--timeout", "0"],
        &["node", "remove", "d1", "--force", " "],
        &["cluster", "init", "--shards", "65"],
        &["cluster", "init", "--shards", "0"],
        &["listener", "add", "x", "--port", "80", "--group", "g"],
        &["listener", "add", "x", "--vip", "1.2.3", "--port", "80", "--group", "g"],
        &["listener", "add", "x", "--vip", "1.2.3.4", "--port", "0", "--group", "g"],
        &[
            "listener",
            "add",
            "x",
            "--vip",
            "1.2.3.4",
            "--port",
            "1",
            "--group",
            "g",
            "--new-udp",
            "ask",
        ],
        &["group", "add", "g", "--path", "/up"],
        &["group", "add", "g", "--health", "none", "--health-port", "5"],
        &["backend", "add", "g", "b", "10.0.0.1"],
        &["backend", "set", "g", "b", "--weight", "1001"],
        &["session", "list", "--client", "nobody"],
        &["session", "list", "--backend", "web"],
        &["session", "list", "--state", "happy"],
        &["apply"],
        &["config", "check"],
        &["--output", "yaml", "status"],
    ] {
        let ran = run(nowhere, args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty());
    }
    let err = run(nowhere, &["--output", "json", "status", "--chekc"]).failed(2);
    let err: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(err["code"], "usage");
    assert!(err["message"].as_str().unwrap().contains("--chekc"), "{err}");
}

#[test]
fn features_to_come_are_refused_by_name() {
    let nowhere = Path::new("/nonexistent/admin.sock");
    let add = ["listener", "add", "x", "--vip", "203.0.113.1", "--port", "80", "--group", "g"];
    for (flag, value, why) in [
        ("--mode", "dnat", "`mode` = \"dnat\" is not there yet (only `full-nat` forwards so far)"),
        ("--mode", "dsr-tunnel", "is not there yet"),
        ("--scheduler", "least-connections", "only `maglev` schedules so far"),
        ("--mode", "fullnat", "cannot be \"fullnat\" (did you mean \"full-nat\"?)"),
        ("--replicate-after", "3", "a number alone has no unit; write `3ms` or `3s`"),
        ("--idle-timeout", "1ms", "it must be from 100ms to 7d"),
    ] {
        let err = run(nowhere, &[&add[..], &[flag, value]].concat()).failed(2);
        assert!(err.contains(why), "{flag} {value}: {err}");
    }
}

#[test]
fn files_are_checked_offline() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/nonexistent/admin.sock");
    let file = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    use holdfast_schema::config::reference::{EXAMPLE_CLUSTER, EXAMPLE_NODE};
    let cluster = file("cluster.toml", EXAMPLE_CLUSTER.as_bytes());
    let node = file("node.toml", EXAMPLE_NODE.as_bytes());
    assert_eq!(
        run(nowhere, &["config", "check", &node, &cluster]).ok(),
        format!(
            "{node}: the node file of director d1, no errors\n\
             {cluster}: a cluster file with 1 listener, 1 group and 2 backends, no errors\n"
        )
    );
    let shown = run(nowhere, &["--output", "json", "config", "check", &node]).value();
    assert_eq!(
        (&shown["files"][0]["kind"], &shown["files"][0]["file"]),
        (&"node".into(), &node.as_str().into())
    );
    let bad = file("bad.toml", b"kind = \"node\"\nid = 5\nspeed = 9\n");
    let worse = file("worse.toml", b"[[listener]]\n");
    let err = run(nowhere, &["config", "check", &bad, &worse]).failed(1);
    for wanted in [
        "bad.toml:2:6: `id` must be a text",
        "bad.toml:3:1: unknown key `speed`",
        "worse.toml:1:1: `kind` is missing",
    ] {
        assert!(err.contains(wanted), "{wanted}: {err}");
    }
    let err = run(nowhere, &["--output", "json", "config", "check", &bad]).failed(1);
    let err: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((&err["code"], &err["errors"][0]["line"]), (&"invalid".into(), &1.into()));
    let latin = file("latin.toml", b"kind = \"node\"\n# \xe9\n");
    let err = run(nowhere, &["config", "check", &latin]).failed(1);
    assert!(err.contains("latin.toml:2: the file is no UTF-8 text"), "{err}");
    // What cannot be read does not hide what is wrong with the others.
    let missing = dir.path().join("missing.toml").display().to_string();
    let all = ["config", "check", &missing, &latin, &bad, &node];
    let err = run(nowhere, &all).failed(1);
    for wanted in [
        "missing.toml: No such file",
        "latin.toml:2: the file is no UTF-8 text",
        "save it so",
        "bad.toml:2:6: `id` must be a text",
    ] {
        assert!(err.contains(wanted), "{wanted}: {err}");
    }
    let err = run(nowhere, &[&["--output", "json"], &all[..]].concat()).failed(1);
    let err: Value = serde_json::from_str(&err).unwrap();
    let errors = err["errors"].as_array().unwrap();
    assert!(
        errors.iter().any(|e| e["message"].as_str().unwrap().contains("missing.toml")),
        "{err}"
    );
    assert!(errors.iter().any(|e| e["file"] == bad.as_str()), "{err}");
    assert!(
        run(nowhere, &["config", "check", dir.path().to_str().unwrap()])
            .failed(1)
            .contains("cannot read")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let fake = Fake::always(|| {
        let sessions = (1..5_000).map(session).collect();
        ok(&SessionList { sessions, truncated: false, missing: vec![] })
    });
    for args in [&["session", "list"][..], &["--output", "json", "session", "list"]] {
        let mut child = fake.command(args).spawn().unwrap();
        let mut first = [0; 6];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    }
    let mut help = command(Path::new("/none"), &["--help"]).spawn().unwrap();
    drop(help.stdout.take());
    assert_eq!(ran(help.wait_with_output().unwrap()).err, "");
}

#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = command(Path::new("/none"), &["completions", "bash"]);
    let ran = ran(command.stdout(full).output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cannot write to standard output"), "{}", ran.err);
}

#[test]
fn help_version_and_completions() {
    let none = Path::new("/none");
    assert_eq!(run(none, &["--version"]).ok(), format!("holdfast {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(none, &["--help"]).ok();
    assert!(help.contains("Exit codes:\n") && help.contains("130  interrupted"), "{help}");
    assert!(run(none, &["node", "drain", "--help"]).ok().contains("--no-wait"));
    for (shell, word) in
        [("bash", "_holdfast()"), ("zsh", "#compdef holdfast"), ("fish", "complete -c holdfast")]
    {
        assert!(run(none, &["completions", shell]).ok().contains(word), "{shell}");
    }
}
