//! Where the names in a time line go, so that none covers another. Pure.

use super::lanes::Span;
use super::scale::Linear;
use super::svg::text_width;
use super::timeline::{LEFT, MOST_LANES, RIGHT};
use crate::scenario::report::Fault;

/// How many rows of names the faults have.
const LABEL_ROWS: usize = 3;

/// For each fault the row of its label, and whether there is room for more than its number.
pub fn label_rows(faults: &[Fault], x: &Linear) -> Vec<(usize, bool)> {
    let mut taken = [f64::MIN; LABEL_ROWS];
    let mut rows = Vec::new();
    for (index, fault) in faults.iter().enumerate() {
        let from = x.at(fault.begin_ms as f64);
        let place = |text: &str, taken: &mut [f64; LABEL_ROWS]| {
            let (from, until) = label_place(from, text);
            let row = taken.iter().position(|t| *t < from)?;
            taken[row] = until + 14.0;
            Some(row)
        };
        let long = fault_name(index, fault);
        rows.push(match place(&long, &mut taken) {
            Some(row) => (row, true),
            None => (place(&(index + 1).to_string(), &mut taken).unwrap_or(0), false),
        });
    }
    rows
}

/// From where to where a label goes: it ends at the plot's edge at the latest.
pub fn label_place(from: f64, text: &str) -> (f64, f64) {
    let width = text_width(text);
    let from = from.min(RIGHT - width).max(LEFT);
    (from, from + width)
}

/// Its number, what it is, and about whom.
pub fn fault_name(index: usize, fault: &Fault) -> String {
    format!("{} {} {}", index + 1, fault.kind, fault.target)
}

/// The first row that is free for each; those that are under way at the same time have rows of their own,
/// with room for a name beside a short one.
pub fn rows_of(planned: &[Span<String>], x: &Linear) -> Vec<usize> {
    let mut taken: Vec<f64> = Vec::new();
    let mut rows = Vec::new();
    for change in planned {
        let (from, until) = (x.at(change.from as f64), x.at(change.until as f64));
        let row = taken.iter().position(|t| *t <= from).unwrap_or(taken.len()).min(MOST_LANES - 1);
        if row == taken.len() {
            taken.push(0.0);
        }
        taken[row] = until + text_width(&change.what) + 8.0;
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(begin_ms: u64) -> Fault {
        let (kind, target) = ("kill-daemon".into(), "d1".into());
        Fault { kind, target, begin_ms, done_ms: begin_ms + 50, end_ms: begin_ms + 4_000 }
    }

    #[test]
    fn names_that_would_cover_each_other_have_rows_of_their_own_or_are_numbers() {
        let x = Linear::new((0.0, 100_000.0), (LEFT, RIGHT));
        let rows = |begins: &[u64]| {
            let faults: Vec<Fault> = begins.iter().map(|at| fault(*at)).collect();
            label_rows(&faults, &x)
        };
        assert_eq!(rows(&[1_000, 60_000]), [(0, true), (0, true)]);
        assert_eq!(rows(&[1_000, 2_000, 3_000]), [(0, true), (1, true), (2, true)]);
        assert!(!rows(&[1_000, 2_000, 3_000, 4_000])[3].1, "there is room for its number only");
        let (from, until) = label_place(RIGHT, "kill-daemon");
        assert!(from < RIGHT && until <= RIGHT);
    }

    #[test]
    fn changes_at_the_same_time_are_drawn_one_below_the_other() {
        let x = Linear::new((0.0, 100_000.0), (LEFT, RIGHT));
        let span = |from, until| Span { from, until, what: "drain d1".to_owned() };
        assert_eq!(
            rows_of(&[span(0, 9_000), span(1_000, 2_000), span(60_000, 61_000)], &x),
            [0, 1, 0]
        );
    }
}
