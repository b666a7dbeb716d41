//! A little SVG. What it looks like is the style sheet's business; here are only places and classes.

use std::fmt::Write as _;

use super::scale::Millis;
use super::text::escape;

/// A drawing under way.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// How a text stands to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// The width of a text in the style sheet's size, roughly: to see whether it has room.
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.9
}

impl Svg {
    /// An empty drawing.
    pub fn new(width: f64) -> Svg {
        Svg { width, height: 0.0, body: String::new() }
    }

    /// It shall be this high.
    pub fn height(&mut self, height: f64) {
        self.height = height;
    }

    /// A rectangle; with a title, which shows when it is pointed at.
    pub fn rect(&mut self, class: &str, from: (f64, f64), size: (f64, f64), title: &str) {
        let ((x, y), (w, h)) = (from, size);
        write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"",
            w.max(0.0),
            h.max(0.0)
        )
        .ok();
        self.close("rect", title);
    }

    /// A path through these points, from one to the next.
    pub fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        self.path(class, points, "");
    }

    /// The area within these points.
    pub fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        self.path(class, points, "Z");
    }

    fn path(&mut self, class: &str, points: &[(f64, f64)], end: &str) {
        let Some(((x, y), rest)) = points.split_first() else { return };
        write!(self.body, "<path class=\"{class}\" d=\"M{x:.1} {y:.1}").ok();
        let mut last = (*x, *y);
        for (x, y) in rest {
            // Horizontal and vertical steps are short to say.
            if (y - last.1).abs() < 0.05 {
                write!(self.body, "H{x:.1}").ok();
            } else if (x - last.0).abs() < 0.05 {
                write!(self.body, "V{y:.1}").ok();
            } else {
                write!(self.body, "L{x:.1} {y:.1}").ok();
            }
            last = (*x, *y);
        }
        write!(self.body, "{end}\"/>").ok();
    }

    /// A text.
    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let (x, y) = at;
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        write!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        )
        .ok();
    }

    /// Lines and names of a scale of milliseconds.
    pub fn millis(&mut self, scale: &Millis, left: f64, right: f64) {
        let mut last = f64::INFINITY;
        for (ms, name) in scale.ticks() {
            let place = scale.at(ms);
            self.line("grid", &[(left, place), (right, place)]);
            // The floor is close to the first power of ten.
            if last - place > 14.0 {
                self.text("tick", (left - 6.0, place + 4.0), Anchor::End, &name);
                last = place;
            }
        }
    }

    fn close(&mut self, name: &str, title: &str) {
        if title.is_empty() {
            self.body.push_str("/>");
        } else {
            write!(self.body, "><title>{}</title></{name}>", escape(title)).ok();
        }
    }

    /// The drawing; `label` is what it says to those who do not see it.
    pub fn end(self, class: &str, label: &str, attributes: &str) -> String {
        format!(
            "<svg class=\"plot {class}\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\"{attributes}>{}</svg>\n",
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_titles_are_escaped() {
        let mut svg = Svg::new(100.0);
        svg.height(50.0);
        svg.text("t", (1.0, 2.0), Anchor::End, "<d1>");
        svg.rect("r", (0.0, 0.0), (5.0, -1.0), "a & b");
        let text = svg.end("x", "\"quoted\"", "");
        for part in
            ["&lt;d1&gt;", "<title>a &amp; b</title>", "height=\"0.0\"", "&quot;quoted&quot;"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn paths_say_no_more_than_they_must() {
        let mut svg = Svg::new(100.0);
        svg.line("l", &[(0.0, 0.0), (5.0, 0.0), (5.0, 7.0), (6.0, 8.0)]);
        svg.line("l", &[]);
        assert_eq!(svg.body, "<path class=\"l\" d=\"M0.0 0.0H5.0V7.0L6.0 8.0\"/>");
    }
}
