//! From what the directors said to spans of time: what each was doing, who led, which tables. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::report::{Lane, Said};

/// A span of time in which something was so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span<T> {
    /// From when (ms since the run began).
    pub from: u64,
    /// Until when.
    pub until: u64,
    /// What.
    pub what: T,
}

/// What a director was doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// It had not answered yet: it was not started.
    NotThere,
    /// It did not answer.
    Silent,
    /// It answered, and the router was not told to use it: it joins, drains, or is not ready.
    Withdrawn,
    /// It was announced, only that another path is better.
    Worse,
    /// It was announced.
    Announced,
}

/// What a director was doing, in words and as a class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// What.
    pub doing: Doing,
    /// The same in words.
    pub words: String,
}

/// What a director was doing from its first word to the end of the run.
pub fn doing(lane: &Lane, end: u64) -> Vec<Span<Told>> {
    let first = lane.changes.iter().position(|c| c.said.is_some());
    let first_ms = first.map_or(0, |first| lane.changes[first].at_ms);
    spans(lane, end, |at_ms, said| {
        let Some(said) = said else {
            return match at_ms < first_ms {
                true => Told { doing: Doing::NotThere, words: "not started".into() },
                false => Told { doing: Doing::Silent, words: "no answer".into() },
            };
        };
        let state = said.state.as_deref().unwrap_or("waiting");
        let shown = said.announcement.as_deref().unwrap_or("not announced");
        let doing = match shown {
            "announced" => Doing::Announced,
            "worse" => Doing::Worse,
            _ => Doing::Withdrawn,
        };
        let ready = if said.ready { "" } else { ", not ready" };
        // What operators want of it says more than what BIRD shows, unless that is the usual.
        let words = if state == "active" {
            format!("{shown}{ready}")
        } else {
            format!("{state}, {shown}{ready}")
        };
        Told { doing, words }
    })
}

/// The tables that a director forwarded by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tables {
    /// Configuration revision.
    pub revision: u64,
    /// Health version.
    pub health_version: u64,
    /// Their hash.
    pub hash: u64,
    /// Another director had a different hash for the same revision and health version.
    pub differs: bool,
}

/// The tables of each director; none: unknown.
pub fn tables(lanes: &[Lane], end: u64) -> Vec<Vec<Span<Option<Tables>>>> {
    let of = |said: &Said| Some((said.revision?, said.health_version?, said.table_hash?));
    let mut hashes: BTreeMap<(u64, u64), BTreeSet<u64>> = BTreeMap::new();
    let all = lanes.iter().flat_map(|lane| &lane.changes).filter_map(|c| c.said.as_ref());
    for (revision, health_version, hash) in all.filter_map(of) {
        hashes.entry((revision, health_version)).or_default().insert(hash);
    }
    let tables = |_: u64, said: Option<&Said>| {
        let (revision, health_version, hash) = of(said?)?;
        let differs = hashes.get(&(revision, health_version)).is_some_and(|all| all.len() > 1);
        Some(Tables { revision, health_version, hash, differs })
    };
    lanes.iter().map(|lane| spans(lane, end, tables)).collect()
}

/// Who led the control group, and in which term.
pub type Leader = Option<(String, u64)>;

/// The leader of the control group: of all that is said at a time, the highest term counts.
pub fn leaders(lanes: &[Lane], end: u64) -> Vec<Span<Leader>> {
    together(lanes, end, |said| {
        let best = said.filter_map(|(_, s)| Some((s.term?, s.leader.clone()))).max();
        best.and_then(|(term, leader)| Some((leader?, term)))
    })
}

/// How many session groups each director led, by its own word; in the order of the lanes.
pub fn led(lanes: &[Lane], end: u64) -> Vec<Span<Vec<u32>>> {
    together(lanes, end, |said| {
        let mut led = vec![0; lanes.len()];
        said.for_each(|(index, s)| led[index] = s.shards_led);
        led
    })
}

/// When terms of session groups rose: elections.
pub fn elections(lanes: &[Lane], end: u64) -> Vec<u64> {
    let mut highest = 0;
    let terms = together(lanes, end, |said| said.map(|(_, s)| s.shard_terms).max().unwrap_or(0));
    let mut rises = Vec::new();
    for span in terms {
        if span.what > highest {
            // The first is no election that was seen.
            if highest > 0 {
                rises.push(span.from);
            }
            highest = span.what;
        }
    }
    rises
}

/// Planned changes under way, each as a span; as the directors with the newest term say.
pub fn planned(lanes: &[Lane], end: u64) -> Vec<Span<String>> {
    let all = together(lanes, end, |said| {
        let newest = said.max_by_key(|(_, s)| (s.term, s.revision));
        newest.map(|(_, s)| s.planned.clone()).unwrap_or_default()
    });
    let mut done: Vec<Span<String>> = Vec::new();
    for span in all {
        for what in span.what {
            match done.iter_mut().rev().find(|d| d.what == what && d.until == span.from) {
                Some(going_on) => going_on.until = span.until,
                None => done.push(Span { from: span.from, until: span.until, what }),
            }
        }
    }
    done
}

/// Spans of one director; neighbours that say the same are one.
fn spans<T: PartialEq>(
    lane: &Lane,
    end: u64,
    of: impl Fn(u64, Option<&Said>) -> T,
) -> Vec<Span<T>> {
    let mut spans: Vec<Span<T>> = Vec::new();
    for (index, change) in lane.changes.iter().enumerate() {
        let until = lane.changes.get(index + 1).map_or(end, |next| next.at_ms).min(end);
        push(
            &mut spans,
            Span { from: change.at_ms, until, what: of(change.at_ms, change.said.as_ref()) },
        );
    }
    spans
}

