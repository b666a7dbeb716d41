//! The lab: clients, a router, directors and backends in network namespaces, the real programs in
//! each, and a cluster formed of them.

pub mod backends;
pub mod bird;
pub mod clocks;
pub mod cluster;
pub mod describe;
pub mod disks;
pub mod down;
pub mod leftovers;
pub mod links;
pub mod plan;
pub mod relay;
pub mod spawn;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

pub use plan::Plan;

/// What a lab can be asked to be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How many directors.
    pub directors: u8,
    /// How many backends.
    pub backends: u8,
    /// How many clients.
    pub clients: u8,
    /// `guard-timeout` (ms).
    pub guard_timeout_ms: u32,
    /// `replicate-after` of the lab's listeners.
    pub replicate_after: String,
    /// Where the binaries are.
    pub bin_dir: PathBuf,
    /// Whether a cluster is formed on it.
    pub cluster: bool,
    /// Whether the wall clock of each daemon can be set.
    pub clocks: bool,
    /// The director that gets a disk of its own.
    pub own_disk: Option<u8>,
}

impl Wish {
    /// Checks what was asked for and makes a plan with a new run id.
    pub fn plan(self) -> Result<Plan> {
        for binary in ["holdfastd", "holdfast-guard", "holdfast"] {
            if self.cluster && !self.bin_dir.join(binary).is_file() {
                bail!(
                    "{binary} is not in {}: build it (`make build`) or name its folder with --bin-dir",
                    self.bin_dir.display()
                );
            }
        }
        let me = std::process::id();
        let plan = Plan {
            run: plan::new_run_id(),
            directors: (1..=self.directors).collect(),
            backends: self.backends,
            clients: self.clients,
            guard_timeout_ms: self.guard_timeout_ms,
            replicate_after: self.replicate_after,
            bin_dir: self.bin_dir.canonicalize().context("the folder of the binaries")?,
            clocks: self.clocks,
            own_disk: self.own_disk,
            owner: (me, spawn::start_time(me).unwrap_or(0)),
            standing: false,
            made_netns_mount: !down::netns_is_mounted(),
        };
        plan.check()?;
        Ok(plan)
    }
}

/// Raises everything up to the point where only the cluster is missing: namespaces, links, BIRD,
/// the servers on the backends.
pub async fn raise_ground(plan: &Plan, say: &dyn Fn(&str)) -> Result<()> {
    std::fs::create_dir(plan.dir())
        .with_context(|| format!("making the folder {}", plan.dir().display()))?;
    plan.save()?;
    say("namespaces and links");
    links::raise_router(plan).await?;
    if plan.clocks {
        clocks::make(plan).await?;
        for site in plan.directors() {
            clocks::set(plan, site, 0)?;
        }
    }
    if let Some(number) = plan.own_disk {
        disks::attach(plan, plan::director(number)).await?;
    }
    for site in plan.directors().chain(plan.clients()).chain(plan.backends()) {
        links::attach(plan, site).await?;
    }
    say("BIRD on the router and the directors");
    bird::start_router(plan).await?;
    for site in plan.directors() {
        bird::start_director(plan, site).await?;
    }
    say("servers on the backends");
    backends::start(plan).await
}

/// Raises a whole lab: the ground, and a cluster on it that has settled.
pub async fn raise(plan: &Plan, say: &dyn Fn(&str)) -> Result<()> {
    raise_ground(plan, say).await?;
    cluster::form(plan, say).await
}
