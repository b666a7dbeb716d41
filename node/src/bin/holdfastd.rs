//! `holdfastd`: the Holdfast director.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use holdfast_node::{daemon, install, metrics, os, privileges};
use holdfast_schema::config::{NodeSpec, parse_node};
use tracing_subscriber::EnvFilter;

/// The Holdfast director: forwards, replicates, announces.
#[derive(Parser, Debug)]
#[command(
    version,
    about,
    after_help = "Logging: HOLDFAST_LOG=debug (or as in RUST_LOG).\nExit codes: 0 ok, 1 error, 2 usage."
)]
struct Arguments {
    /// The node file (`kind = "node"`).
    #[arg(long, value_name = "FILE", required_unless_present = "print_metrics_reference")]
    config: Option<PathBuf>,
    /// Join a cluster with a token of `holdfast node add`. The environment variable
    /// HOLDFAST_JOIN_TOKEN does the same and keeps the token out of `ps`.
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Check the node file and exit.
    #[arg(long, conflicts_with_all = ["join", "install_rules"])]
    check: bool,
    /// Install the kernel rule and the blackholes of the last known configuration, and exit.
    #[arg(long, conflicts_with = "join")]
    install_rules: bool,
    /// How log lines look (they go to stderr).
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Print docs/metrics.md and exit.
    #[arg(long, hide = true)]
    print_metrics_reference: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

fn read_config(path: &Path) -> anyhow::Result<NodeSpec> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the node file {}", path.display()))?;
    Ok(parse_node(&text, &path.display().to_string())?)
}

fn run(args: Arguments) -> anyhow::Result<()> {
    if args.print_metrics_reference {
        print!("{}", metrics::reference::markdown());
        return Ok(());
    }
    let path = args.config.unwrap_or_default();
    let spec = read_config(&path)?;
    if args.check {
        println!("{}: all right", path.display());
        return Ok(());
    }
    start_logging(args.log_format);
    if let Some(lacking) = privileges::missing() {
        anyhow::bail!(lacking);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hf-runtime")
        .enable_all()
        .build()?;
    if args.install_rules {
        return runtime.block_on(install::rules(&spec));
    }
    if let Err(error) = os::forbid_core_dumps() {
        tracing::warn!(%error, "core dumps are not forbidden; one would hold up a takeover for seconds");
    }
    if let Err(error) = os::raise_autogroup() {
        tracing::debug!(%error, "no autogroup to raise");
    }
    if let Err(error) = os::raise_file_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let token = args.join.or_else(|| std::env::var("HOLDFAST_JOIN_TOKEN").ok());
    let result = runtime.block_on(daemon::run(spec, token.filter(|t| !t.is_empty())));
    // Blocking work that hangs must not keep a daemon alive that has stopped.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfastd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
