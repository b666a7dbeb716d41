//! The sections of one run.

use std::fmt::Write as _;

use super::text::{date, escape, number, span};
use super::{Head, lost, quantiles, section, tables, timeline};
use crate::scenario::again::checkout;
use crate::scenario::report::{Report, Verdict};
use crate::scenario::toll::Toll;

/// What is said of the ages and of what a fault may cost.
pub const AGES: &str = "By age when the fault came: <b>long</b> (older than <code>replicate-after</code> \
    and a second), <b>young</b> (from 50 ms), <b>newborn</b>, and those opened <b>later</b>, while it went \
    on. <b>Moved</b> are those that changed director, at the router, be it for a while. <b>Reset</b> are those \
    that were lost by one: who was silent for too long before it came was lost by silence. Bold: all are judged. Grey: some could \
    not live; where one was lost a line says which may be. <b class=\"bad\">Red</b> is what the verdict holds \
    against it; <b class=\"some\">amber</b> is within what may be lost. <b>Not opened</b> is held against it \
    wherever some director served, but for those that got an error because the router still sent them to one \
    that was gone; what takes 10 s to open (<code>kill-all</code>: 40 s) was not opened. A share with &lt; is a bound: none of \
    <i>n</i> was lost, so the true share is below 3/<i>n</i> with 95 % confidence.";

/// What stands at the top.
pub fn head(report: &Report) -> Head {
    let e = &report.environment;
    let mut toll = Toll::default();
    report.steps.iter().for_each(|step| toll.add(step.name, &step.ages));
    Head {
        kicker: format!(
            "Holdfast chaos run · seed {} · commit {} · {} · {}",
            report.seed,
            e.commit,
            date(e.began_unix_ms),
            span(report.took_ms)
        ),
        headline: headline(report, &toll),
        reason: reason(&report.reason, report.verdict, &toll),
    }
}

/// What happened, in one sentence.
fn headline(report: &Report, toll: &Toll) -> String {
    if report.steps.is_empty() {
        return "The run broke off before anything could be judged.".to_owned();
    }
    sentence(toll, report.verdict, report.steps.len() as u64)
}

/// What faults cost, in sentences, which the reason of the verdict follows.
pub fn sentence(toll: &Toll, verdict: Verdict, faults: u64) -> String {
    let each = if faults == 1 { "" } else { " (each counts once a fault)" };
    let faults = match faults {
        1 => "One fault".to_owned(),
        n => format!("{} faults", number(n)),
    };
    let [all, moved, lost] = [toll.all, toll.moved, toll.lost].map(number);
    let allowed = [toll.allowed(false, number), toll.unopened(false, number)];
    let allowed: String =
        allowed.iter().filter(|a| !a.is_empty()).map(|a| format!(" {a}.")).collect();
    let refused = match toll.refused {
        0 => String::new(),
        n => format!(" {} could not be opened that had to be.", number(n)),
    };
    if toll.lost > 0 {
        return format!(
            "{faults}: {lost} of {all} connections that had to survive were lost{each}.{refused}{allowed}"
        );
    }
    let survived = match toll.within {
        0 => format!("{faults}: all {all} connections that had to survive did{each}"),
        n => format!(
            "{faults}: {} of {all} connections that had to survive did{each}, and no more than may be were \
             lost",
            number(toll.all.saturating_sub(n))
        ),
    };
    match verdict {
        Verdict::Pass => format!("{survived}; {moved} of them changed director.{allowed}"),
        Verdict::Fail if toll.refused > 0 => format!("{survived}.{allowed} But{refused}"),
        Verdict::Fail => format!("{survived}.{allowed} But not everything went as it had to:"),
        Verdict::Unknown => format!("{survived}.{allowed} But that proves too little:"),
    }
}