/// Spans of all directors together: what follows from everything that is said at a time.
fn together<T: PartialEq>(
    lanes: &[Lane],
    end: u64,
    of: impl Fn(&mut dyn Iterator<Item = (usize, &Said)>) -> T,
) -> Vec<Span<T>> {
    let times: BTreeSet<u64> = lanes.iter().flat_map(|l| &l.changes).map(|c| c.at_ms).collect();
    let times: Vec<u64> = times.into_iter().collect();
    let mut at = vec![0; lanes.len()];
    let mut spans: Vec<Span<T>> = Vec::new();
    for (index, now) in times.iter().enumerate() {
        for (lane, at) in lanes.iter().zip(&mut at) {
            *at += lane.changes[*at..].iter().take_while(|c| c.at_ms <= *now).count();
        }
        let said =
            lanes.iter().zip(&at).enumerate().filter_map(|(lane, (l, at))| {
                Some((lane, l.changes[..*at].last()?.said.as_ref()?))
            });
        let what = of(&mut { said });
        let until = times.get(index + 1).copied().unwrap_or(end).min(end);
        push(&mut spans, Span { from: *now, until, what });
    }
    spans
}

fn push<T: PartialEq>(spans: &mut Vec<Span<T>>, span: Span<T>) {
    if span.from >= span.until {
        return;
    }
    match spans.last_mut() {
        Some(last) if last.what == span.what && last.until == span.from => last.until = span.until,
        _ => spans.push(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::Change;

    fn lane(name: &str, changes: &[(u64, Option<Said>)]) -> Lane {
        let changes = changes.iter().cloned().map(|(at_ms, said)| Change { at_ms, said });
        Lane { name: name.into(), changes: changes.collect(), unrecorded: 0 }
    }

    fn says(leader: &str, term: u64, hash: u64) -> Option<Said> {
        Some(Said {
            state: Some("active".into()),
            ready: true,
            announcement: Some("announced".into()),
            leader: Some(leader.into()),
            term: Some(term),
            shards_led: 2,
            shard_terms: term * 3,
            revision: Some(5),
            health_version: Some(1),
            table_hash: Some(hash),
            planned: if term == 2 { vec!["drain d1".into()] } else { Vec::new() },
        })
    }

    fn plain<T: Clone>(spans: &[Span<T>]) -> Vec<(u64, u64, T)> {
        spans.iter().map(|s| (s.from, s.until, s.what.clone())).collect()
    }

    #[test]
    fn a_director_that_does_not_answer_is_silent() {
        let changes = [(0, None), (20, says("d1", 1, 7)), (40, None), (60, says("d1", 1, 7))];
        let lane = lane("d1", &changes);
        let told: Vec<_> =
            plain(&doing(&lane, 100)).into_iter().map(|(f, u, t)| (f, u, t.doing)).collect();
        assert_eq!(
            told,
            [
                (0, 20, Doing::NotThere),
                (20, 40, Doing::Announced),
                (40, 60, Doing::Silent),
                (60, 100, Doing::Announced)
            ]
        );
    }

    #[test]
    fn the_highest_term_tells_who_leads() {
        let lanes = [
            lane("d1", &[(0, says("d1", 1, 7)), (50, None)]),
            // It still believes in d1 for a while.
            lane("d2", &[(10, says("d1", 1, 7)), (70, says("d2", 2, 7)), (90, says("d2", 3, 7))]),
        ];
        let leaders = plain(&leaders(&lanes, 100));
        let expected = [(0, 70, ("d1", 1)), (70, 90, ("d2", 2)), (90, 100, ("d2", 3))];
        let expected = expected.map(|(f, u, (name, term))| (f, u, Some((name.to_owned(), term))));
        assert_eq!(leaders, expected);
        assert_eq!(elections(&lanes, 100), [70, 90]);
        assert_eq!(plain(&planned(&lanes, 100)), [(70, 90, "drain d1".to_owned())]);
        let led = plain(&led(&lanes, 100));
        assert_eq!(led, [(0, 10, vec![2, 0]), (10, 50, vec![2, 2]), (50, 100, vec![0, 2])]);
    }

    #[test]
    fn tables_of_one_revision_that_differ_are_told() {
        let same = [lane("d1", &[(0, says("d1", 1, 7))]), lane("d2", &[(10, says("d1", 1, 7))])];
        let of = |lanes: &[Lane]| -> Vec<Vec<bool>> {
            let tables = tables(lanes, 100);
            let told = |spans: &Vec<Span<Option<Tables>>>| {
                spans.iter().filter_map(|s| s.what.as_ref()).map(|t| t.differs).collect()
            };
            tables.iter().map(told).collect()
        };
        assert_eq!(of(&same), [[false], [false]]);
        let apart = [same[0].clone(), lane("d2", &[(10, says("d1", 1, 8))])];
        assert_eq!(of(&apart), [[true], [true]]);
    }

    #[test]
    fn nothing_is_said_beyond_the_end() {
        let late = lane("d1", &[(0, None), (150, says("d1", 1, 7))]);
        assert_eq!(plain(&doing(&late, 100)).len(), 1);
        assert!(leaders(&[late], 100).iter().all(|s| s.until <= 100));
    }
}
