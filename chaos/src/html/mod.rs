//! The report as a page: one file that needs nothing else, drawn here, so that it shows the same
//! everywhere. The little script in it only tells numbers under the pointer and switches the colours.

mod labels;
mod lanes;
mod lost;
mod matrix;
mod older;
mod quantiles;
mod run;
mod scale;
mod svg;
mod tables;
mod text;
mod timeline;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use text::escape;

use crate::files;
use crate::scenario::report::{MatrixReport, Report, Verdict};
use crate::scenario::table::word;

/// Makes the page of a report in a file, of a run or of a matrix; gives where it is.
pub fn of_file(report: &Path, to: Option<&Path>) -> Result<PathBuf> {
    let name = report.display();
    let json = std::fs::read_to_string(report).with_context(|| format!("reading {name}"))?;
    let no_report = || format!("{name} is no report of a run");
    let read: serde_json::Value = serde_json::from_str(&json).with_context(no_report)?;
    let html = if read.get("runs").is_some() {
        let mut matrix = serde_json::from_value(read).with_context(no_report)?;
        older::complete_all(&mut matrix).with_context(|| name.to_string())?;
        of_matrix(&matrix)
    } else {
        let mut run = serde_json::from_value(read).with_context(no_report)?;
        older::complete(&mut run).with_context(|| name.to_string())?;
        of_run(&run)
    };
    let to = to.map_or_else(|| beside(report), Path::to_owned);
    files::write_for_caller(&to, &html)?;
    Ok(to)
}

/// Where the page of a report is, unless something else is said.
pub fn beside(report: &Path) -> PathBuf {
    report.with_extension("html")
}

/// The page of one run.
pub fn of_run(report: &Report) -> String {
    let head = run::head(report);
    page(report.verdict, &head, &format!("{}{}", run::body(report), run::environment(report)))
}

/// The page of a matrix.
pub fn of_matrix(report: &MatrixReport) -> String {
    page(report.verdict, &matrix::head(report), &matrix::body(report))
}

/// What stands at the top of a page.
struct Head {
    /// Which run it was.
    kicker: String,
    /// What happened, in one sentence.
    headline: String,
    /// The reason of the verdict.
    reason: String,
}

fn page(verdict: Verdict, head: &Head, body: &str) -> String {
    let word = word(verdict);
    let Head { kicker, headline, reason } = head;
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\"><title>{word}: {kicker}</title>\n\
         <style>{style}</style></head><body><main>\n\
         <header><button id=\"theme\" type=\"button\" hidden>light / dark</button>\
         <p class=\"kicker\">{kicker}</p>\
         <h1><span class=\"verdict {class}\">{word}</span> {headline}</h1>\
         <p class=\"reason\">{reason}</p></header>\n{body}</main>\
         <script>{script}</script></body></html>\n",
        kicker = escape(kicker),
        headline = escape(headline),
        reason = escape(reason),
        class = word.to_lowercase(),
        style = include_str!("style.css"),
        script = include_str!("page.js"),
    )
}

fn section(title: &str, note: &str, content: &str) -> String {
    let mut html = format!("<section><h2>{title}</h2>");
    if !note.is_empty() {
        write!(html, "<p class=\"lead\">{note}</p>").ok();
    }
    html + content + "</section>\n"
}
