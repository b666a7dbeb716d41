//! The tables of the page.

use std::fmt::Write as _;

use super::quantiles::{PHASES, phases};
use super::text::{date, escape, number, percent, span};
use crate::scenario::faults::{Rule, excess, rule};
use crate::scenario::report::{
    AgeReport, CohortReport, MatrixReport, Report, StallPhases, StepReport, StepStalls,
};
use crate::scenario::steps::StepName;

/// What became of the connections in each step by age; by kind in a table that opens when asked for.
pub fn survivors(report: &Report) -> String {
    let mut ages = String::from(AGES_HEAD);
    for (index, step) in report.steps.iter().enumerate() {
        let first = |rows| fault(index, step, rows);
        age_rows(&mut ages, step.name, &step.ages, &first);
    }
    let mut kinds = String::from(
        "<div class=\"wide\"><table class=\"whole kinds\"><thead><tr><th>fault<th>kind\
         <th class=\"n\">connec-<br>tions<th class=\"n\">survived<th class=\"n\">lost\
         <th class=\"n\">wrong<br>backend<th class=\"n\">damaged<th class=\"n\">share<br>lost</thead>",
    );
    for (index, step) in report.steps.iter().enumerate() {
        kinds.push_str("<tbody>");
        for (number, cohort) in step.cohorts.iter().enumerate() {
            let first = (number == 0).then(|| fault(index, step, step.cohorts.len()));
            kind_row(&mut kinds, step.name.name(), cohort, &first.unwrap_or_default());
        }
        kinds.push_str("</tbody>");
    }
    format!(
        "{ages}</table></div><details><summary>By kind of connection: those that the fault had no right \
         to lose</summary>{kinds}</table></div></details>\n"
    )
}

/// Every fault over all runs.
pub fn faults(report: &MatrixReport) -> String {
    let mut html = String::from(AGES_HEAD);
    for of in &report.faults {
        let happened = match of.happened == of.runs {
            true => format!("happened in {} of {} runs", of.happened, of.runs),
            false => {
                format!("<b class=\"doubt\">happened in {} of {} runs</b>", of.happened, of.runs)
            }
        };
        let first = |rows: usize| {
            format!(
                "<th scope=\"rowgroup\" rowspan=\"{rows}\"><b>{}</b><br><span class=\"note\">{}; \
                 {happened}</span></th>",
                of.name.name(),
                escape(&of.what)
            )
        };
        age_rows(&mut html, of.name, &of.ages, &first);
    }
    html + "</table></div>"
}

const AGES_HEAD: &str = "<div class=\"wide\"><table class=\"whole survivors\"><thead><tr><th>fault\
    <th>age<th class=\"n\">connec-<br>tions<th class=\"n\">moved<th class=\"n\">survived\
    <th class=\"n\">lost<th class=\"n\">lost of<br>moved<th class=\"n\">reset\
    <th class=\"n\">wrong<br>backend<th class=\"n\">share<br>lost<th class=\"n\">share of<br>moved lost\
    <th class=\"n\">not<br>opened</thead>";

/// The rows of a fault: one for each age that there was.
fn age_rows(html: &mut String, of: StepName, ages: &[AgeReport], first: &dyn Fn(usize) -> String) {
    let fault = of.name();
    let there: Vec<&AgeReport> = ages.iter().filter(|a| a.eligible + a.unconnected > 0).collect();
    html.push_str("<tbody>");
    if there.is_empty() {
        write!(html, "<tr>{}<td colspan=\"11\" class=\"note\">no connections</tr>", first(1)).ok();
    }
    for (index, age) in there.iter().enumerate() {
        // A rule is worth its words where something was lost: they have a row of their own.
        let rows = there.len() + there.iter().filter(|a| a.lost > 0).count();
        let first = if index == 0 { first(rows) } else { String::new() };
        let allowed = rule(of, age.age);
        let (judged, lost) = match (allowed, excess(of, age)) {
            (Rule::Excused(_), 0) => ("shown", "n"),
            (Rule::Excused(_), _) => ("shown", "n bad"),
            (_, 0) => ("judged", "n some"),
            _ => ("judged", "n bad"),
        };
        let class = |n: u64| if n > 0 { lost } else { "n" };
        let name = age.age.name();
        // An older program counted those among them that were reset when silence had lost them.
        let at_most = if age.silent_reset.is_none() && age.reset > 0 { "≤ " } else { "" };
        write!(
            html,
            "<tr class=\"{judged}\" data-fault=\"{fault}\" data-cohort=\"{name}\">{first}\
             <td title=\"{}\">{name}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}\
             <td class=\"{}\">{}<td class=\"{}\">{}<td class=\"{}\">{at_most}{}<td class=\"{}\">{}\
             <td class=\"n\">{}<td class=\"n\">{}<td class=\"{}\">{}</tr>",
            escape(&age.rule),
            number(age.eligible),
            number(age.moved),
            number(age.survived),
            class(age.lost),
            number(age.lost),
            class(age.moved_lost),
            number(age.moved_lost),
            class(age.reset),
            number(age.reset),
            if age.wrong_backend > 0 { "n bad" } else { "n" },
            number(age.wrong_backend),
            bound(age.eligible, age.lost),
            bound(age.moved, age.moved_lost),
            if age.refused > 0 { "n bad" } else { "n" },
            number(age.unconnected),
        )
        .ok();
        if age.lost > 0 {
            let words = escape(&age.rule);
            write!(html, "<tr><td colspan=\"11\" class=\"rule note\">{words}</tr>").ok();
        }
    }
    html.push_str("</tbody>");
}

