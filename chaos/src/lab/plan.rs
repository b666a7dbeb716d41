//! Names and addresses of a lab. Everything follows from a few numbers, nothing is looked up.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Under this folder each lab has one of its own, `hf-RUN`.
pub const RUN_BASE: &str = "/tmp";
/// The plan of a lab, in its folder.
pub const PLAN_FILE: &str = "holdfast-lab.json";
/// VIPs of the lab's own listeners.
pub const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11)];
/// VIPs that nobody uses, for listeners that people add.
pub const SPARE_VIPS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(203, 0, 113, 100),
    Ipv4Addr::new(203, 0, 113, 101),
    Ipv4Addr::new(203, 0, 113, 102),
    Ipv4Addr::new(203, 0, 113, 103),
];
/// Where LIPs are taken from.
pub const LIP_POOL: &str = "198.51.100.0/26";
/// Port of the directors' QUIC endpoint.
pub const PEER_PORT: u16 = 7400;
/// Port of the directors' metrics.
pub const METRICS_PORT: u16 = 9600;
/// The AS of the directors, and of the router.
pub const DIRECTOR_AS: u32 = 65100;
/// The router's AS.
pub const ROUTER_AS: u32 = 65000;
/// The data interface of a director, and the only one of clients and backends.
pub const DATA_INTERFACE: &str = "data0";

/// The kinds of machine behind the router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Forwards.
    Director,
    /// Opens connections.
    Client,
    /// Answers them.
    Backend,
}

/// A machine of the lab, numbered from 1 within its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Site {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub number: u8,
}

/// A director.
pub fn director(number: u8) -> Site {
    Site { kind: Kind::Director, number }
}

/// A client.
pub fn client(number: u8) -> Site {
    Site { kind: Kind::Client, number }
}

/// A backend.
pub fn backend(number: u8) -> Site {
    Site { kind: Kind::Backend, number }
}

impl Site {
    /// `d1`, `c1`, `b1`: its name, and that of the router's interface towards it.
    pub fn name(self) -> String {
        let letter = match self.kind {
            Kind::Director => 'd',
            Kind::Client => 'c',
            Kind::Backend => 'b',
        };
        format!("{letter}{}", self.number)
    }

    fn subnet(self, host: u8) -> Ipv4Addr {
        let second = match self.kind {
            Kind::Director => 71,
            Kind::Client => 72,
            Kind::Backend => 73,
        };
        Ipv4Addr::new(10, second, self.number, host)
    }

    /// Its address (in a /24 of its own).
    pub fn addr(self) -> Ipv4Addr {
        self.subnet(2)
    }

    /// The router's address in that /24.
    pub fn gateway(self) -> Ipv4Addr {
        self.subnet(1)
    }
}

/// What a lab is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Unique id of the run: five letters and digits.
    pub run: String,
    /// Numbers of the directors that are there.
    pub directors: Vec<u8>,
    /// How many backends.
    pub backends: u8,
    /// How many clients.
    pub clients: u8,
    /// `guard-timeout` of the directors (ms).
    pub guard_timeout_ms: u32,
    /// `replicate-after` of the lab's listeners.
    pub replicate_after: String,
    /// Where `holdfastd`, `holdfast-guard` and `holdfast` are.
    pub bin_dir: PathBuf,
    /// Whether the wall clock of each daemon can be set.
    #[serde(default)]
    pub clocks: bool,
    /// The director that has a disk of its own.
    #[serde(default)]
    pub own_disk: Option<u8>,
    /// The process that raised it, and when that process started (clock ticks since boot).
    pub owner: (u32, u64),
    /// Whether it has been raised and is meant to outlive that process.
    pub standing: bool,
    /// Whether /run/netns was no mount point before: then it shall be none afterwards.
    pub made_netns_mount: bool,
}

impl Plan {
    /// Checks the numbers.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=16).contains(&self.directors.len()),
            "--directors has to be 1 to 16: a director has two of the 64 LIPs, and ECMP 16 paths"
        );
        ensure!((1..=32).contains(&self.backends), "--backends has to be 1 to 32");
        ensure!((1..=32).contains(&self.clients), "--clients has to be 1 to 32");
        Ok(())
    }

    /// The folder of this run: logs, sockets, data directories.
    pub fn dir(&self) -> PathBuf {
        run_dir(&self.run)
    }

    /// A file in the folder of a machine.
    pub fn file(&self, machine: &str, name: &str) -> PathBuf {
        self.dir().join(machine).join(name)
    }

    /// The router's namespace.
    pub fn router(&self) -> String {
        format!("hf-{}-r1", self.run)
    }

    /// A machine's namespace.
    pub fn netns(&self, site: Site) -> String {
        format!("hf-{}-{}", self.run, site.name())
    }

    /// One of our binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// A director's admin socket.
    pub fn admin_socket(&self, site: Site) -> PathBuf {
        self.file(&site.name(), "admin.sock")
    }

    /// The directors that are there.
    pub fn directors(&self) -> impl Iterator<Item = Site> + '_ {
        self.directors.iter().map(|n| director(*n))
    }

    /// The clients.
    pub fn clients(&self) -> impl Iterator<Item = Site> + use<> {
        (1..=self.clients).map(client)
    }

    /// The backends.
    pub fn backends(&self) -> impl Iterator<Item = Site> + use<> {
        (1..=self.backends).map(backend)
    }

    /// Writes the plan into the folder of the run.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(self.dir().join(PLAN_FILE), text)?;
        Ok(())
    }

    /// Reads the plan of a run.
    pub fn load(run: &str) -> Result<Plan> {
        let text = std::fs::read_to_string(run_dir(run).join(PLAN_FILE))?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// The folder of a run.
pub fn run_dir(run: &str) -> PathBuf {
    Path::new(RUN_BASE).join(format!("hf-{run}"))
}

/// A new run id.
pub fn new_run_id() -> String {
    const DIGITS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // It begins with an x, so that it is told apart from namespaces of other programs.
    std::iter::once('x')
        .chain((0..4).map(|_| char::from(DIGITS[rand::random_range(0..DIGITS.len())])))
        .collect()
}

/// The run id in the name of a namespace, if it is one of a lab.
pub fn run_of_netns(name: &str) -> Option<&str> {
    let (run, machine) = name.strip_prefix("hf-")?.split_once('-')?;
    let machine_ok = machine.starts_with(['r', 'd', 'c', 'b'])
        && machine.len() > 1
        && machine[1..].bytes().all(|b| b.is_ascii_digit());
    let run_ok = run.len() == 5
        && run.starts_with('x')
        && run.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (run_ok && machine_ok).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_namespaces_lead_back_to_their_run() {
        let run = new_run_id();
        assert_eq!(run_of_netns(&format!("hf-{run}-r1")), Some(run.as_str()));
        assert_eq!(run_of_netns("hf-xdp12-d13"), Some("xdp12"));
        for other in ["hf-xdp12", "hf-xdp12-tap", "hf-abcde-d1", "xdp12-d1", "hf-xdp12-d"] {
            assert_eq!(run_of_netns(other), None, "{other}");
        }
    }

    #[test]
    fn machines_have_distinct_addresses() {
        let sites = [director(1), director(2), client(1), backend(1)];
        let mut addrs: Vec<_> = sites.iter().flat_map(|s| [s.addr(), s.gateway()]).collect();
        addrs.sort();
        addrs.dedup();
        assert_eq!(addrs.len(), 8);
        assert_eq!(director(3).name(), "d3");
    }
}
