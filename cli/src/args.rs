//! What may be typed. docs/cli.md is printed from here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use holdfast_schema::admin::{Endpoint, SESSION_STATES};
use holdfast_schema::config::keys::{BACKEND, HEALTH, LISTENER};

use crate::values::{self, MillisOrNever};

/// Layer-4 load balancing whose connections do not break
///
/// Talks to a director's admin API over its unix socket; any director of the cluster will do.
#[derive(Parser, Debug)]
#[command(name = "holdfast", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_long_help = crate::failure::exit_codes())]
pub struct Arguments {
    /// How results are shown: `table` for people, `json` for programs (errors too)
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// The director's admin socket [default: $HOLDFAST_SOCKET, else /run/holdfast/admin.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// How results are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Aligned text.
    Table,
    /// JSON.
    Json,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Begin a cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show the cluster: members, groups, backends, and what is not as it should be
    Status(StatusArgs),
    /// Directors: list, add, drain, undrain, remove
    #[command(subcommand)]
    Node(NodeCommand),
    /// Listeners: list, add, set, remove
    #[command(subcommand)]
    Listener(ListenerCommand),
    /// Server groups: list, add, set, remove
    #[command(subcommand)]
    Group(GroupCommand),
    /// Backends: list, add, set, drain, undrain, remove
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Make the cluster serve what a cluster file says
    ///
    /// Shows the difference first, and asks when typed at a terminal. What the file does not name
    /// is removed.
    Apply(ApplyArgs),
    /// Check files, show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Sessions: list, show, count
    #[command(subcommand)]
    Session(SessionCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Begin a cluster.
#[derive(Subcommand, Debug)]
pub enum ClusterCommand {
    /// Begin a cluster on this director; the others join it
    Init {
        /// How many session groups (Raft shards) the cluster has; fixed for ever
        #[arg(long, default_value_t = 16, value_name = "N",
              value_parser = clap::value_parser!(u16).range(1..=64))]
        shards: u16,
    },
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Exit with 5 unless this director is ready and the cluster has settled
    #[arg(long)]
    pub check: bool,
    /// Show every Raft group
    #[arg(long)]
    pub groups: bool,
}

/// Directors.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the directors
    List,
    /// Open a slot for a new director; prints a one-time token and the command for the new machine
    Add {
        /// The new director's name: `id` in its node file
        #[arg(value_parser = values::name)]
        name: String,
        /// How long the token lives
        #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = values::expiry)]
        expires: u64,
    },
    /// Give a director's traffic to the others; takes seconds, connections go on
    ///
    /// Shows what is left and ends when the director is drained. Interrupting the command does not
    /// interrupt the drain.
    Drain {
        /// The director
        #[arg(value_parser = values::name)]
        name: String,
        /// How long to wait; the drain goes on afterwards
        #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = values::time)]
        timeout: u32,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        force: Force,
    },
    /// Let a drained director serve again
    Undrain {
        /// The director
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// End a membership: revokes the director's key and quarantines its LIPs
    Remove {
        /// The director
        #[arg(value_parser = values::name)]
        name: String,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Args, Debug)]
pub struct Force {
    /// Do it although a precondition fails; the reason is recorded
    #[arg(long, value_name = "REASON", value_parser = values::reason)]
    pub force: Option<String>,
}

/// Listeners.
#[derive(Subcommand, Debug)]
pub enum ListenerCommand {
    /// List the listeners
    List,
    /// Add a listener
    Add {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// The virtual IP that clients connect to
        #[arg(long)]
        vip: IpAddr,
        /// The port that clients connect to
        #[arg(long, value_parser = values::number::<u16>(&LISTENER, "port"))]
        port: u16,
        /// The transport protocol
        #[arg(long, default_value = "tcp", value_parser = values::word(&LISTENER, "protocol"))]
        protocol: &'static str,
        /// The server group whose backends get the sessions
        #[arg(long, value_parser = values::name)]
        group: String,
        #[command(flatten)]
        policy: ListenerPolicy,
    },
    /// Change a listener; what is not named stays
    Set {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// The virtual IP that clients connect to
        #[arg(long)]
        vip: Option<IpAddr>,
        /// The port that clients connect to
        #[arg(long, value_parser = values::number::<u16>(&LISTENER, "port"))]
        port: Option<u16>,
        /// The server group whose backends get the sessions
        #[arg(long, value_parser = values::name)]
        group: Option<String>,
        #[command(flatten)]
        policy: ListenerPolicy,
        #[command(flatten)]
        force: Force,
    },
    /// Remove a listener; refused while it has sessions, unless forced
    Remove {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Args, Debug)]
pub struct ListenerPolicy {
    /// How packets reach the backends
    #[arg(long, value_parser = values::word(&LISTENER, "mode"))]
    pub mode: Option<&'static str>,
    /// How a new session finds its backend
    #[arg(long, value_parser = values::word(&LISTENER, "scheduler"))]
    pub scheduler: Option<&'static str>,
    /// Age from which a session is replicated: a duration, 0 (at once) or `never`
    #[arg(long, value_name = "DURATION",
          value_parser = values::millis_or_never(&LISTENER, "replicate-after"))]
    pub replicate_after: Option<MillisOrNever>,
    /// How long a session may go without a packet before it is forgotten
    #[arg(long, value_name = "DURATION",
          value_parser = values::millis(&LISTENER, "idle-timeout"))]
    pub idle_timeout: Option<u32>,
    /// What a packet of a TCP session gets that every director denies
    #[arg(long, value_parser = values::word(&LISTENER, "unknown-session"))]
    pub unknown_session: Option<&'static str>,
    /// What the first datagram of an unknown UDP flow gets
    #[arg(long, value_parser = values::word(&LISTENER, "new-udp"))]
    pub new_udp: Option<&'static str>,
}

