//! The command `holdfast`: talks to a director's admin API over its unix socket.
//!
//! [`args`] is what may be typed, [`client`] speaks HTTP, [`commands`] holds a module for each
//! family of commands, [`failure`] says how a command can fail and with which exit code.
#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod diff;
mod edit;
mod failure;
mod output;
#[cfg(test)]
mod reference;
mod table;
mod values;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Arguments, Format};
use failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let format = arguments.output;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::error(format!("no runtime: {error}"), "");
            return ExitCode::from(failure.report(format));
        }
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.report(format)),
    }
}

/// What was typed is no command, or asks for help or the version.
fn usage(error: &clap::Error) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked || !wants_json() {
        // A reader that went away does not want to hear about it.
        let _ = error.print();
        return ExitCode::from(if asked { 0 } else { 2 });
    }
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let failure = Failure::usage(message, "holdfast --help");
    ExitCode::from(failure.report(Format::Json))
}

/// Whether `--output json` was typed, as far as one can see in what could not be parsed.
fn wants_json() -> bool {
    let typed: Vec<_> = std::env::args().collect();
    typed.iter().any(|arg| arg == "--output=json")
        || typed.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}
