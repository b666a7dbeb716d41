//! Several runs side by side: survivors added up, the worst stall of each step beside its bound.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::report::{Report, StepReport, Verdict};
use super::steps::StepName;
use super::table::{aligned, word};

/// The summary of reports in files.
pub fn of_files(files: &[PathBuf]) -> Result<String> {
    let read = |file: &PathBuf| -> Result<Report> {
        let name = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
        serde_json::from_str(&text).with_context(|| format!("{name} is no report of a run"))
    };
    Ok(render(&files.iter().map(read).collect::<Result<Vec<Report>>>()?))
}

/// The summary as text.
pub fn render(reports: &[Report]) -> String {
    let mut steps: BTreeMap<StepName, Vec<&StepReport>> = BTreeMap::new();
    for step in reports.iter().flat_map(|r| &r.steps) {
        steps.entry(step.name).or_default().push(step);
    }
    let head =
        ["step", "runs", "taken over", "survived", "young", "routes moved", "stall p99", "bound"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|(name, runs)| row(*name, runs)));
    let mut text = String::from(
        "\nConnections of all runs together. Times (ms) are the worst of any run: reports hold no \
         single stalls,\nso no percentile over all runs can be told; it is at most the one shown.\n\n",
    );
    text += &aligned(&rows);
    text += "\n";
    for report in reports {
        let word = word(report.verdict);
        writeln!(text, "seed {}: {word}: {}", report.seed, report.reason).ok();
    }
    let passed = reports.iter().filter(|r| r.verdict == Verdict::Pass).count();
    writeln!(text, "{passed} of {} runs passed.", reports.len()).ok();
    text
}

fn row(name: StepName, runs: &[&StepReport]) -> Vec<String> {
    let sum = |of: fn(&StepReport) -> u64| runs.iter().map(|s| of(s)).sum::<u64>();
    let worst = |of: fn(&StepReport) -> u64| runs.iter().map(|s| of(s)).max().unwrap_or(0);
    let survived = sum(|s| s.cohorts.iter().map(|c| c.survived).sum());
    let eligible = sum(|s| s.cohorts.iter().map(|c| c.eligible).sum());
    let moved = runs.iter().filter_map(|s| s.routes_moved_ms).max();
    let moved = match (moved, name.routes_bound_ms()) {
        (Some(ms), Some(bound)) => format!("{ms} (< {bound}{})", missed(ms, bound)),
        (Some(ms), None) => ms.to_string(),
        (None, _) => "-".into(),
    };
    let (p99, bound) = (worst(|s| s.stall_ms.p99), name.stall_bound_ms());
    vec![
        name.name().into(),
        runs.len().to_string(),
        sum(|s| s.eligible_taken_over).to_string(),
        format!("{survived} of {eligible}"),
        format!("{} of {}", sum(|s| s.young.survived), sum(|s| s.young.total)),
        moved,
        p99.to_string(),
        bound.map_or("-".into(), |bound| format!("< {bound}{}", missed(p99, bound))),
    ]
}

fn missed(ms: u64, bound: u64) -> &'static str {
    if ms < bound { "" } else { " !" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::{CohortReport, Stalls, Young};

    fn report(seed: u64, verdict: Verdict, survived: u64, p99: u64) -> Report {
        let stall_ms = Stalls { p50: 1, p99, max: p99 };
        let step = StepReport {
            routes_moved_ms: Some(p99 / 10),
            young: Young { total: 10, survived: 9, ..Young::default() },
            cohorts: vec![CohortReport::echo(100, survived, stall_ms)],
            stall_ms,
            ..StepReport::of_a_crash()
        };
        let reason = "so".into();
        Report { verdict, reason, seed, took_ms: 1, steps: vec![step], ..Report::default() }
    }

    #[test]
    fn survivors_are_added_and_the_worst_stall_stands_beside_its_bound() {
        let runs = [report(1, Verdict::Pass, 100, 400), report(2, Verdict::Fail, 99, 900)];
        let text = render(&runs);
        for part in ["199 of 200", "18 of 20", "80", "90 (< 100)", "900", "< 800 !"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("seed 2: FAIL: so"), "{text}");
        assert!(text.contains("1 of 2 runs passed"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_report_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let error = of_files(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
