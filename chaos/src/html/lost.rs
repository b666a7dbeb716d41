//! What became of each lost connection: those of one fate together, and one by one for those who ask.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::text::{escape, number};
use crate::scenario::faults::{excess, refusal};
use crate::scenario::report::{How, LostConnection, Report, StepReport};

/// A group that is held against the run shows its connections at once, if it has no more than these.
const SHOWN: usize = 50;

/// Whether the rules have room for a loss.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Standing {
    /// They have none.
    Held,
    /// There are more of its age than may be, and nobody can say which is one too many.
    TooMany,
    /// No more than may be.
    Within,
    /// It could not live.
    Excused,
}

/// What all connections of a group have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Fate<'a> {
    standing: Standing,
    how: How,
    /// What whoever noticed said.
    error: &'a str,
    /// What may be lost, and why.
    why: &'a str,
}

/// What became of the lost connections of each step.
pub fn fates(report: &Report) -> String {
    let mut html = String::new();
    for (index, step) in report.steps.iter().enumerate().filter(|(_, step)| !step.lost.is_empty()) {
        let mut groups: BTreeMap<Fate, Vec<&LostConnection>> = BTreeMap::new();
        for lost in &step.lost {
            groups.entry(fate(step, lost)).or_default().push(lost);
        }
        write!(
            html,
            "<details class=\"losses\"{}><summary><b>{} {} {}</b>: {}</summary>",
            if step.lost.iter().all(|l| l.excused) { "" } else { " open" },
            index + 1,
            step.name.name(),
            escape(&step.director),
            escape(&sum(step)),
        )
        .ok();
        let name = step.name.name();
        groups.iter().for_each(|(fate, lost)| group(&mut html, name, fate, lost));
        let all: u64 = step.ages.iter().map(|a| a.lost + a.unconnected).sum();
        let listed = step.lost.len() as u64;
        if all > listed {
            let more = number(all - listed);
            write!(
                html,
                "<p class=\"note\">and {more} more that an older program did not list</p>"
            )
            .ok();
        }
        html.push_str("</details>");
    }
    if html.is_empty() {
        html.push_str("<p>None.</p>");
    }
    html
}

fn fate<'a>(step: &'a StepReport, lost: &'a LostConnection) -> Fate<'a> {
    let age = step.ages.iter().find(|a| a.age == lost.age);
    let why = match lost.how {
        How::NotOpened => refusal(step.name).why(),
        _ => age.map_or("", |a| a.rule.as_str()),
    };
    Fate { standing: standing(step, lost), how: lost.how, error: plain(lost).0, why }
}

fn standing(step: &StepReport, lost: &LostConnection) -> Standing {
    if lost.excused {
        return Standing::Excused;
    }
    let Some(age) = step.ages.iter().find(|a| a.age == lost.age) else { return Standing::Held };
    if lost.how == How::NotOpened {
        // Older programs held none against a run.
        return if age.refused > 0 { Standing::Held } else { Standing::Within };
    }
    let alike = |l: &&LostConnection| !l.excused && l.age == lost.age && l.how != How::NotOpened;
    match excess(step.name, age) {
        0 => Standing::Within,
        n if n >= step.lost.iter().filter(alike).count() as u64 => Standing::Held,
        _ => Standing::TooMany,
    }
}

/// What was said of a loss, and what is besides worth knowing of this one alone.
fn plain(lost: &LostConnection) -> (&str, &str) {
    let at = lost.error.find(" (opened after ").unwrap_or(lost.error.len());
    lost.error.split_at(at)
}

/// How many were lost, and how: `7 lost; 5 reset, 2 silence; 1 not opened`.
fn sum(step: &StepReport) -> String {
    let unopened: u64 = step.ages.iter().map(|a| a.unconnected).sum();
    let told = [sum_of_opened(step), format!("{} not opened", number(unopened))];
    let there = [step.ages.iter().any(|a| a.lost > 0), unopened > 0];
    let told = told.into_iter().zip(there).filter(|(_, there)| *there).map(|(text, _)| text);
    told.collect::<Vec<_>>().join("; ")
}

/// The same of those that were opened.
fn sum_of_opened(step: &StepReport) -> String {
    let mut fates: BTreeMap<How, u64> = BTreeMap::new();
    let opened = || step.lost.iter().filter(|l| l.how != How::NotOpened);
    for lost in opened() {
        *fates.entry(lost.how).or_default() += 1;
    }
    let told = fates.iter().map(|(how, count)| format!("{} {}", number(*count), word(*how)));
    let told: Vec<String> = told.collect();
    let all: u64 = step.ages.iter().map(|a| a.lost).sum();
    let listed = opened().count() as u64;
    let of = match all > listed {
        true => format!("of {} that are known one by one ", number(listed)),
        false => String::new(),
    };
    format!("{} lost; {of}{}", number(all.max(listed)), told.join(", "))
}

/// The word of the report for a fate.
fn word(how: How) -> String {
    let word = serde_json::to_value(how).ok();
    word.and_then(|w| w.as_str().map(str::to_owned)).unwrap_or_default()
}

