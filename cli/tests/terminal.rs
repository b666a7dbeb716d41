//! At a terminal (made by script(1) of Debian's bsdutils): questions and overwritten lines.

mod fake;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use fake::{Fake, example, ok, with_config};
use holdfast_schema::admin::DrainStatus;
use holdfast_schema::cluster::MemberState;
use holdfast_schema::config::reference::EXAMPLE_CLUSTER;

/// Runs a command at a terminal; answers `answer` when `question` is shown. Gives its exit code
/// and all the terminal showed.
fn at_a_terminal(fake: &Fake, args: &str, question: &str, answer: &str) -> (i32, String) {
    let program = env!("CARGO_BIN_EXE_holdfast");
    let line = format!("'{program}' --socket '{}' {args}", fake.socket().display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) is there");
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (mut shown, mut answered) = (String::new(), false);
    let mut part = [0; 4_096];
    loop {
        match output.read(&mut part).unwrap() {
            0 => break,
            n => shown += &String::from_utf8_lossy(&part[..n]),
        }
        if !answered && shown.contains(question) {
            answered = true;
            input.write_all(answer.as_bytes()).unwrap();
        }
    }
    drop(input);
    (child.wait().unwrap().code().unwrap(), shown)
}

#[test]
fn apply_asks_before_it_changes_anything() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, EXAMPLE_CLUSTER.replace("port = 443", "port = 444")).unwrap();
    let apply = format!("apply -f '{}'", file.display());
    let asked = "Apply this? [y/N] ";
    for no in ["n\n", "\n", "maybe\n", "\u{4}"] {
        let fake = with_config(example(), 0);
        let (code, shown) = at_a_terminal(&fake, &apply, asked, no);
        assert_eq!(code, 1, "{shown}");
        assert!(shown.contains("~ listener web  port: 443 -> 444"), "{shown}");
        assert!(shown.contains("nothing was changed"), "{shown}");
        assert_eq!(fake.lines(), ["GET /v1/config"]);
    }
    for (more, answer) in [("", "y\n"), ("", "YES\n"), (" --yes", "")] {
        let fake = with_config(example(), 0);
        let (code, shown) = at_a_terminal(&fake, &format!("{apply}{more}"), asked, answer);
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("applied (revision 8)"), "{shown}");
        assert_eq!(shown.contains(asked), more.is_empty());
    }
}

#[test]
fn apply_for_programs_shows_what_it_asks_about() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, EXAMPLE_CLUSTER.replace("port = 443", "port = 444")).unwrap();
    let apply = format!("--output json apply -f '{}'", file.display());
    let asked = "Apply this? [y/N] ";
    let fake = with_config(example(), 0);
    let (code, shown) = at_a_terminal(&fake, &apply, asked, "n\n");
    assert_eq!(code, 1, "{shown}");
    let (before, _) = shown.split_once(asked).expect("the question");
    assert!(before.contains("~ listener web  port: 443 -> 444"), "{shown}");
    let (code, shown) = at_a_terminal(&fake, &format!("{apply} --yes"), asked, "");
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("~ listener web"), "{shown}");
}

#[test]
fn a_drain_overwrites_its_line() {
    let fake = Fake::start(|seen| {
        let drained = seen.method == "GET";
        ok(&DrainStatus {
            name: "d2".into(),
            state: if drained { MemberState::Drained } else { MemberState::Draining },
            step: if drained { "drained".into() } else { "flushing".into() },
            unreplicated: 4,
            owned: 0,
            votes: 0,
            quiet_ms: 0,
            notes: vec![],
        })
    });
    let (code, shown) = at_a_terminal(&fake, "node drain d2", "no question", "");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("\r\u{1b}[Kd2: replicating every session (4 sessions"), "{shown:?}");
    assert!(shown.contains("d2 is drained ("), "{shown:?}");
}
