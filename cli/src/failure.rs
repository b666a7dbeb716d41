//! How a command fails: exit code, message, hint.

use std::io::{IsTerminal, Write};

use holdfast_schema::admin::ErrorBody;
use holdfast_schema::config::{ConfigErrors, SpecError};
use serde_json::{Value, json};

use crate::args::Format;

/// The exit codes and what they say, for `--help` and docs/cli.md.
pub const EXIT_CODES: [(u8, &str); 9] = [
    (0, "done"),
    (1, "error"),
    (2, "wrong usage"),
    (3, "the director cannot be reached"),
    (4, "not allowed"),
    (
        5,
        "unhealthy: no cluster yet, no leader, or (with `status --check`) something is not as it should be",
    ),
    (6, "refused by a precondition, or the configuration changed meanwhile"),
    (7, "the deadline was reached and something is left to do"),
    (130, "interrupted"),
];

/// The exit codes as `holdfast --help` shows them.
pub fn exit_codes() -> String {
    let lines = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}"));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// Why a command ended without having done what it should.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    exit: u8,
    /// Its class, for programs.
    code: &'static str,
    /// Place and cause.
    message: String,
    /// The remedy; may be empty.
    hint: String,
    /// Single errors of a configuration, for programs.
    details: Value,
}

impl Failure {
    fn new(
        exit: u8,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let (message, hint) = (message.into(), hint.into());
        Failure { exit, code, message, hint, details: Value::Null }
    }

    /// Exit 1.
    pub fn error(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(1, "error", message, hint)
    }

    /// Exit 1: the named thing does not exist.
    pub fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(1, "not-found", message, hint)
    }

    /// Exit 2.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(2, "usage", message, hint)
    }

    /// Exit 3.
    pub fn unreachable(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(3, "unreachable", message, hint)
    }

    /// Exit 4.
    pub fn not_allowed(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(4, "not-allowed", message, hint)
    }

    /// Exit 5.
    pub fn unhealthy(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(5, "unhealthy", message, hint)
    }

    /// Exit 6.
    pub fn precondition(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(6, "precondition", message, hint)
    }

    /// Exit 7.
    pub fn deadline(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(7, "deadline", message, hint)
    }

    /// Exit 130.
    pub fn interrupted(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure::new(130, "interrupted", message, hint)
    }

    /// A configuration file is wrong.
    pub fn config(errors: &ConfigErrors) -> Failure {
        let mut failure = Failure::new(1, "invalid", errors.to_string(), "");
        failure.details = serde_json::to_value(errors).unwrap_or_default();
        failure
    }

    /// Several files are wrong, some of them so that they cannot even be read.
    pub fn files(unreadable: Vec<Failure>, errors: &ConfigErrors) -> Failure {
        let mut failure = Failure::config(errors);
        if errors.0.is_empty() {
            failure.code = "error";
        }
        let told = |f: &Failure| match f.hint.as_str() {
            "" => f.message.clone(),
            hint => format!("{}\n  hint: {hint}", f.message),
        };
        let mut messages: Vec<String> = unreadable.iter().map(told).collect();
        messages.extend(Some(failure.message).filter(|text| !text.is_empty()));
        failure.message = messages.join("\n");
        if let Value::Array(details) = &mut failure.details {
            let each = |f: &Failure| json!({ "message": f.message, "hint": f.hint });
            details.extend(unreadable.iter().map(each));
        }
        failure
    }

    /// A change would make the configuration contradict itself.
    pub fn spec(errors: &[SpecError]) -> Failure {
        let code = if errors.iter().all(|e| e.unsupported) { "unsupported" } else { "invalid" };
        let told = |e: &SpecError| match e.hint.as_str() {
            "" => e.message.clone(),
            hint => format!("{} ({hint})", e.message),
        };
        let message = errors.iter().map(told).collect::<Vec<_>>().join("\n       ");
        let mut failure = Failure::new(1, code, message, "");
        failure.details = errors
            .iter()
            .map(|e| json!({ "message": e.message, "hint": e.hint }))
            .collect::<Vec<_>>()
            .into();
        failure
    }

    /// The director refused.
    pub fn refused(body: ErrorBody) -> Failure {
        let code = match serde_json::to_value(body.code) {
            Ok(Value::String(code)) => Box::leak(code.into_boxed_str()),
            _ => "error",
        };
        Failure::new(body.code.exit_code(), code, body.message, body.hint)
    }

    /// Standard output cannot be written. A reader that went away (`holdfast ... | head`) has all
    /// it wanted: that is silent success.
    pub fn stdout(error: &std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::new(0, "", "", ""),
            _ => Failure::error(format!("cannot write to standard output: {error}"), ""),
        }
    }

    /// Its class, for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The message with something before it.
    pub fn within(mut self, place: &str) -> Failure {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// With another hint.
    pub fn hinting(mut self, hint: impl Into<String>) -> Failure {
        self.hint = hint.into();
        self
    }

    /// Says it on standard error and gives the exit code back.
    pub fn report(&self, format: Format) -> u8 {
        if self.message.is_empty() {
            return self.exit;
        }
        let mut err = std::io::stderr().lock();
        // There is nobody left to tell if standard error is closed.
        let _ = match format {
            Format::Json => {
                let mut body =
                    json!({ "code": self.code, "message": self.message, "hint": self.hint });
                if !self.details.is_null() {
                    body["errors"] = self.details.clone();
                }
                writeln!(err, "{body}")
            }
            Format::Table => {
                let bold = err.is_terminal();
                let (on, off) = if bold { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                let hint = match self.hint.as_str() {
                    "" => String::new(),
                    hint => format!("\n hint: {hint}"),
                };
                writeln!(err, "{on}error{off}: {}{hint}", self.message)
            }
        };
        self.exit
    }
}
