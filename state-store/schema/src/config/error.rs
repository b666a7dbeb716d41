//! What is wrong with a configuration file: where, why, and what to do.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// One thing that is wrong (or, as a warning, questionable) in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ConfigError {
    /// The file, as the operator named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// The line of the file; empty if it would not help.
    pub source: String,
    /// How many characters from `column` on are meant.
    pub width: usize,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.source.is_empty() {
            let margin = self.line.to_string().len().max(4);
            let (pad, marks) = (" ".repeat(self.column - 1), "^".repeat(self.width.max(1)));
            write!(f, "\n{:>margin$} | {}", self.line, self.source)?;
            write!(f, "\n{:>margin$} | {pad}{marks}", "")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Everything that is wrong in a file, in the order of its lines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct ConfigErrors(pub Vec<ConfigError>);

/// More errors than this are only counted.
const MOST_SHOWN: usize = 100;

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(MOST_SHOWN).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            error.fmt(f)?;
        }
        match self.0.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

/// Turns byte offsets of a text into lines and columns.
pub(super) struct Source<'t> {
    file: &'t str,
    text: &'t str,
    line_starts: Vec<usize>,
}

impl<'t> Source<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Source<'t> {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Source { file, text, line_starts: std::iter::once(0).chain(newlines).collect() }
    }

    /// The line (from 0) that a byte offset lies on.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// An error that concerns these bytes of the text.
    pub(super) fn error(&self, span: &Range<usize>, message: String, hint: String) -> ConfigError {
        let line = self.line_of(span.start);
        let start = self.line_starts[line];
        let line_text = self.text[start..].lines().next().unwrap_or("");
        let end = start + line_text.len();
        let chars = |from: usize, to: usize| {
            self.text.get(from..to.max(from)).map_or(0, |part| part.chars().count())
        };
        let column = 1 + chars(start, span.start.min(end));
        let width = chars(span.start.min(end), span.end.min(end)).max(1);
        // Control characters would move the marks (tabs) or the terminal (escapes).
        let shown: String =
            line_text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let source =
            if shown.trim().is_empty() || shown.len() > 160 { String::new() } else { shown };
        ConfigError {
            file: self.file.to_owned(),
            line: line + 1,
            column,
            message,
            hint,
            source,
            width,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_become_lines_and_columns() {
        let text = "a = 1\n\té = \"x\"\nlast";
        let source = Source::new("f.toml", text);
        let at = text.find('x').unwrap();
        let error = source.error(&(at..at + 1), "bad".into(), "good".into());
        assert_eq!((error.line, error.column), (2, 7));
        assert_eq!(
            error.to_string(),
            "f.toml:2:7: bad\n   2 |  é = \"x\"\n     |       ^\n  hint: good"
        );
        let end = source.error(&(text.len()..text.len()), "end".into(), String::new());
        assert_eq!((end.line, end.column, end.width), (3, 5, 1));
        let none = Source::new("f", "").error(&(0..0), "empty".into(), String::new());
        assert_eq!(none.to_string(), "f:1:1: empty");
    }
}
