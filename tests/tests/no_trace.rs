//! A lab leaves nothing behind: not after it went well, not after Ctrl-C, not after a failed run.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::traces::Traces;
use holdfast_tests::{Background, Lab, binary, eventually, run};

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
    let empty = tempfile::tempdir()?;
    let finished = run(
        Command::new(binary("holdfast-chaos"))
            .args(["demo", "--steps", "kill-daemon", "--bin-dir"])
            .arg(empty.path())
            .arg("--report")
            .arg(empty.path().join("report.json")),
        Duration::from_secs(60),
    )?;
    assert_ne!(finished.code, 0, "a lab without binaries cannot pass");
    assert!(
        finished.stderr.contains("holdfastd"),
        "the error names what is missing: {}",
        finished.stderr
    );
    drop(empty);
    nothing_since(&before)
}