/// The reason of a verdict; that of an older report does not tell what may be lost and was.
pub fn reason(reason: &str, verdict: Verdict, toll: &Toll) -> String {
    let ending = toll.ending();
    match verdict == Verdict::Pass && !reason.contains(&ending) {
        true => reason.to_owned() + &ending,
        false => reason.to_owned(),
    }
}

/// Everything but where it ran.
pub fn body(report: &Report) -> String {
    let mut html = String::new();
    if !report.steps.is_empty() {
        html += &section("What became of the connections", AGES, &tables::survivors(report));
    }
    html += &section(
        "Lost connections",
        "What became of each, grouped by fate: what its client saw, and whether the fault may cost it that. \
         What is held against the run comes first, grey ones could not live; open a group for its \
         connections one by one. Those that could not be opened are among them. Times count from the fault. \
         The director is the one that the router sent it to before the fault, and when it had taken effect; \
         ? where nobody asked, because it was opened or over in between.",
        &lost::fates(report),
    );
    html += &time_line(report);
    html + &stalls(report)
}

/// Where it ran, and how to repeat it.
pub fn environment(report: &Report) -> String {
    let again = again(&report.environment.commit, &report.environment.command);
    let content = format!("{}{again}", tables::environment(report));
    section("Where it ran, and how to repeat it", "", &content)
}

/// A command, and where it repeats what it did.
pub fn again(commit: &str, command: &str) -> String {
    let (checkout, command) = (escape(&checkout(commit)), escape(command));
    format!("<p class=\"note\">Again, {checkout}:</p><pre class=\"command\">{command}</pre>")
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
        "Shaded: a fault, dark until it had taken effect at the router, light until everything was restored \
         and had settled. The humps of connections are bursts of young ones: one without a fault, then \
         one before each. Point at anything for its numbers.",
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
         stays low until 90 and then rises says that one in ten stalled. <i>Without faults</i> is before the \
         first fault: the load, the burst of young connections and the length of a crash, but nothing was \
         done; <i>before</i> and <i>after</i> are from one fault to the \
         next, while a burst of young connections begins.",
        &plots,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::{Age, AgeReport, StepReport};
    use crate::scenario::steps::StepName;

    #[test]
    fn the_headline_does_not_contradict_the_verdict() {
        let of = |verdict, lost, within| {
            let toll = Toll::of_a_test(3_178, 890, lost, within);
            sentence(&toll, verdict, 6)
        };
        let all =
            "6 faults: all 3,178 connections that had to survive did (each counts once a fault)";
        assert_eq!(of(Verdict::Pass, 0, 0), format!("{all}; 890 of them changed director."));
        let lost = "6 faults: 7 of 3,178 connections that had to survive were lost (each counts once a fault).";
        assert_eq!(of(Verdict::Fail, 7, 1), lost);
        assert!(of(Verdict::Fail, 0, 0).contains(". But not everything"));
        assert!(of(Verdict::Unknown, 0, 0).contains(". But that proves too little"));
        let within = of(Verdict::Pass, 0, 1);
        assert!(
            within.contains("3,177 of 3,178") && within.contains("no more than may be"),
            "{within}"
        );
    }

    #[test]
    fn a_pass_tells_at_the_top_what_it_excused_and_why() {
        let young =
            AgeReport { eligible: 1_700, lost: 1_664, ..AgeReport::new(Age::Young, String::new()) };
        let step =
            StepReport { name: StepName::KillAll, ages: vec![young], ..StepReport::of_a_crash() };
        let reason = "nothing was lost that had to survive".to_owned();
        let mut report =
            Report { verdict: Verdict::Pass, reason, steps: vec![step], ..Report::default() };
        let older = head(&report);
        let words = "1,664 more were lost that may be: 1,664 in kill-all.";
        assert!(older.headline.ends_with(words), "{}", older.headline);
        assert!(older.reason.contains("1664 in kill-all (until the store"), "{}", older.reason);
        report.reason = older.reason.clone();
        assert_eq!(head(&report).reason, older.reason, "it is told once");
    }
}
