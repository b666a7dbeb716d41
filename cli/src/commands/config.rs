//! `holdfast config`.

use std::io::Read;
use std::path::{Path, PathBuf};

use holdfast_schema::config::{
    ConfigError, ConfigErrors, FileKind, check_cluster, kind_of, limits, parse_node,
};
use serde_json::{Value, json};

use super::Context;
use crate::args::ConfigCommand;
use crate::edit;
use crate::failure::Failure;

/// Most bytes that are read of a file; one more than a configuration may have is enough to say so.
pub const MOST_BYTES: u64 = limits::FILE_BYTES as u64;

pub async fn run(context: &Context, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check { files } => check(context, &files),
        ConfigCommand::Show => {
            let answer = edit::current(&context.client).await?;
            let document = &answer.value;
            context.output.result(&answer.json, || {
                format!("# revision {}\n{}", document.revision, document.spec.to_toml())
            })
        }
    }
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let wrong = |e: std::io::Error| Failure::error(format!("cannot read {shown}: {e}"), "");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(wrong)?;
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Failure::error(
            format!("{shown}:{line}: the file is no UTF-8 text"),
            "TOML is always UTF-8; save it so",
        )
    })
}

fn check(context: &Context, files: &[PathBuf]) -> Result<(), Failure> {
    let (mut reports, mut lines) = (Vec::new(), Vec::new());
    let (mut wrong, mut unreadable) = (Vec::new(), Vec::new());
    for path in files {
        let name = path.display().to_string();
        let text = match read(path) {
            Ok(text) => text,
            Err(failure) => {
                unreadable.push(failure);
                continue;
            }
        };
        match check_file(&text, &name) {
            Ok(Checked { kind, summary, warnings }) => {
                lines.extend(warnings.iter().map(|w| format!("note: {w}")));
                lines.push(format!("{name}: {summary}"));
                reports.push(json!({ "file": name, "kind": kind, "warnings": warnings }));
            }
            Err(errors) => wrong.extend(errors.0),
        }
    }
    if !wrong.is_empty() || !unreadable.is_empty() {
        return Err(Failure::files(unreadable, &ConfigErrors(wrong)));
    }
    let json = json!({ "files": Value::from(reports) });
    context.output.result(&json, || lines.join("\n"))
}

struct Checked {
    kind: &'static str,
    summary: String,
    warnings: Vec<ConfigError>,
}

fn check_file(text: &str, name: &str) -> Result<Checked, ConfigErrors> {
    match kind_of(text) {
        Some(FileKind::Node) => {
            let node = parse_node(text, name)?;
            let summary = format!("the node file of director {}, no errors", node.id);
            Ok(Checked { kind: "node", summary, warnings: Vec::new() })
        }
        // What says no kind is read as a cluster file; the missing `kind` is among its errors.
        Some(FileKind::Cluster) | None => {
            let checked = check_cluster(text, name)?;
            let spec = checked.spec;
            let backends: usize = spec.groups.iter().map(|g| g.backends.len()).sum();
            let summary = format!(
                "a cluster file with {}, {} and {}, no errors",
                count(spec.listeners.len(), "listener"),
                count(spec.groups.len(), "group"),
                count(backends, "backend"),
            );
            Ok(Checked { kind: "cluster", summary, warnings: checked.warnings })
        }
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
