//! The time line as a drawing: faults shaded through all panels, connections alive, silence, and what the
//! directors said.

use super::labels::{fault_name, label_place, label_rows, rows_of};
use super::lanes::{self, Doing, Span};
use super::scale::{Linear, Millis};
use super::svg::{Anchor, Svg, text_width};
use super::text::{number, span};
use crate::scenario::report::Timeline;

const WIDTH: f64 = 960.0;
pub(super) const LEFT: f64 = 78.0;
pub(super) const RIGHT: f64 = 948.0;
/// Between a panel and the title of the next.
const GAP: f64 = 12.0;
/// How wide small text is against other text.
const SMALL: f64 = 0.9;
const TITLE: f64 = 18.0;
const LABEL_ROW: f64 = 16.0;

/// Draws it.
pub fn draw(line: &Timeline) -> String {
    let count = line.stalls.max_ms.len();
    let end = line.from_ms + count as u64 * line.every_ms;
    let x = Linear::new((line.from_ms as f64, end as f64), (LEFT, RIGHT));
    let mut drawing = Drawing { line, svg: Svg::new(WIDTH), x, end, y: 4.0 };
    // Shades go below everything, so they need to know how high it will be.
    let labels = label_rows(&line.faults, &x);
    let rows = labels.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
    let top = drawing.y + rows as f64 * LABEL_ROW;
    let bottom = drawing.bottom(top);
    drawing.faults(&labels, top, bottom);
    drawing.y = top;
    drawing.alive();
    drawing.silence();
    drawing.directors();
    drawing.leader();
    drawing.groups();
    drawing.tables();
    drawing.planned();
    drawing.busy();
    drawing.axis();
    debug_assert!((drawing.y - bottom).abs() < 0.5, "{} {bottom}", drawing.y);
    let height = drawing.y + 42.0;
    drawing.svg.height(height);
    let label = format!(
        "Time line of {}: {} faults, {} directors",
        span(end - line.from_ms),
        line.faults.len(),
        line.directors.len()
    );
    let attributes = format!(
        " data-plot=\"timeline\" data-left=\"{LEFT}\" data-right=\"{RIGHT}\" data-top=\"{top:.0}\" data-bottom=\"{bottom:.0}\""
    );
    drawing.svg.end("timeline", &label, &attributes)
}

/// The numbers that the crosshair tells, as JSON.
pub fn series(line: &Timeline) -> serde_json::Value {
    serde_json::json!({
        "from": line.from_ms,
        "every": line.every_ms,
        "alive": line.alive,
        "p99": line.stalls.p99_ms,
        "max": line.stalls.max_ms,
    })
}

struct Drawing<'a> {
    line: &'a Timeline,
    svg: Svg,
    x: Linear,
    end: u64,
    /// How far down we are.
    y: f64,
}

const ALIVE: f64 = 120.0;
const SILENCE: f64 = 110.0;
const DIRECTOR: f64 = 20.0;
const TABLE: f64 = 16.0;
const PLANNED: f64 = 16.0;
const GROUPS: f64 = 46.0;
const BUSY: f64 = 40.0;
/// How many directors' lanes and planned changes at a time are drawn.
pub(super) const MOST_LANES: usize = 16;

