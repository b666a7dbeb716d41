//! The sections of one run.

use std::fmt::Write as _;

use super::text::{date, escape, number, span};
use super::{Head, quantiles, section, tables, timeline};
use crate::scenario::faults::{Rule, rule};
use crate::scenario::report::{AgeReport, Report, Verdict};
use crate::scenario::steps::StepName;

/// What is said of the ages and of what a fault may cost.
pub const AGES: &str = "By age when the fault came: <b>long</b> (older than <code>replicate-after</code> \
    and a second), <b>young</b> (from 50 ms), <b>newborn</b>, and those opened <b>later</b>, while it went \
    on. <b>Moved</b> are those that changed director, at the router. Bold: all are judged. Grey: some could \
    not live; where one was lost a line says which may be. <b class=\"bad\">Red</b> is what the verdict holds \
    against it; <b class=\"some\">amber</b> is within what may be lost. A share with &lt; is a bound: none of \
    <i>n</i> was lost, so the true share is below 3/<i>n</i> with 95 % confidence.";

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
    if report.steps.is_empty() {
        return "The run broke off before anything could be judged.".to_owned();
    }
    let mut toll = Toll::default();
    for step in &report.steps {
        toll.add(step.name, &step.ages);
    }
    toll.text(report.verdict, report.steps.len() as u64)
}

/// What faults cost connections that they had no right to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Toll {
    /// How many there were.
    all: u64,
    /// How many of them changed director.
    moved: u64,
    /// How many were lost that must not be.
    lost: u64,
    /// How many were lost within the share that may be.
    spared: u64,
}

impl Toll {
    /// Adds those of a fault.
    pub fn add(&mut self, fault: StepName, ages: &[AgeReport]) {
        for of in ages {
            let rule = rule(fault, of.age);
            let excess = rule.excess(of);
            self.lost += excess;
            if let Rule::Excused(_) = rule {
                self.all += excess;
                continue;
            }
            self.all += of.eligible;
            self.moved += of.moved;
            self.spared += of.lost.saturating_sub(excess);
        }
    }

    /// In a sentence, which the reason of the verdict follows.
    pub fn text(&self, verdict: Verdict, faults: u64) -> String {
        let faults = match faults {
            1 => "One fault".to_owned(),
            n => format!("{} faults", number(n)),
        };
        let [all, moved, lost] = [self.all, self.moved, self.lost].map(number);
        if self.lost > 0 {
            return format!("{faults}: {lost} of {all} connections that had to survive were lost.");
        }
        let survived = match self.spared {
            0 => format!("{faults}: all {all} connections that had to survive did"),
            n => format!(
                "{faults}: {} of {all} connections that had to survive did, and no more than may be were \
                 lost",
                number(self.all.saturating_sub(n))
            ),
        };
        match verdict {
            Verdict::Pass => format!("{survived}; {moved} of them changed director."),
            Verdict::Fail => format!("{survived}, but not everything went as it had to:"),
            Verdict::Unknown => format!("{survived}, but that proves too little:"),
        }
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
        "What became of each, those first that the fault had no right to; grey ones could not live. Times \
         count from the fault. The director is the one that the router sent it to before the fault, and \
         when it had taken effect; ? where nobody asked, because it was opened or over in between.",
        &tables::lost(report),
    );
    html += &time_line(report);
    html + &stalls(report)
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
        "Shaded: a fault, dark until it had taken effect at the router, light until everything was restored \
         and had settled. The humps of connections are the bursts of young ones before each fault. Point at \
         anything for its numbers.",
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
         machine by itself, before the first fault; <i>before</i> and <i>after</i> are from one fault to the \
         next, while a burst of young connections begins.",
        &plots,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::Age;

    #[test]
    fn the_headline_does_not_contradict_the_verdict() {
        let of =
            |verdict, lost, spared| Toll { all: 3_178, moved: 890, lost, spared }.text(verdict, 6);
        let all = "6 faults: all 3,178 connections that had to survive did";
        assert_eq!(of(Verdict::Pass, 0, 0), format!("{all}; 890 of them changed director."));
        let lost = "6 faults: 7 of 3,178 connections that had to survive were lost.";
        assert_eq!(of(Verdict::Fail, 7, 1), lost);
        assert!(of(Verdict::Fail, 0, 0).contains(", but not everything"));
        assert!(of(Verdict::Unknown, 0, 0).contains(", but that proves too little"));
        let spared = of(Verdict::Pass, 0, 1);
        assert!(
            spared.contains("3,177 of 3,178") && spared.contains("no more than may be"),
            "{spared}"
        );
    }

    #[test]
    fn a_toll_is_of_what_is_judged() {
        let of =
            |age| AgeReport { eligible: 1_000, moved: 1_000, ..AgeReport::new(age, "".into()) };
        let young = AgeReport { lost: 2, moved_lost: 2, ..of(Age::Young) };
        let newborn = AgeReport { lost: 9, moved_lost: 9, not_spared: 3, ..of(Age::Newborn) };
        let mut toll = Toll::default();
        toll.add(StepName::KillDaemon, &[of(Age::Long), young, newborn]);
        assert_eq!(toll, Toll { all: 2_003, moved: 2_000, lost: 4, spared: 1 });
        let mut reshuffled = Toll::default();
        let one = AgeReport { lost: 1, ..of(Age::Later) };
        reshuffled.add(StepName::Reshuffle, &[one]);
        assert_eq!(reshuffled, Toll { all: 1_000, moved: 1_000, lost: 1, spared: 0 });
    }
}
