//! The sections of a matrix: every fault over all seeds, every lab with its verdict, and each run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::run::AGES;
use super::text::{date, escape, number, span};
use super::{Head, run, section, tables, word};
use crate::scenario::report::{MatrixReport, Report, Verdict};
use crate::scenario::toll::Toll;

/// What stands at the top.
pub fn head(report: &MatrixReport) -> Head {
    let seeds: BTreeSet<u64> = report.runs.iter().map(|r| r.seed).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let first = report.runs.first();
    let began = first.map_or_else(String::new, |r| {
        let e = &r.environment;
        format!(" · commit {} · {}", e.commit, date(e.began_unix_ms))
    });
    let mut toll = Toll::default();
    report.faults.iter().for_each(|f| toll.add(f.name, &f.ages));
    let headline = match report.faults.is_empty() {
        true => "Nothing could be judged.".to_owned(),
        false => run::sentence(&toll, report.verdict, report.faults.iter().map(|f| f.runs).sum()),
    };
    Head {
        kicker: format!(
            "Holdfast fault matrix · seeds {}{began} · {}",
            seeds.join(", "),
            span(report.took_ms)
        ),
        headline,
        reason: run::reason(&report.reason, report.verdict, &toll),
    }
}

/// The rest of the page.
pub fn body(report: &MatrixReport) -> String {
    let mut html = section("Every fault, all seeds together", AGES, &tables::faults(report));
    let beneath = match report.runs.iter().any(|run| repeats(run).is_some()) {
        true => " The command beneath repeats that lab only.",
        false => "",
    };
    let note = format!("A lab is raised for each seed; its faults follow one another.{beneath}");
    html += &section("Labs", &note, &labs(report));
    let commit = report.runs.first().map_or("", |r| r.environment.commit.as_str());
    html += &section("How to repeat it", "", &run::again(commit, &report.command));
    for (index, one) in report.runs.iter().enumerate() {
        let open = if one.verdict == Verdict::Pass && report.runs.len() > 1 { "" } else { " open" };
        writeln!(
            html,
            "<details class=\"run\" id=\"run-{index}\"{open}><summary>{} {}</summary>{}{}</details>",
            verdict(one),
            escape(&title(one)),
            run::body(one),
            run::environment(one),
        )
        .ok();
    }
    html
}

fn title(report: &Report) -> String {
    format!("lab {}, seed {}", report.lab, report.seed)
}

fn verdict(report: &Report) -> String {
    let word = word(report.verdict);
    format!("<span class=\"verdict small {}\">{word}</span>", word.to_lowercase())
}

/// The command that repeats this lab alone; older programs told of each lab the command of all of them.
fn repeats(report: &Report) -> Option<&str> {
    Some(report.environment.command.as_str()).filter(|command| command.starts_with("make "))
}

fn labs(report: &MatrixReport) -> String {
    let mut html = String::from(
        "<table class=\"whole\"><thead><tr><th>lab<th class=\"n\">faults<th class=\"n\">took<th>verdict\
         <th>why</thead><tbody>",
    );
    for (index, one) in report.runs.iter().enumerate() {
        write!(
            html,
            "<tr><td class=\"name\"><a href=\"#run-{index}\">{}</a><td class=\"n\">{}<td class=\"n\">{}<td>{}\
             <td>{}{}</tr>",
            escape(&title(one)),
            number(one.steps.len() as u64),
            span(one.took_ms),
            verdict(one),
            escape(&one.reason),
            repeats(one).map(|c| format!("<br><code>{}</code>", escape(c))).unwrap_or_default()
        )
        .ok();
    }
    html + "</tbody></table>"
}
