//! The command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::lab::relay::Badness;
use crate::scenario::steps::StepName;

/// The lab of Holdfast: real programs in network namespaces, real traffic, real faults, a verdict.
///
/// Exit codes of `demo` and `chaos`: 0 pass, 1 fail, 2 unknown (the run proves nothing), 3 the run could not begin
/// or could not be cleaned up after, 128 + N ended by signal N. Everything else ends with 0, or with
/// 1 where it failed. A command line that makes no sense is 3 everywhere.
#[derive(Parser, Debug)]
#[command(name = "holdfast-chaos", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Action {
    /// Check whether this machine can run the lab; one sentence with the remedy for what is missing
    Doctor,
    /// Raise a lab, take it away, look at it
    #[command(subcommand)]
    Lab(LabAction),
    /// Raise a lab, run a cluster through its faults on real traffic, say what survived, clean up
    ///
    /// Exit codes: 0 pass, 1 fail, 2 unknown (the run proves nothing), 3 the run could not begin or could
    /// not be cleaned up after, 128 + N ended by signal N.
    #[command(alias = "run")]
    Demo(Demo),
    /// Raise labs, run a matrix of faults on real traffic, say what survived by fault and age, clean up
    ///
    /// Exit codes as those of `demo`.
    Chaos(Chaos),
    /// Put the reports of several runs side by side: survivors added up, the worst stalls
    Summary {
        /// What `demo --report` wrote
        #[arg(required = true, value_name = "REPORT")]
        reports: Vec<PathBuf>,
    },
    /// Make the page of a report: one HTML file that needs nothing else
    Html {
        /// What `demo --report` or `chaos --report` wrote
        report: PathBuf,
        /// Where it is written; beside the report if absent
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Run the scenario's traffic against a standing lab, without faults
    Workload(Workload),
    /// The client process of the scenario; obeys orders on standard input
    #[command(hide = true)]
    Client {
        /// The numbers of its records begin here
        #[arg(long, default_value_t = 0)]
        base: u64,
    },
    /// The servers of a backend
    #[command(hide = true)]
    Backend {
        /// Its name, which is part of its answers
        #[arg(long)]
        name: String,
        /// Where it listens
        #[arg(long)]
        address: Ipv4Addr,
    },
    /// Pass on what directors send to each other, late and incomplete; run in the router's namespace
    #[command(hide = true)]
    Relay {
        /// Their addresses
        #[arg(long, value_delimiter = ',', required = true)]
        directors: Vec<Ipv4Addr>,
        /// How bad the network shall be
        #[command(flatten)]
        badness: Badness,
    },
    /// Fetch a page over HTTP from the namespace it is run in
    #[command(hide = true)]
    Fetch {
        /// From where
        address: SocketAddr,
        /// What
        path: String,
    },
}

/// What can be done with a lab.
#[derive(Subcommand, Debug)]
pub enum LabAction {
    /// Raise a lab and leave it standing
    Up(LabUp),
    /// Take a lab away, whatever state it is in
    Down(LabDown),
    /// Describe a standing lab anew: process ids change when a daemon is restarted
    Refresh {
        /// Its description
        #[arg(long, default_value = "lab.json")]
        lab: PathBuf,
    },
    /// List the labs on this machine
    List,
}

/// What every lab can be told.
#[derive(Args, Debug, Clone)]
pub struct Ground {
    /// How many directors
    #[arg(long, default_value_t = 3)]
    pub directors: u8,
    /// How many backends
    #[arg(long, default_value_t = 3)]
    pub backends: u8,
    /// How many clients
    #[arg(long, default_value_t = 1)]
    pub clients: u8,
    /// Folder of holdfastd, holdfast-guard and holdfast; the one of this program if absent
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
    /// guard-timeout of the directors, in milliseconds
    #[arg(long, default_value_t = 150)]
    pub guard_timeout: u32,
    /// replicate-after of the lab's listeners: a duration, or `never`
    #[arg(long, default_value = "3s")]
    pub replicate_after: String,
}

