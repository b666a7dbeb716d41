//! `holdfast apply`: a cluster file becomes the configuration.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use holdfast_schema::config::check_cluster;
use serde_json::json;

use super::Context;
use crate::args::ApplyArgs;
use crate::diff;
use crate::edit;
use crate::failure::Failure;

pub async fn run(context: &Context, args: ApplyArgs) -> Result<(), Failure> {
    let Context { output, client } = context;
    let (text, name) = read(&args.file)?;
    let checked = check_cluster(&text, &name).map_err(|e| Failure::config(&e))?;
    let document = edit::current(client).await?.value;
    let changes = diff::changes(&document.spec, &checked.spec);
    let mut report = json!({
        "revision": document.revision,
        "dry_run": args.dry_run,
        "changes": changes,
        "warnings": checked.warnings,
    });
    let done = changes.is_empty() || args.dry_run;
    let asks = !done && !args.yes && std::io::stdin().is_terminal() && args.file != Path::new("-");
    if !output.for_programs() {
        for warning in &checked.warnings {
            output.note(&format!("note: {warning}"));
        }
        if !changes.is_empty() {
            output.text(&diff::print(&changes))?;
        }
    } else if asks {
        // Standard output is for the program; whoever answers has to know what to.
        output.note(&diff::print(&changes));
    }
    if done {
        return output.result(&report, || {
            let what = if changes.is_empty() { "nothing to change" } else { "nothing was changed" };
            format!("{what} (revision {})", document.revision)
        });
    }
    if asks {
        confirm()?;
    }
    let answer = edit::put(client, document.revision, checked.spec, args.force.force).await;
    let answer = answer.map_err(|failure| match failure.code() {
        "revision-conflict" => failure
            .hinting("somebody else changed it since the difference was shown; apply it again"),
        _ => failure,
    })?;
    let revision = answer.value.revision;
    report["revision"] = revision.into();
    report["done"] = answer.json;
    output.result(&report, || format!("applied (revision {revision})"))
}

/// The file's text and how errors name it.
fn read(path: &Path) -> Result<(String, String), Failure> {
    if path != Path::new("-") {
        return super::config::read(path).map(|text| (text, path.display().to_string()));
    }
    let mut bytes = Vec::new();
    let limit = super::config::MOST_BYTES;
    std::io::stdin()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::error(format!("standard input: {e}"), ""))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Failure::error(format!("standard input is no text: {e}"), ""))?;
    Ok((text, "standard input".to_owned()))
}

fn confirm() -> Result<(), Failure> {
    let _ = write!(std::io::stderr().lock(), "Apply this? [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    match (read, line.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Failure::error("nothing was changed", "answer y, or use --yes")),
    }
}