/// The cell that a step's rows share.
fn fault(index: usize, step: &StepReport, rows: usize) -> String {
    let mut html = format!(
        "<th scope=\"rowgroup\" rowspan=\"{rows}\"><b>{} {}</b> {}<br><span class=\"note\">",
        index + 1,
        step.name.name(),
        escape(&step.director)
    );
    if step.happened {
        let apart = step.name.is_planned() || step.name == StepName::ClockJump;
        match (step.routes_moved_ms, step.routes_changed) {
            (Some(ms), _) if apart => write!(html, "routes moved within {}", span(ms)).ok(),
            (Some(ms), _) => write!(html, "routes moved after {}", span(ms)).ok(),
            // Nobody waited for them: some directors wanted no traffic for a while.
            (None, Some(n)) if n > 0 => write!(html, "routes moved {n} times").ok(),
            (None, _) => write!(html, "no route had to move").ok(),
        };
    } else {
        html.push_str("<b class=\"doubt\">did not really happen</b>");
    }
    write!(html, ", settled after {}", span(step.took_s.ms + step.repair_s.ms)).ok();
    if let Some(ms) = step.slowest_opening_ms {
        write!(html, ", slowest opening {}", span(ms)).ok();
    }
    html.push_str("</span>");
    for note in &step.notes {
        write!(html, "<br><span class=\"note\">{}</span>", escape(note)).ok();
    }
    html + "</th>"
}

fn kind_row(html: &mut String, fault: &str, of: &CohortReport, first: &str) {
    let lost = of.eligible.saturating_sub(of.survived);
    let class = |n: u64| if n > 0 { "n bad" } else { "n" };
    let name = escape(&of.name);
    write!(
        html,
        "<tr data-fault=\"{fault}\" data-cohort=\"{name}\">{first}<td>{name}<td class=\"n\">{}\
         <td class=\"n\">{}<td class=\"{}\">{}<td class=\"{}\">{}<td class=\"{}\">{}<td class=\"n\">{}</tr>",
        number(of.eligible),
        number(of.survived),
        class(lost),
        number(lost),
        class(of.moved_backend),
        number(of.moved_backend),
        class(of.corrupt),
        number(of.corrupt),
        bound(of.eligible, lost),
    )
    .ok();
}

/// What the numbers speak for: with none of `n` lost, a loss below 3/n (rule of three); else the share.
fn bound(n: u64, lost: u64) -> String {
    match (n, lost) {
        (0, _) => "–".to_owned(),
        (_, 0) => format!("&lt; {}", percent((3.0 / n as f64).min(1.0))),
        _ => format!("{} lost", percent(lost as f64 / n as f64)),
    }
}

/// Stalls around a step in numbers.
pub fn stalls(all: &StallPhases, step: &StepStalls) -> String {
    let mut html = String::from(
        "<table class=\"small\"><thead><tr><th>phase<th class=\"n\">count<th class=\"n\">p50\
         <th class=\"n\">p99<th class=\"n\">longest</thead><tbody>",
    );
    for ((class, name), of) in PHASES.iter().zip(phases(all, step)) {
        let some = |ms| if of.count > 0 { span(ms) } else { "–".to_owned() };
        let [p50, p99] = [0.5, 0.99].map(|share| some(of.quantile(share)));
        write!(
            html,
            "<tr data-phase=\"{class}\"><td><i class=\"key {class}\"></i>{name}<td class=\"n\">{}\
             <td class=\"n\">{p50}<td class=\"n\">{p99}<td class=\"n\">{}</tr>",
            number(of.count),
            some(of.max_ms)
        )
        .ok();
    }
    html + "</tbody></table>"
}

/// Where the run was made.
pub fn environment(report: &Report) -> String {
    let e = &report.environment;
    let load = |hundredths: u64| format!("{:.2}", hundredths as f64 / 100.0);
    let rows = [
        ("began", date(e.began_unix_ms)),
        ("took", span(report.took_ms)),
        ("commit", e.commit.clone()),
        ("seed", report.seed.to_string()),
        (
            "lab",
            format!("{} directors, {} backends, {} clients", e.directors, e.backends, e.clients),
        ),
        (
            "settings",
            format!(
                "replicate-after {}, guard-timeout {} ms",
                e.replicate_after, e.guard_timeout_ms
            ),
        ),
        ("kernel", e.kernel.clone()),
        ("processors", format!("{} × {}", e.cores, e.processor)),
        ("memory", format!("{} MiB", number(e.memory_mib))),
        ("load", format!("{} before, {} at the end", load(e.load_before), load(e.load_after))),
    ];
    let mut html = String::from("<dl>");
    for (name, value) in rows {
        write!(html, "<dt>{name}<dd>{}", escape(&value)).ok();
    }
    html + "</dl>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_rule_of_three_or_what_was_lost() {
        assert_eq!(bound(400, 0), "&lt; 0.75 %");
        assert_eq!(bound(2, 0), "&lt; 100 %");
        assert_eq!(bound(400, 2), "0.5 % lost");
        assert_eq!(bound(0, 0), "–");
    }

    #[test]
    fn it_is_told_that_routes_moved_though_nobody_waited_for_them() {
        let told = |routes_moved_ms, routes_changed| {
            let step = StepReport { routes_moved_ms, routes_changed, ..StepReport::of_a_crash() };
            fault(0, &step, 1)
        };
        assert!(told(Some(30), Some(2)).contains("routes moved after 30 ms"));
        assert!(told(None, Some(6)).contains("routes moved 6 times"));
        for none in [None, Some(0)] {
            assert!(told(None, none).contains("no route had to move"));
        }
    }
}
