//! Prints docs/cli.md from the command line's own definition, and checks that it has not drifted.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::args::Arguments;
use crate::failure::EXIT_CODES;

const HEAD: &str = "\
# The command `holdfast`

<!-- Generated from the command line's definition. Do not edit; write it anew with
     HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-cli reference -->

`holdfast` talks to a director's admin API over its unix socket; any director of the cluster will do.
Results go to standard output, notes and errors to standard error. With `--output json` results are
the API's JSON, and an error is one JSON object: `code`, `message`, `hint`, and for configurations
`errors`. Durations have units: `500ms`, `3s`, `15m`, `1h`.
";

fn markdown() -> String {
    let mut root = Arguments::command();
    root.build();
    let mut out = String::from(HEAD);
    out.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for (code, meaning) in EXIT_CODES {
        let _ = writeln!(out, "| {code} | {meaning} |");
    }
    out.push_str("\n## Options of every command\n\n");
    arguments(&mut out, root.get_arguments().filter(|arg| arg.is_global_set()));
    for command in root.get_subcommands() {
        describe(&mut out, command, "holdfast");
    }
    out
}

fn describe(out: &mut String, command: &Command, parent: &str) {
    let path = format!("{parent} {}", command.get_name());
    let mut subcommands = command.get_subcommands().peekable();
    if subcommands.peek().is_some() {
        subcommands.for_each(|sub| describe(out, sub, &path));
        return;
    }
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_default();
    let (first, rest) = about.split_once("\n\n").unwrap_or((&about, ""));
    let about = format!("{}.\n\n{rest}", first.trim_end_matches('.'));
    let own = || command.get_arguments().filter(|a| !a.is_global_set() && !is_help(a));
    let usage: Vec<String> = own().map(shape).collect();
    let _ = write!(out, "\n## `{path}`\n\n{}\n\n", about.trim_end());
    let _ = write!(out, "```\n{path} {}", usage.join(" "));
    *out = out.trim_end().to_owned();
    out.push_str("\n```\n");
    if own().next().is_some() {
        out.push('\n');
        arguments(out, own());
    }
}

fn is_help(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

/// How an argument stands in the usage line.
fn shape(arg: &Arg) -> String {
    let flag = flag(arg);
    if arg.is_required_set() { flag } else { format!("[{flag}]") }
}

fn flag(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.first().map(|name| name.to_string()).unwrap_or_default();
    let takes = arg.get_action().takes_values();
    let many = if arg.is_positional() && matches!(arg.get_action(), clap::ArgAction::Append) {
        "..."
    } else {
        ""
    };
    match (arg.get_long(), takes) {
        (None, _) => format!("{value}{many}"),
        (Some(long), false) => format!("--{long}"),
        (Some(long), true) => format!("--{long} {value}"),
    }
}

fn arguments<'a>(out: &mut String, all: impl Iterator<Item = &'a Arg>) {
    out.push_str("| argument | meaning | default |\n|---|---|---|\n");
    for arg in all {
        let short = arg.get_short().map(|c| format!("`-{c}`, ")).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let words: Vec<String> = match arg.get_action().takes_values() {
            true => {
                arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect()
            }
            false => Vec::new(),
        };
        let words =
            if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
        let default =
            if arg.get_action().takes_values() { defaults.join(" ") } else { String::new() };
        let _ = writeln!(out, "| {short}`{}` | {help}{words} | {default} |", flag(arg));
    }
}

#[test]
fn the_reference_has_not_drifted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let wanted = markdown();
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/cli.md can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/cli.md is not what the command line says; write it anew with \
         HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-cli reference"
    );
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}
