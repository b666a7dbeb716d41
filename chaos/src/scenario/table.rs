//! The report as people read it.

use std::fmt::Write as _;

use super::again::checkout;
use super::report::{AgeReport, Environment, Report, StepReport, Verdict};

/// The whole report as text.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let head = [
        "step",
        "director",
        "took",
        "repair",
        "routes moved",
        "taken over",
        "survived",
        "young",
        "stall p50",
        "p99",
        "bound",
        "max",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.steps.iter().map(step_row));
    text += "\nEach step as a whole. Stalls are in ms beyond the expected gap, over eligible connections.\n\n";
    text += &aligned(&rows);
    let head = [
        "step",
        "connections",
        "eligible",
        "survived",
        "other backend",
        "corrupt",
        "stall p50",
        "p99",
        "max",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for step in &report.steps {
        rows.extend(cohort_rows(step));
    }
    text += "\nBy kind of connection.\n\n";
    text += &aligned(&rows);
    let mut rows = vec![AGE_HEAD.map(str::to_owned).to_vec()];
    for step in &report.steps {
        rows.extend(age_rows(step.name.name(), "1", &step.ages));
    }
    text += AGE_INTRO;
    text += &aligned(&rows);
    for step in &report.steps {
        if let Some(line) = unconnected(&step.ages) {
            writeln!(text, "{}: {line}", step.name.name()).ok();
        }
        for line in step.notes.iter().chain(&step.losses) {
            writeln!(text, "{}: {line}", step.name.name()).ok();
        }
    }
    let verdict = word(report.verdict);
    let (seed, took) = (report.seed, report.took_ms / 1000);
    writeln!(text, "\n{verdict}: {} (seed {seed}, {took} s)", report.reason).ok();
    let Environment { commit, command, .. } = &report.environment;
    if !command.is_empty() {
        writeln!(text, "Again, {}: {command}", checkout(commit)).ok();
    }
    text
}

/// The verdict as people read it.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Unknown => "UNKNOWN",
    }
}

fn step_row(step: &StepReport) -> Vec<String> {
    let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1000.0);
    let moved = match (step.routes_moved_ms, step.name.routes_bound_ms()) {
        (Some(ms), Some(bound)) => format!("{ms} ms (< {bound})"),
        (Some(ms), None) => format!("{ms} ms"),
        (None, _) => "-".into(),
    };
    let eligible: u64 = step.cohorts.iter().map(|c| c.eligible).sum();
    let survived: u64 = step.cohorts.iter().map(|c| c.survived).sum();
    let bound = step.name.stall_bound_ms();
    let bound = bound.map_or("-".into(), |bound| {
        format!("< {bound}{}", if step.stall_ms.p99 < bound { "" } else { " !" })
    });
    vec![
        step.name.name().into(),
        step.director.clone(),
        seconds(step.took_s.ms),
        seconds(step.repair_s.ms),
        moved,
        step.eligible_taken_over.to_string(),
        format!("{survived} of {eligible}"),
        format!("{} of {}", step.young.survived, step.young.total),
        step.stall_ms.p50.to_string(),
        step.stall_ms.p99.to_string(),
        bound,
        step.stall_ms.max.to_string(),
    ]
}

fn cohort_rows(step: &StepReport) -> Vec<Vec<String>> {
    let row = |(i, c): (usize, &super::report::CohortReport)| {
        vec![
            if i == 0 { step.name.name().to_owned() } else { String::new() },
            c.name.clone(),
            c.eligible.to_string(),
            c.survived.to_string(),
            c.moved_backend.to_string(),
            c.corrupt.to_string(),
            c.stall_ms.p50.to_string(),
            c.stall_ms.p99.to_string(),
            c.stall_ms.max.to_string(),
        ]
    };
    step.cohorts.iter().enumerate().map(row).collect()
}

/// The head of a table of ages.
pub const AGE_HEAD: [&str; 10] = [
    "step",
    "age",
    "runs",
    "connections",
    "moved",
    "lost",
    "of moved",
    "reset",
    "other backend",
    "bound",
];

/// What a table of ages is about.
pub const AGE_INTRO: &str = "\nBy age when the fault came: long, young (from 50 ms), newborn, opened \
    later. Reset: lost by a reset, not by\nsilence that a reset came after. Bound: where none was lost, the \
    share that is lost at the most, with 95 %\nconfidence (3/n).\n\n";

/// The rows of a step in a table of ages.
pub fn age_rows(step: &str, runs: &str, ages: &[AgeReport]) -> Vec<Vec<String>> {
    let there = ages.iter().filter(|a| a.eligible > 0).enumerate();
    there
        .map(|(i, age)| {
            let [step, runs] = if i == 0 { [step, runs] } else { [""; 2] };
            vec![
                step.into(),
                age.age.name().into(),
                runs.into(),
                age.eligible.to_string(),
                age.moved.to_string(),
                age.lost.to_string(),
                age.moved_lost.to_string(),
                age.reset.to_string(),
                age.wrong_backend.to_string(),
                age.bound.map_or("-".into(), |b| format!("< {:.2} %", b * 100.0)),
            ]
        })
        .collect()
}

/// Those that never came to be connections, and are in no row of a table of ages; none: all did.
pub fn unconnected(ages: &[AgeReport]) -> Option<String> {
    let count: u64 = ages.iter().map(|a| a.unconnected).sum();
    let held = match ages.iter().map(|a| a.refused).sum::<u64>() {
        0 => String::new(),
        refused => format!(", {refused} held against it"),
    };
    (count > 0).then(|| format!("{count} connections could not be opened{held}"))
}

/// Columns as wide as their widest cell; the first is aligned left, numbers right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if column < 2 {
                write!(line, " {cell:<width$} ").ok();
            } else {
                write!(line, " {cell:>width$} ").ok();
            }
        }
        writeln!(text, "{}", line.trim_end()).ok();
        if number == 0 {
            let total: usize = widths.iter().map(|w| w + 2).sum();
            writeln!(text, "  {}", "-".repeat(total.saturating_sub(2))).ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::{Age, CohortReport, Stalls};

    #[test]
    fn bounds_stand_beside_what_was_measured() {
        let stalls = Stalls { p50: 12, p99: 900, max: 950 };
        let report = Report {
            verdict: Verdict::Pass,
            reason: "nothing was lost".into(),
            seed: 3,
            took_ms: 200_000,
            steps: vec![StepReport {
                routes_moved_ms: Some(7),
                cohorts: vec![CohortReport::echo(120, 120, stalls)],
                stall_ms: stalls,
                ages: vec![AgeReport {
                    unconnected: 3,
                    refused: 1,
                    ..AgeReport::new(Age::Later, String::new())
                }],
                ..StepReport::of_a_crash()
            }],
            environment: Environment {
                commit: "0123456789ab".into(),
                command: "make demo SEED=3".into(),
                ..Environment::default()
            },
            ..Report::default()
        };
        let text = render(&report);
        let unopened = "kill-daemon: 3 connections could not be opened, 1 held against it";
        assert!(text.contains(unopened), "{text}");
        assert!(text.contains("7 ms (< 100)"), "{text}");
        assert!(text.contains("120 of 120"), "{text}");
        assert!(text.contains("< 800 !"), "a bound that was missed is marked: {text}");
        assert!(text.contains("PASS: nothing was lost (seed 3, 200 s)"), "{text}");
        let again = "Again, in a checkout of commit 0123456789ab: make demo SEED=3\n";
        assert!(text.ends_with(again), "{text}");
    }
}
