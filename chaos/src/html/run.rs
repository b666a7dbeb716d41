//! The sections of one run.

use std::fmt::Write as _;

use super::text::{date, escape, number, span};
use super::{Head, quantiles, section, tables, timeline};
use crate::scenario::report::{Report, Verdict};

/// What is said of the ages and of what a fault may cost.
pub const AGES: &str = "By age when the fault came: <b>long</b> (older than <code>replicate-after</code> \
    and a second), <b>young</b> (from 50 ms), <b>newborn</b>, and those opened <b>later</b>, while it went \
    on. Moved are those that changed director, at the router. Where none of <i>n</i> was lost, the true \
    loss is below 3/<i>n</i> with 95 % confidence.";

/// What stands at the top.
pub fn head(report: &Report) -> Head {
    let e = &report.environment;
    Head {
        kicker: format!(
            "Holdfast chaos run · seed {} · commit {} · {} · {}",
            report.seed,
            e.commit,
            date(e.began_unix_ms),
            span(report.took_ms)
        ),
        headline: headline(report),
        reason: report.reason.clone(),
    }
}

/// What happened, in one sentence.
fn headline(report: &Report) -> String {
    let cohorts = || report.steps.iter().flat_map(|s| &s.cohorts);
    let eligible = cohorts().map(|c| c.eligible).sum();
    let lost = cohorts().map(|c| c.eligible.saturating_sub(c.survived)).sum();
    let moved: u64 = report.steps.iter().map(|s| s.eligible_taken_over).sum();
    if report.steps.is_empty() {
        return "The run broke off before anything could be judged.".to_owned();
    }
    survival(report.verdict, report.steps.len() as u64, eligible, lost, Some(moved))
}

/// How many faults, and what they cost those that they had no right to; the reason of the verdict follows
/// it.
pub fn survival(
    verdict: Verdict,
    faults: u64,
    eligible: u64,
    lost: u64,
    moved: Option<u64>,
) -> String {
    let faults = match faults {
        1 => "One fault".to_owned(),
        n => format!("{} faults", number(n)),
    };
    let (all, some) = (number(eligible), number(lost));
    if lost > 0 {
        return format!("{faults}: {some} of {all} connections that had to survive were lost.");
    }
    let survived = format!("{faults}: all {all} connections that had to survive did");
    match (verdict, moved) {
        (Verdict::Pass, Some(moved)) => {
            format!("{survived}, {} of them on another director.", number(moved))
        }
        (Verdict::Pass, None) => format!("{survived}."),
        (Verdict::Fail, _) => format!("{survived}, but not everything went as it had to:"),
        (Verdict::Unknown, _) => format!("{survived}, but that proves too little:"),
    }
}

/// Everything but where it ran.
pub fn body(report: &Report) -> String {
    let mut html = String::new();
    if !report.steps.is_empty() {
        html += &section("What became of the connections", AGES, &tables::survivors(report));
    }
    html += &time_line(report);
    html += &stalls(report);
    html + &section(
        "Lost connections",
        "What became of each, those first that the fault had no right to. Times count from the fault.",
        &tables::lost(report),
    )
}

/// Where it ran, and how to repeat it.
pub fn environment(report: &Report) -> String {
    let command = escape(&report.environment.command);
    section(
        "Where it ran, and how to repeat it",
        "",
        &format!("{}<pre class=\"command\">{command}</pre>", tables::environment(report)),
    )
}

fn time_line(report: &Report) -> String {
    if report.timeline.stalls.max_ms.is_empty() {
        let nothing = "<p>The run broke off before anything could be recorded.</p>";
        return section("Time line", "", nothing);
    }
    // Within a script element only a `<` could end it.
    let series = timeline::series(&report.timeline).to_string().replace('<', "\\u003c");
    let content = format!(
        "<div class=\"wide\">{}</div><script type=\"application/json\" class=\"series\">{series}</script>",
        timeline::draw(&report.timeline)
    );
    section(
        "Time line",
        "Shaded: a fault, dark until the router had reacted, light until everything was restored and had \
         settled. Point at anything for its numbers.",
        &content,
    )
}

fn stalls(report: &Report) -> String {
    if report.stalls.steps.is_empty() {
        return String::new();
    }
    let mut plots = String::from("<div class=\"plots\">");
    let aims = report.steps.iter().filter_map(|step| step.name.stall_bound_ms());
    let most_ms = aims.max().unwrap_or(0).max(quantiles::longest(&report.stalls));
    for (index, (step, stalls)) in report.steps.iter().zip(&report.stalls.steps).enumerate() {
        let name = step.name.name();
        let aim = step.name.stall_bound_ms();
        write!(
            plots,
            "<figure><figcaption>{} {name} {}</figcaption>{}{}</figure>",
            index + 1,
            escape(&step.director),
            quantiles::draw(name, &report.stalls, stalls, aim, most_ms),
            tables::stalls(&report.stalls, stalls)
        )
        .ok();
    }
    plots.push_str("</div>\n");
    section(
        "How long connections stalled",
        "Silence beyond the gap that a connection would have had anyway. Each connection that was there \
         when a phase began counts once, with its longest stall in it; lost ones are left out. A line that \
         stays low until 90 and then rises says that one in ten stalled. <i>Without faults</i> is this \
         machine by itself, before the first fault.",
        &plots,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_does_not_contradict_the_verdict() {
        let of = |verdict, lost, moved| survival(verdict, 6, 3_178, lost, moved);
        let all = "6 faults: all 3,178 connections that had to survive did";
        let pass = format!("{all}, 890 of them on another director.");
        assert_eq!(of(Verdict::Pass, 0, Some(890)), pass);
        assert_eq!(of(Verdict::Pass, 0, None), format!("{all}."));
        let lost = "6 faults: 7 of 3,178 connections that had to survive were lost.";
        assert_eq!(of(Verdict::Fail, 7, None), lost);
        assert!(of(Verdict::Fail, 0, Some(890)).contains(", but not everything"));
        assert!(of(Verdict::Unknown, 0, None).contains(", but that proves too little"));
    }
}