/// Server groups.
#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// List the groups
    List,
    /// Add a group; `holdfast backend add` fills it
    Add {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        #[command(flatten)]
        health: HealthArgs,
    },
    /// Change a group's health check; what is not named stays
    Set {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        #[command(flatten)]
        health: HealthArgs,
    },
    /// Remove a group and its backends; refused while they have sessions, unless forced
    Remove {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Args, Debug)]
pub struct HealthArgs {
    /// How the backends are checked
    #[arg(long, value_name = "TYPE", value_parser = values::word(&HEALTH, "type"))]
    pub health: Option<&'static str>,
    /// Time between two checks of a backend
    #[arg(long, value_name = "DURATION", value_parser = values::millis(&HEALTH, "interval"))]
    pub interval: Option<u32>,
    /// Time after which a check has failed
    #[arg(long, value_name = "DURATION", value_parser = values::millis(&HEALTH, "timeout"))]
    pub timeout: Option<u32>,
    /// Successes in a row that make a backend healthy
    #[arg(long, value_name = "N", value_parser = values::number::<u8>(&HEALTH, "rise"))]
    pub rise: Option<u8>,
    /// Failures in a row that make a backend unhealthy
    #[arg(long, value_name = "N", value_parser = values::number::<u8>(&HEALTH, "fall"))]
    pub fall: Option<u8>,
    /// The port to check, if not the backend's own
    #[arg(long, value_name = "PORT", value_parser = values::number::<u16>(&HEALTH, "port"))]
    pub health_port: Option<u16>,
    /// What to ask for (http)
    #[arg(long)]
    pub path: Option<String>,
    /// The `Host` header (http)
    #[arg(long)]
    pub host: Option<String>,
    /// The expected status (http)
    #[arg(long, value_parser = values::number::<u16>(&HEALTH, "status"))]
    pub status: Option<u16>,
}

/// Backends.
#[derive(Subcommand, Debug)]
pub enum BackendCommand {
    /// List the backends and their health
    List {
        /// Only those of this group
        #[arg(value_parser = values::name)]
        group: Option<String>,
    },
    /// Add a backend to a group
    Add {
        #[command(flatten)]
        id: BackendId,
        /// Where it listens
        address: SocketAddr,
        /// Its share of new sessions, relative to the others'
        #[arg(long, default_value_t = 100,
              value_parser = values::number::<u16>(&BACKEND, "weight"))]
        weight: u16,
    },
    /// Change a backend's weight
    Set {
        #[command(flatten)]
        id: BackendId,
        /// Its share of new sessions, relative to the others'; 0: none
        #[arg(long, value_parser = values::number::<u16>(&BACKEND, "weight"))]
        weight: u16,
    },
    /// Give a backend no new sessions; existing ones go on
    Drain {
        #[command(flatten)]
        id: BackendId,
    },
    /// Give a drained backend new sessions again
    Undrain {
        #[command(flatten)]
        id: BackendId,
    },
    /// Remove a backend; refused while it has sessions, unless forced
    Remove {
        #[command(flatten)]
        id: BackendId,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Args, Debug)]
pub struct BackendId {
    /// Its group
    #[arg(value_parser = values::name)]
    pub group: String,
    /// Its name
    #[arg(value_parser = values::name)]
    pub name: String,
}

#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// The cluster file; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: PathBuf,
    /// Only show the difference
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    #[command(flatten)]
    pub force: Force,
}

/// Configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check node and cluster files without touching anything; every error at once
    Check {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the cluster's configuration as a file for `holdfast apply`
    Show,
}

/// Sessions.
#[derive(Subcommand, Debug)]
pub enum SessionCommand {
    /// List sessions and the directors that forward them
    List {
        #[command(flatten)]
        filter: SessionFilter,
        /// How many at the most
        #[arg(long, default_value_t = 1_000, value_name = "N",
              value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
    },
    /// Show everything known of a client's sessions
    Show {
        /// The client: ADDRESS:PORT, or ADDRESS for all its ports
        client: Endpoint,
    },
    /// Count sessions by director and state
    Count {
        #[command(flatten)]
        filter: SessionFilter,
    },
}

#[derive(Args, Debug)]
pub struct SessionFilter {
    /// Only those of this client
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub client: Option<Endpoint>,
    /// Only those to this VIP
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub vip: Option<Endpoint>,
    /// Only those at this backend
    #[arg(long, value_name = "GROUP/NAME", value_parser = backend_path)]
    pub backend: Option<String>,
    /// Only those in this state
    #[arg(long, value_parser = SESSION_STATES)]
    pub state: Option<String>,
}

fn backend_path(text: &str) -> Result<String, String> {
    let (group, name) = text.split_once('/').ok_or("write it as GROUP/NAME")?;
    values::name(group)?;
    values::name(name)?;
    Ok(text.to_owned())
}
