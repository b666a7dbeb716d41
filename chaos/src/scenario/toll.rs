//! What a run cost beside what it is judged by: whoever reads PASS has to see how many were lost all the
//! same, in which fault, and why they may be. Pure.

use super::faults::{Rule, excess, refusal, rule};
use super::report::AgeReport;
use super::steps::StepName;

/// What faults cost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Toll {
    /// Connections that had to survive; each counts once for every fault it lived through.
    pub all: u64,
    /// How many of them changed director.
    pub moved: u64,
    /// How many were lost that must not be.
    pub lost: u64,
    /// How many of them were lost within the share that may be.
    pub within: u64,
    /// Those that may be lost and were, by reason.
    allowed: Vec<Allowed>,
    /// Those that could not be opened where that may be, by fault.
    unopened: Vec<(StepName, u64)>,
    /// How many could not be opened that had to be.
    pub refused: u64,
}

/// Losses that one reason allows, by fault.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Allowed {
    why: String,
    faults: Vec<(StepName, u64)>,
}

#[cfg(test)]
impl Toll {
    /// One of which nothing else is told.
    pub fn of_a_test(all: u64, moved: u64, lost: u64, within: u64) -> Toll {
        Toll { all, moved, lost, within, ..Toll::default() }
    }
}

impl Toll {
    /// Adds those of a fault.
    pub fn add(&mut self, fault: StepName, ages: &[AgeReport]) {
        let unopened = ages.iter().map(|a| a.unconnected.saturating_sub(a.refused)).sum();
        if unopened > 0 {
            self.unopened.push((fault, unopened));
        }
        self.refused += ages.iter().map(|a| a.refused).sum::<u64>();
        for of in ages {
            let rule = rule(fault, of.age);
            let excess = excess(fault, of);
            let spared = of.lost.saturating_sub(excess);
            self.lost += excess;
            self.allow(rule, fault, spared);
            if let Rule::Excused(_) = rule {
                self.all += excess;
                continue;
            }
            self.all += of.eligible;
            self.moved += of.moved;
            self.within += spared;
        }
    }

    /// Those that could not be opened, and may be; empty: none.
    pub fn unopened(&self, reasons: bool, number: fn(u64) -> String) -> String {
        let told = self.unopened.iter().map(|(name, count)| {
            let why = if reasons { format!(" ({})", refusal(*name).why()) } else { String::new() };
            format!("{} could not be opened in {}{why}", number(*count), name.name())
        });
        told.collect::<Vec<_>>().join(", ")
    }

    fn allow(&mut self, rule: Rule, fault: StepName, count: u64) {
        if count == 0 {
            return;
        }
        let why = rule.why();
        let at = self.allowed.iter().position(|a| a.why == why).unwrap_or_else(|| {
            self.allowed.push(Allowed { why, faults: Vec::new() });
            self.allowed.len() - 1
        });
        let faults = &mut self.allowed[at].faults;
        match faults.iter_mut().find(|(name, _)| *name == fault) {
            Some((_, sum)) => *sum += count,
            None => faults.push((fault, count)),
        }
    }

    /// How many were lost that may be, and in which faults, with the reasons or without them; empty: none.
    pub fn allowed(&self, reasons: bool, number: fn(u64) -> String) -> String {
        if self.allowed.is_empty() {
            return String::new();
        }
        let all: u64 = self.allowed.iter().flat_map(|a| &a.faults).map(|(_, count)| count).sum();
        let told = self.allowed.iter().map(|allowed| {
            let faults: Vec<String> = allowed
                .faults
                .iter()
                .map(|(name, count)| format!("{} in {}", number(*count), name.name()))
                .collect();
            let why = if reasons { format!(" ({})", allowed.why) } else { String::new() };
            faults.join(", ") + &why
        });
        let told: Vec<String> = told.collect();
        format!("{} more were lost that may be: {}", number(all), told.join(", "))
    }

    /// The same as the end of a verdict's reason.
    pub fn ending(&self) -> String {
        let plain = |n: u64| n.to_string();
        let told = [self.allowed(true, plain), self.unopened(true, plain)];
        told.iter().filter(|t| !t.is_empty()).map(|t| format!("; {t}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::Age;

    fn of(age: Age) -> AgeReport {
        AgeReport { eligible: 1_000, moved: 1_000, ..AgeReport::new(age, "".into()) }
    }

    #[test]
    fn it_is_of_what_is_judged() {
        let young = AgeReport { lost: 2, moved_lost: 2, ..of(Age::Young) };
        let newborn = AgeReport { lost: 9, moved_lost: 9, not_spared: 3, ..of(Age::Newborn) };
        let mut toll = Toll::default();
        toll.add(StepName::KillDaemon, &[of(Age::Long), young, newborn]);
        assert_eq!((toll.all, toll.moved, toll.lost, toll.within), (2_003, 2_000, 4, 1));
        let mut reshuffled = Toll::default();
        reshuffled.add(StepName::Reshuffle, &[AgeReport { lost: 1, ..of(Age::Later) }]);
        let Toll { all, moved, lost, within, .. } = reshuffled;
        assert_eq!((all, moved, lost, within), (1_000, 1_000, 1, 0));
        assert_eq!(reshuffled.ending(), "", "what had no excuse is no matter of excuses");
    }

    #[test]
    fn what_is_excused_is_told_with_its_number_and_its_reason() {
        let mut toll = Toll::default();
        assert_eq!(toll.ending(), "");
        let lost = |age, lost| AgeReport { lost, moved_lost: lost, ..of(age) };
        let young = lost(Age::Young, 400);
        toll.add(StepName::KillAll, &[young, lost(Age::Newborn, 9)]);
        toll.add(StepName::KillDaemon, &[lost(Age::Young, 1), lost(Age::Later, 2)]);
        toll.add(StepName::HangDaemon, &[lost(Age::Newborn, 3)]);
        let short = toll.allowed(false, |n| n.to_string());
        let words = "415 more were lost that may be: 409 in kill-all, 1 in kill-daemon, 2 in kill-daemon, \
                     3 in hang-daemon";
        assert_eq!(short, words);
        let none = AgeReport::new(Age::Later, String::new());
        toll.add(StepName::KillAll, &[AgeReport { unconnected: 3, refused: 1, ..none }]);
        assert_eq!(toll.refused, 1);
        let ending = toll.ending();
        assert!(ending.ends_with("; 2 could not be opened in kill-all (no director served)"));
        for part in [
            "; 415 more were lost that may be: 409 in kill-all (until the store has them",
            "1 in kill-daemon (at most 1 in 1000 of those that changed director)",
            "2 in kill-daemon, 3 in hang-daemon (what is known of them may still be on its way",
        ] {
            assert!(ending.contains(part), "{part}: {ending}");
        }
    }
}
