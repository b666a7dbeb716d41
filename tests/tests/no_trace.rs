//! A lab leaves nothing behind: not after it went well, not after Ctrl-C, not after a failed run.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::traces::Traces;
use holdfast_tests::{Background, Lab, binary, eventually, folder, run};

const SOON: Duration = Duration::from_secs(60);

fn nothing_since(before: &Traces) -> Result<()> {
    eventually("everything is gone", Duration::from_secs(15), || {
        let left = Traces::look()?.since(before);
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

#[test]
fn after_lab_up_and_down() -> Result<()> {
    let before = Traces::look()?;
    let lab = Lab::up(2, 1, 1)?;
    ensure!(!Traces::look()?.since(&before).is_empty(), "a standing lab has to be seen");
    lab.down()?;
    nothing_since(&before)
}

#[test]
fn after_ctrl_c() -> Result<()> {
    let before = Traces::look()?;
    let chaos = binary("holdfast-chaos");
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(&chaos);
    command
        .args(["demo", "--steps", "kill-daemon", "--bin-dir"])
        .arg(chaos.parent().context("a binary has a folder")?)
        .arg("--report")
        .arg(dir.path().join("report.json"));
    let mut demo = Background::start(&mut command)?;
    eventually("the lab is being raised", Duration::from_secs(60), || {
        let now = Traces::look()?.since(&before);
        ensure!(now.iter().any(|t| t.starts_with("process: holdfastd")), "no daemon yet");
        Ok(())
    })?;
    demo.signal("INT")?;
    let code = demo.wait(Duration::from_secs(60))?;
    drop(demo);
    drop(dir);
    assert_eq!(code, 130, "exit code after Ctrl-C");
    nothing_since(&before)
}

#[test]
fn after_a_failed_run() -> Result<()> {
    let before = Traces::look()?;
    let broken = folder()?;
    for name in ["holdfastd", "holdfast-guard", "holdfast"] {
        std::os::unix::fs::symlink(binary(name), broken.path().join(name))?;
    }
    // The lab comes up to the point where its daemons are started.
    let daemon = broken.path().join("holdfastd");
    std::fs::remove_file(&daemon)?;
    std::fs::write(&daemon, "#!/bin/sh\necho this daemon ends at once >&2\nexit 1\n")?;
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755))?;
    let path = broken.path().join("report.json");
    std::fs::write(&path, "an older one")?;
    let finished = run(
        Command::new(binary("holdfast-chaos"))
            .args(["demo", "--steps", "kill-daemon", "--bin-dir"])
            .arg(broken.path())
            .arg("--report")
            .arg(&path),
        Duration::from_secs(120),
    )?;
    assert_eq!(finished.code, 2, "nothing is known: {}", finished.stderr);
    assert!(finished.stdout.contains("cluster init on d1"), "half-way up: {}", finished.stdout);
    assert!(finished.stderr.contains("this daemon ends at once"), "{}", finished.stderr);
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    assert_eq!(report["verdict"], "unknown");
    drop(broken);
    nothing_since(&before)
}

#[test]
fn after_a_run_that_cannot_begin() -> Result<()> {
    let before = Traces::look()?;
    let empty = folder()?;
    let path = empty.path().join("report.json");
    std::fs::write(&path, "an older one")?;
    let mut command = Command::new(binary("holdfast-chaos"));
    command.arg("demo").arg("--bin-dir").arg(empty.path()).arg("--report").arg(&path);
    let finished = run(&mut command, Duration::from_secs(60))?;
    assert_eq!(finished.code, 3, "neither fail nor unknown: {}", finished.stderr);
    assert!(finished.stderr.contains("holdfastd is not in"), "{}", finished.stderr);
    assert!(!path.exists(), "an older report speaks for this run");
    drop(empty);
    nothing_since(&before)
}

#[test]
fn after_a_killed_test() -> Result<()> {
    let before = Traces::look()?;
    let dir = folder()?;
    let chaos = binary("holdfast-chaos");
    let mut owner = Background::start(Command::new("sleep").arg("600"))?;
    let mut up = Command::new(&chaos);
    up.args(["lab", "up", "--no-cluster", "--directors", "1", "--owner", &owner.pid().to_string()]);
    run(up.arg("--lab").arg(dir.path().join("lab.json")), Duration::from_secs(60))?.ok()?;
    let stale = || run(Command::new(&chaos).args(["lab", "down", "--stale"]), SOON)?.ok();
    stale()?;
    let namespace = |t: &String| t.starts_with("namespace: hf-x");
    ensure!(Traces::look()?.since(&before).iter().any(namespace), "it went with its owner alive");
    owner.signal("KILL")?;
    owner.wait(SOON)?;
    stale()?;
    drop(dir);
    nothing_since(&before)
}
