//! One module for each family of commands.

mod apply;
mod backend;
mod cluster;
mod config;
mod drain;
mod group;
mod listener;
mod node;
mod session;
mod status;

use std::path::PathBuf;

use clap::CommandFactory;
use holdfast_schema::config::{DEFAULT_ADMIN_SOCKET, closest};

use crate::args::{Arguments, Command};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Where results go.
    pub output: Output,
    /// The director that is asked.
    pub client: Client,
}

/// Runs what was typed.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let socket = arguments.socket.unwrap_or_else(|| {
        let named = std::env::var_os("HOLDFAST_SOCKET").filter(|path| !path.is_empty());
        PathBuf::from(named.unwrap_or_else(|| DEFAULT_ADMIN_SOCKET.into()))
    });
    let output = Output { format: arguments.output };
    let context = Context { output, client: Client::new(socket) };
    match arguments.command {
        Command::Cluster(command) => cluster::run(&context, command).await,
        Command::Status(args) => status::run(&context, &args).await,
        Command::Node(command) => node::run(&context, command).await,
        Command::Listener(command) => listener::run(&context, command).await,
        Command::Group(command) => group::run(&context, command).await,
        Command::Backend(command) => backend::run(&context, command).await,
        Command::Apply(args) => apply::run(&context, args).await,
        Command::Config(command) => config::run(&context, command).await,
        Command::Session(command) => session::run(&context, command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "holdfast", &mut script);
            output.text(&String::from_utf8_lossy(&script))
        }
    }
}

/// A thing of this name does not exist; names the one that was probably meant.
fn no_such<'n>(what: &str, name: &str, all: impl Iterator<Item = &'n str> + Clone) -> Failure {
    let hint = match closest(name, all.clone()) {
        Some(meant) => format!("did you mean \"{meant}\"?"),
        None => match all.collect::<Vec<_>>() {
            none if none.is_empty() => format!("there is no {what} at all"),
            all => format!("there is {}", all.join(", ")),
        },
    };
    Failure::not_found(format!("there is no {what} \"{name}\""), hint)
}
