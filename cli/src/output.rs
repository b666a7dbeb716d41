//! Where results go: standard output, as text for people or JSON for programs. Notes for people go
//! to standard error, so that what is piped on is the result and nothing else.

use std::io::{self, Write};

use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;

/// The way results are shown.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Text or JSON.
    pub format: Format,
}

impl Output {
    /// The result: `text` for people, `json` for programs.
    pub fn result(self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(json),
            Format::Table => self.text(&text()),
        }
    }

    /// Text, ended by one newline.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.trim_end_matches('\n').as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(|e| Failure::stdout(&e))
    }

    /// JSON, indented.
    pub fn json(self, json: &Value) -> Result<(), Failure> {
        self.text(&format!("{json:#}"))
    }

    /// A note for people.
    pub fn note(self, text: &str) {
        // There is nobody left to tell if standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Whether a program reads the result.
    pub fn for_programs(self) -> bool {
        self.format == Format::Json
    }
}
