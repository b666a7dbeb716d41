//! `holdfast-guard`: holds the announced routes and lets go when holdfastd no longer works.
//! Started by holdfastd, never by hand.

use std::process::ExitCode;

use holdfast_node::guard::run::{Arguments, run};

fn main() -> ExitCode {
    let args = match Arguments::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("holdfast-guard: {message}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(_) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("holdfast-guard: {message}");
            ExitCode::FAILURE
        }
    }
}