/// `lab up`.
#[derive(Args, Debug)]
pub struct LabUp {
    /// What it shall be.
    #[command(flatten)]
    pub ground: Ground,
    /// Where its description is written
    #[arg(long, default_value = "lab.json")]
    pub lab: PathBuf,
    /// Stop before the cluster: namespaces, links, BIRD and the backends' servers only
    #[arg(long)]
    pub no_cluster: bool,
    /// The process that the lab is for; once it is gone, `lab down --stale` takes the lab away
    #[arg(long, value_name = "PID")]
    pub owner: Option<u32>,
}

/// `lab down`.
#[derive(Args, Debug)]
pub struct LabDown {
    /// Its description
    #[arg(long, default_value = "lab.json", conflicts_with_all = ["run", "stale"])]
    pub lab: PathBuf,
    /// The id of its run, where there is no description
    #[arg(long, conflicts_with = "stale")]
    pub run: Option<String>,
    /// Everything whose process is gone: labs of runs that were killed, labs raised for an --owner,
    /// namespaces and folders of tests
    #[arg(long)]
    pub stale: bool,
}

/// Of so many young connections far more than a thousand are there when the fault comes.
pub const YOUNG: u32 = 1_920;
/// More do not fit into the ports of a client.
const MOST_YOUNG: i64 = 8_000;

/// `demo`.
#[derive(Args, Debug, Clone)]
pub struct Demo {
    /// What the lab shall be.
    #[command(flatten)]
    pub ground: Ground,
    /// Decides who is hit
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the report is written (JSON), and beside it a page of it for people
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Where that page is written (HTML), if not beside the report
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Only these steps, in this order; those of the matrix, too
    #[arg(long, value_enum, value_delimiter = ',')]
    pub steps: Vec<StepName>,
    /// How many young connections sit on the director that fails; five in seven have to be there
    #[arg(long, default_value_t = YOUNG, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MOST_YOUNG))]
    pub young: u32,
    /// Positive control: do everything but the faults; the verdict has to be unknown
    #[arg(long)]
    pub no_inject: bool,
    /// Positive control: listeners with replicate-after = "never"; connections have to be lost
    #[arg(long, value_enum)]
    pub control: Option<Control>,
    /// The commit that was built; the report repeats it
    #[arg(long)]
    pub commit: Option<String>,
    /// Keep logs and configurations of the run in this folder
    #[arg(long)]
    pub keep_logs: Option<PathBuf>,
}

/// `chaos`.
#[derive(Args, Debug, Clone)]
pub struct Chaos {
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<StepName>,
    /// Run the whole with this many seeds, from 1 on
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seeds: u64,
    /// Run it with this seed only
    #[arg(long, conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// How many young connections sit on the directors that fail; five in seven have to be there
    #[arg(long, default_value_t = YOUNG, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MOST_YOUNG))]
    pub young: u32,
    /// Where the report is written (JSON), and beside it a page of it for people
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where that page is written (HTML), if not beside the report
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Folder of holdfastd, holdfast-guard and holdfast; the one of this program if absent
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
    /// The commit that was built; the report repeats it
    #[arg(long)]
    pub commit: Option<String>,
    /// Keep logs and configurations of the runs in this folder
    #[arg(long)]
    pub keep_logs: Option<PathBuf>,
}

impl Chaos {
    /// The labs, but for the number of directors.
    pub fn ground(&self) -> Ground {
        Ground {
            directors: 3,
            backends: 3,
            clients: 1,
            bin_dir: self.bin_dir.clone(),
            guard_timeout: 150,
            replicate_after: "3s".into(),
        }
    }
}

/// The positive controls that switch something off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Control {
    /// Nothing is replicated.
    Never,
}

/// `workload`.
#[derive(Args, Debug)]
pub struct Workload {
    /// The description of the lab
    #[arg(long, default_value = "lab.json")]
    pub lab: PathBuf,
    /// For how long
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Where all records are written (JSON)
    #[arg(long)]
    pub records: Option<PathBuf>,
}