fn group(html: &mut String, fault: &str, fate: &Fate, lost: &[&LostConnection]) {
    let (class, name, words) = match fate.standing {
        Standing::Held => ("bad", "held", "held against the run"),
        Standing::TooMany => ("bad", "too-many", "more than may be"),
        Standing::Within => ("some", "within", "no more than may be"),
        Standing::Excused => ("note", "excused", "could not live"),
    };
    let open = if fate.standing == Standing::Held && lost.len() <= SHOWN { " open" } else { "" };
    let how = word(fate.how);
    write!(
        html,
        "<details class=\"fate\" data-fault=\"{fault}\" data-how=\"{how}\" data-standing=\"{name}\"{open}><summary><b>{}</b> \
         <b>{how}</b> {} · <b class=\"{class}\">{words}</b> <span class=\"note\">{}</span></summary>\
         <div class=\"wide high\"><table class=\"lost\"><thead><tr><th>age<th class=\"n\">ms old<th>kind\
         <th>client &gt; VIP<th>backend<th class=\"n\">at, ms<th class=\"n\">last byte, ms\
         <th class=\"n\">exchanges<th>director<th></thead><tbody>",
        number(lost.len() as u64),
        escape(fate.error),
        escape(fate.why),
    )
    .ok();
    lost.iter().for_each(|lost| row(html, lost));
    html.push_str("</tbody></table></div></details>");
}

fn row(html: &mut String, lost: &LostConnection) {
    let text = |of: &Option<String>| of.as_deref().map_or_else(|| "?".to_owned(), escape);
    let client = lost.client.map_or_else(|| "?".to_owned(), |c| c.to_string());
    let last = lost.last_byte_ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
    let director = match (&lost.director_before, &lost.director_after) {
        (Some(before), Some(after)) if before == after => escape(before),
        (before, after) => format!("{} → {}", text(before), text(after)),
    };
    write!(
        html,
        "<tr><td>{}<td class=\"n\">{}<td>{}<td>{client} &gt; {}<td>{}<td class=\"n\">{}\
         <td class=\"n\">{last}<td class=\"n\">{}<td>{director}<td>{}</tr>",
        lost.age.name(),
        lost.age_ms,
        escape(&lost.kind),
        lost.vip,
        text(&lost.backend),
        lost.at_ms,
        number(lost.exchanges),
        escape(plain(lost).1.trim()),
    )
    .ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::{Age, AgeReport};

    fn lost(age: Age, how: How, error: &str, excused: bool) -> LostConnection {
        LostConnection {
            id: 1,
            kind: "young".into(),
            age,
            age_ms: 1_000,
            client: None,
            vip: "203.0.113.10:7001".parse().unwrap(),
            backend: None,
            how,
            error: error.into(),
            errno: None,
            at_ms: 400,
            last_byte_ms: None,
            exchanges: 3,
            director_before: None,
            director_after: None,
            excused,
        }
    }

    fn step(age: Age, excess: u64, lost: &[LostConnection]) -> StepReport {
        let unopened = lost.iter().filter(|l| l.how == How::NotOpened).count() as u64;
        let ages = vec![AgeReport {
            lost: lost.len() as u64 - unopened,
            unconnected: unopened,
            excess: Some(excess),
            ..AgeReport::new(age, "so says the rule".into())
        }];
        StepReport { ages, lost: lost.to_vec(), ..StepReport::of_a_crash() }
    }

    /// Each group: its standing, its fate, and how many it has.
    fn groups(step: StepReport) -> Vec<(String, String, usize)> {
        let html = fates(&Report { steps: vec![step], ..Report::default() });
        let word = |text: &str| text.split('"').next().unwrap().to_owned();
        let group = |part: &str| {
            let standing = part.split("data-standing=\"").nth(1).unwrap();
            (word(standing), word(part), part.matches("<td>?<td").count())
        };
        html.split("data-how=\"").skip(1).map(group).collect()
    }

    #[test]
    fn those_of_one_fate_are_together_and_what_is_held_against_the_run_is_first() {
        let young = |how, error, excused| lost(Age::Young, how, error, excused);
        let all = [
            young(How::Silence, "it fell silent", true),
            young(How::Reset, "reading: reset", false),
            young(How::Silence, "it fell silent (opened after 2000 ms)", true),
            young(How::Silence, "it fell silent", false),
            young(How::NotOpened, "connecting: refused", true),
        ];
        let expected = [
            ("held", "reset", 1),
            ("held", "silence", 1),
            ("excused", "silence", 2),
            ("excused", "not-opened", 1),
        ];
        let expected = expected.map(|(s, h, n)| (s.to_owned(), h.to_owned(), n));
        assert_eq!(groups(step(Age::Young, 2, &all)), expected);
    }

    #[test]
    fn who_is_one_too_many_is_not_known_of_a_share() {
        let two = [(); 2].map(|()| lost(Age::Young, How::Silence, "it fell silent", false));
        let standing = |excess| groups(step(Age::Young, excess, &two))[0].0.clone();
        assert_eq!([0, 1, 2].map(standing), ["within", "too-many", "held"]);
    }

    #[test]
    fn all_of_them_are_there() {
        let many = vec![lost(Age::Young, How::Reset, "reading: reset", true); 2_000];
        let of = |step| fates(&Report { steps: vec![step], ..Report::default() });
        let html = of(step(Age::Young, 0, &many));
        assert_eq!(html.matches("<tr><td>young").count(), 2_000);
        assert!(html.contains("2,000 lost; 2,000 reset") && !html.contains("more that"), "{html}");
        let mut older = step(Age::Young, 0, &many[..200]);
        older.ages[0].lost = 2_000;
        let html = of(older);
        assert!(html.contains("2,000 lost; of 200 that are known one by one 200 reset"), "{html}");
        assert!(html.contains("and 1,800 more that an older program did not list"), "{html}");
    }
}
