//! The scenario in short: one crash step on real traffic, and both positive controls.
//!
//! A verdict is worth something only if the scenario can also say *fail* and *unknown*, so both are
//! provoked here.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_tests::{Finished, binary, run};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(300);

fn scenario(report: &Path, extra: &[&str]) -> Result<Finished> {
    let chaos = binary("holdfast-chaos");
    run(
        Command::new(&chaos)
            // A busy machine opens fewer in three seconds than the demo wants.
            .args(["demo", "--steps", "kill-daemon", "--young", "420", "--bin-dir"])
            .arg(chaos.parent().context("a binary has a folder")?)
            .arg("--report")
            .arg(report)
            .args(extra),
        DEADLINE,
    )
}

fn report(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).context("the scenario wrote no report")?;
    Ok(serde_json::from_str(&text)?)
}

fn sum(step: &Value, field: &str) -> u64 {
    step["cohorts"]
        .as_array()
        .map_or(0, |cohorts| cohorts.iter().map(|cohort| cohort[field].as_u64().unwrap_or(0)).sum())
}

#[test]
fn connections_survive_the_death_of_their_director() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("report.json");
    let finished = scenario(&path, &["--seed", "11"])?;
    println!("{}", finished.stdout);
    let report = report(&path)?;
    assert_eq!(finished.code, 0, "{report:#}\n{}", finished.stderr);
    assert_eq!(report["verdict"], "pass");
    let step = &report["steps"][0];
    assert_eq!(step["name"], "kill-daemon");
    assert!(step["eligible_taken_over"].as_u64() >= Some(40), "{step:#}");
    assert!(sum(step, "eligible") >= 200, "{step:#}");
    assert_eq!(sum(step, "survived"), sum(step, "eligible"), "{step:#}");
    assert_eq!(sum(step, "moved_backend") + sum(step, "corrupt"), 0, "{step:#}");
    let young = &step["ages"][1];
    assert_eq!(young["age"], "young");
    assert!(young["moved"].as_u64() >= Some(300), "{young:#}");
    Ok(())
}

/// Both controls, side by side in labs of their own: what they say does not depend on time.
#[test]
fn the_scenario_can_also_say_fail_and_unknown() -> Result<()> {
    std::thread::scope(|scope| {
        let lossy = scope.spawn(without_replication_connections_are_lost);
        let calm = scope.spawn(without_a_fault_nothing_is_known);
        for control in [lossy, calm] {
            control.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

fn without_replication_connections_are_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("report.json");
    let finished = scenario(&path, &["--seed", "12", "--control", "never"])?;
    let report = report(&path)?;
    assert_eq!(finished.code, 1, "{report:#}\n{}", finished.stderr);
    assert_eq!(report["verdict"], "fail");
    let step = &report["steps"][0];
    assert!(sum(step, "survived") < sum(step, "eligible"), "nothing was lost: {step:#}");
    Ok(())
}

fn without_a_fault_nothing_is_known() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("report.json");
    let finished = scenario(&path, &["--seed", "13", "--no-inject"])?;
    let report = report(&path)?;
    assert_eq!(finished.code, 2, "{report:#}\n{}", finished.stderr);
    assert_eq!(report["verdict"], "unknown");
    Ok(())
}