impl Drawing<'_> {
    fn directors_shown(&self) -> usize {
        self.line.directors.len().min(MOST_LANES)
    }

    /// Where the last panel ends.
    fn bottom(&self, top: f64) -> f64 {
        let directors = self.directors_shown() as f64;
        let panels = [
            ALIVE,
            SILENCE,
            directors * DIRECTOR,
            DIRECTOR,
            GROUPS,
            directors * TABLE,
            self.planned_rows() as f64 * PLANNED,
            BUSY,
        ];
        panels.iter().fold(top, |y, height| y + GAP + TITLE + height)
    }

    /// Begins a panel: its title, and where it is.
    fn panel(&mut self, title: &str, height: f64) -> (f64, f64) {
        let top = self.y + GAP + TITLE;
        self.svg.text("title", (LEFT, top - 6.0), Anchor::Start, title);
        self.y = top + height;
        (top, top + height)
    }

    /// Names with their colours, from the right end of a panel's title.
    fn legend(&mut self, top: f64, names: &[(String, String)]) {
        let mut x = RIGHT;
        for (class, name) in names.iter().rev() {
            x -= text_width(name) * SMALL;
            self.svg.text("small", (x, top - 6.0), Anchor::Start, name);
            x -= 15.0;
            self.svg.rect(&format!("key {class}"), (x, top - 15.0), (10.0, 10.0), "");
            x -= 12.0;
        }
    }

    fn at(&self, ms: u64) -> f64 {
        self.x.at(ms as f64)
    }

    fn faults(&mut self, labels: &[(usize, bool)], top: f64, bottom: f64) {
        for (index, (fault, (row, long))) in self.line.faults.iter().zip(labels).enumerate() {
            let (begin, done, end) =
                (self.at(fault.begin_ms), self.at(fault.done_ms), self.at(fault.end_ms));
            let name = fault_name(index, fault);
            let title = format!(
                "{name}\nbegan at {}, had its effect after {}, restored and settled {} later",
                span(fault.begin_ms),
                span(fault.done_ms.saturating_sub(fault.begin_ms)),
                span(fault.end_ms.saturating_sub(fault.done_ms)),
            );
            let height = bottom - top + 6.0;
            self.svg.rect("fault", (begin, top), ((end - begin).max(2.0), height), &title);
            self.svg.rect("fault-now", (begin, top), ((done - begin).max(2.0), height), &title);
            let text = if *long { name } else { (index + 1).to_string() };
            let (from, _) = label_place(begin, &text);
            let y = 4.0 + *row as f64 * LABEL_ROW;
            self.svg.text("fault-name", (from, y + 11.0), Anchor::Start, &text);
            self.svg.line("fault-stem", &[(begin, y + 14.0), (begin, top)]);
        }
    }

    fn alive(&mut self) {
        let (top, bottom) = self.panel("connections alive", ALIVE);
        let alive = &self.line.alive;
        let count = self.line.stalls.max_ms.len();
        let mut below = vec![0u64; count];
        let most = (0..count)
            .map(|i| alive.iter().map(|a| u64::from(a.count.get(i).copied().unwrap_or(0))).sum())
            .max()
            .unwrap_or(0u64);
        let y = Linear::new((0.0, (most as f64 * 1.05).max(10.0)), (bottom, top));
        self.grid(&y, 4.0, &|v| number(v as u64));
        for (index, kind) in alive.iter().enumerate() {
            let above: Vec<u64> = below
                .iter()
                .enumerate()
                .map(|(i, b)| b + u64::from(kind.count.get(i).copied().unwrap_or(0)))
                .collect();
            let places = |of: &[u64]| of.iter().map(|n| y.at(*n as f64)).collect::<Vec<f64>>();
            let mut outline = self.steps(&places(&above));
            outline.extend(self.steps(&places(&below)).into_iter().rev());
            self.svg.area(&format!("kind k{}", index % 8), &outline);
            below = above;
        }
        let names: Vec<(String, String)> = alive
            .iter()
            .enumerate()
            .map(|(i, a)| (format!("k{}", i % 8), a.cohort.clone()))
            .collect();
        self.legend(top, &names);
    }

    /// A place for each interval, as steps.
    fn steps(&self, places: &[f64]) -> Vec<(f64, f64)> {
        let mut points = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let same = |other: Option<&f64>| other == Some(place);
            // Within a level stretch only its ends matter.
            if index > 0 && same(places.get(index - 1)) && same(places.get(index + 1)) {
                continue;
            }
            let from = self.line.from_ms + index as u64 * self.line.every_ms;
            points.push((self.at(from), *place));
            points.push((self.at(from + self.line.every_ms), *place));
        }
        points
    }

    fn grid(&mut self, y: &Linear, count: f64, name: &dyn Fn(f64) -> String) {
        for tick in y.ticks(count) {
            let place = y.at(tick);
            self.svg.line("grid", &[(LEFT, place), (RIGHT, place)]);
            self.svg.text("tick", (LEFT - 6.0, place + 4.0), Anchor::End, &name(tick));
        }
    }

    fn silence(&mut self) {
        let (top, bottom) = self.panel("silence beyond the expected gap", SILENCE);
        let stalls = &self.line.stalls;
        let most = stalls.max_ms.iter().copied().max().unwrap_or(0);
        let y = Millis::new(u64::from(most), (bottom, top));
        self.svg.millis(&y, LEFT, RIGHT);
        for (class, values) in [("stall-max", &stalls.max_ms), ("stall-p99", &stalls.p99_ms)] {
            let places: Vec<f64> = values.iter().map(|ms| y.at(u64::from(*ms))).collect();
            let mut outline = vec![(LEFT, bottom)];
            outline.extend(self.steps(&places));
            outline.push((RIGHT, bottom));
            self.svg.area(class, &outline);
        }
        let names = [("stall-max", "longest of all"), ("stall-p99", "p99 of all connections")];
        self.legend(top, &names.map(|(class, name)| (class.to_owned(), name.to_owned())));
    }

    fn directors(&mut self) {
        let count = self.directors_shown();
        let (top, _) = self.panel("directors", count as f64 * DIRECTOR);
        for (index, lane) in self.line.directors.iter().take(count).enumerate() {
            let y = top + index as f64 * DIRECTOR;
            self.name(&lane.name, y, DIRECTOR);
            for told in lanes::doing(lane, self.end) {
                let class = match told.what.doing {
                    Doing::NotThere => "unknown",
                    Doing::Silent => "silent",
                    Doing::Withdrawn => "withdrawn",
                    Doing::Worse => "worse",
                    Doing::Announced => "announced",
                };
                self.bar(
                    &format!("lane {class}"),
                    &told,
                    y + 1.0,
                    DIRECTOR - 3.0,
                    &lane.name,
                    |t| t.words.clone(),
                );
            }
        }
        let names = [
            ("lane announced", "announced"),
            ("lane worse", "announced as worse"),
            ("lane withdrawn", "withdrawn"),
            ("lane silent", "no answer"),
        ];
        self.legend(top, &names.map(|(class, name)| (class.to_owned(), name.to_owned())));
    }

    fn name(&mut self, name: &str, y: f64, height: f64) {
        self.svg.text("tick", (LEFT - 6.0, y + height / 2.0 + 3.5), Anchor::End, name);
    }

    /// A span as a bar, with its words in it where they have room.
    fn bar<T>(
        &mut self,
        class: &str,
        of: &Span<T>,
        y: f64,
        height: f64,
        whose: &str,
        words: impl Fn(&T) -> String,
    ) {
        let (from, until) = (self.at(of.from.max(self.line.from_ms)), self.at(of.until));
        if until <= LEFT {
            return;
        }
        let words = words(&of.what);
        let title = format!("{whose}: {words}\nfrom {} to {}", span(of.from), span(of.until));
        self.svg.rect(
            class,
            (from, y),
            ((until - from).max(1.0), height),
            title.trim_start_matches(": "),
        );
        if text_width(&words) + 10.0 < until - from {
            self.svg.text(
                &format!("inside {class}"),
                (from + 5.0, y + height / 2.0 + 3.8),
                Anchor::Start,
                &words,
            );
        }
    }

    fn index_of(&self, director: &str) -> usize {
        self.line.directors.iter().position(|lane| lane.name == director).unwrap_or(7)
    }

    fn leader(&mut self) {
        let (top, _) = self.panel("leader of the control group, and its term", DIRECTOR);
        self.legend(top, &[("lane silent".to_owned(), "nobody leads".to_owned())]);
        for leads in lanes::leaders(&self.line.directors, self.end) {
            let class = match &leads.what {
                Some((name, _)) => format!("lane k{}", self.index_of(name) % 8),
                None => "lane silent".to_owned(),
            };
            self.bar(&class, &leads, top + 1.0, DIRECTOR - 3.0, "control", |leader| match leader {
                Some((name, term)) => format!("{name}, term {term}"),
                None => "nobody".to_owned(),
            });
        }
    }

    fn groups(&mut self) {
        let (top, bottom) =
            self.panel("session groups led by each director; dashed: elections", GROUPS);
        let led = lanes::led(&self.line.directors, self.end);
        let most = led.iter().map(|s| s.what.iter().sum::<u32>()).max().unwrap_or(0).max(1);
        let y = Linear::new((0.0, f64::from(most)), (bottom, top));
        self.grid(&y, 2.0, &|v| format!("{v:.0}"));
        for (index, lane) in self.line.directors.iter().enumerate() {
            for part in &led {
                let below: u32 = part.what.iter().take(index).sum();
                let own = part.what.get(index).copied().unwrap_or(0);
                let (from, until) =
                    (self.at(part.from.max(self.line.from_ms)), self.at(part.until));
                if own == 0 || until <= LEFT {
                    continue;
                }
                let (low, high) = (y.at(f64::from(below)), y.at(f64::from(below + own)));
                let title = format!(
                    "{}: leads {own} session groups\nfrom {} to {}",
                    lane.name,
                    span(part.from),
                    span(part.until)
                );
                let size = ((until - from).max(0.5), low - high);
                self.svg.rect(&format!("kind k{}", index % 8), (from, high), size, &title);
            }
        }
        for at in lanes::elections(&self.line.directors, self.end) {
            let x = self.at(at);
            self.svg.line("election", &[(x, top), (x, bottom)]);
        }
        let names: Vec<(String, String)> = self
            .line
            .directors
            .iter()
            .enumerate()
            .map(|(i, lane)| (format!("k{}", i % 8), lane.name.clone()))
            .collect();
        self.legend(top, &names);
    }

    fn tables(&mut self) {
        let count = self.directors_shown();
        let (top, _) =
            self.panel("revision of the tables that each forwards by", count as f64 * TABLE);
        let all = lanes::tables(&self.line.directors, self.end);
        for (index, (lane, spans)) in self.line.directors.iter().zip(all).take(count).enumerate() {
            let y = top + index as f64 * TABLE;
            self.name(&lane.name, y, TABLE);
            for tables in spans {
                let class = match &tables.what {
                    None => "lane unknown",
                    Some(t) if t.differs => "lane differs",
                    Some(t) if t.revision % 2 == 0 => "lane even",
                    Some(_) => "lane odd",
                };
                self.bar(class, &tables, y + 1.0, TABLE - 2.0, &lane.name, |tables| match tables {
                    None => "no tables known".to_owned(),
                    Some(t) if t.differs => {
                        format!("{} with hash {:x}, others have another", t.revision, t.hash)
                    }
                    // What the health checks change is no other revision.
                    Some(t) => t.revision.to_string(),
                });
            }
        }
        let names = [("lane differs", "differs from others of the same revision")];
        self.legend(top, &names.map(|(class, name)| (class.to_owned(), name.to_owned())));
    }

    fn planned_rows(&self) -> usize {
        let planned = lanes::planned(&self.line.directors, self.end);
        rows_of(&planned, &self.x).into_iter().max().map_or(1, |row| row + 1)
    }

    fn planned(&mut self) {
        let planned = lanes::planned(&self.line.directors, self.end);
        let rows = rows_of(&planned, &self.x);
        let (top, _) = self.panel(
            "planned changes: directors that join, drain, come back",
            self.planned_rows() as f64 * PLANNED,
        );
        if planned.is_empty() {
            self.svg.text("small", (LEFT + 4.0, top + 12.0), Anchor::Start, "none");
        }
        for (change, row) in planned.iter().zip(rows) {
            let y = top + row as f64 * PLANNED;
            self.bar("lane plan", change, y + 1.0, PLANNED - 2.0, "", String::clone);
            let (from, until) = (self.at(change.from), self.at(change.until));
            // Most are short: their name goes beside them.
            if text_width(&change.what) + 10.0 >= until - from {
                let (beside, anchor) = match until + 4.0 + text_width(&change.what) < RIGHT {
                    true => (until + 4.0, Anchor::Start),
                    false => (from - 4.0, Anchor::End),
                };
                self.svg.text("small", (beside, y + 12.0), anchor, &change.what);
            }
        }
    }

    fn busy(&mut self) {
        let (top, bottom) = self.panel("how busy the machine was, all processors together", BUSY);
        let y = Linear::new((0.0, 100.0), (bottom, top));
        self.grid(&y, 2.0, &|v| format!("{v:.0} %"));
        let busy = &self.line.busy;
        let mut outline = Vec::new();
        for (index, percent) in busy.percent.iter().enumerate() {
            let from = busy.from_ms + index as u64 * busy.every_ms;
            if from + busy.every_ms <= self.line.from_ms || from >= self.end {
                continue;
            }
            let place = y.at(f64::from(*percent));
            outline.push((self.at(from), place));
            outline.push((self.at(from + busy.every_ms), place));
        }
        if let (Some(first), Some(last)) = (outline.first().copied(), outline.last().copied()) {
            outline.insert(0, (first.0, bottom));
            outline.push((last.0, bottom));
        }
        self.svg.area("busy", &outline);
    }

    fn axis(&mut self) {
        let y = self.y + 6.0;
        self.svg.line("axis", &[(LEFT, y), (RIGHT, y)]);
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let x = Linear::new((seconds(self.line.from_ms), seconds(self.end)), (LEFT, RIGHT));
        for tick in x.ticks(10.0) {
            let place = x.at(tick);
            self.svg.line("axis", &[(place, y), (place, y + 5.0)]);
            self.svg.text("tick", (place, y + 17.0), Anchor::Middle, &format!("{tick:.0}"));
        }
        self.svg.text(
            "tick",
            ((LEFT + RIGHT) / 2.0, y + 31.0),
            Anchor::Middle,
            "seconds since the run began",
        );
    }
}
