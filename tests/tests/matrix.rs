//! The fault matrix in short: one of its faults on real traffic, and what it refuses.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_tests::{Finished, binary, run};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(180);

fn chaos(arguments: &[&str]) -> Result<Finished> {
    let chaos = binary("holdfast-chaos");
    let folder = chaos.parent().context("a binary has a folder")?;
    run(Command::new(&chaos).args(["chaos", "--bin-dir"]).arg(folder).args(arguments), DEADLINE)
}

/// Most connections change director, of any age, while all directors live: whoever gets a packet that it
/// does not know asks the others.
#[test]
fn a_reshuffled_router_costs_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("matrix.json");
    let file = path.display().to_string();
    let fault = ["--faults", "reshuffle", "--seed", "21", "--young", "280", "--report", &file];
    let finished = chaos(&fault)?;
    println!("{}", finished.stdout);
    let text = std::fs::read_to_string(&path).context("the matrix wrote no report")?;
    let report: Value = serde_json::from_str(&text)?;
    assert_eq!(finished.code, 0, "{report:#}\n{}", finished.stderr);
    assert_eq!(report["verdict"], "pass");
    let fault = &report["faults"][0];
    assert_eq!((&fault["name"], &fault["happened"]), (&"reshuffle".into(), &1.into()));
    for (age, fewest) in [(0, 100), (1, 50)] {
        let age = &fault["ages"][age];
        assert!(age["moved"].as_u64() >= Some(fewest), "{fault:#}");
        assert_eq!((&age["lost"], &age["wrong_backend"]), (&0.into(), &0.into()), "{fault:#}");
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_raised() -> Result<()> {
    for (arguments, word) in [
        (&["--faults", "flood"][..], "possible values"),
        (&["--faults", "undrain-node"], "put drain-node before it"),
        (&["--seed", "1", "--seeds", "2"], "cannot be used with"),
        (&["--seeds", "0"], "--seeds"),
        (&["--young", "9000"], "9000"),
    ] {
        let finished = chaos(arguments)?;
        assert_eq!(finished.code, 3, "{arguments:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
    }
    Ok(())
}
