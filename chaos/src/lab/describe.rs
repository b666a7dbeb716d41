//! `lab.json`: what other programs need to know of a lab that stands.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::{METRICS_PORT, Plan, SPARE_VIPS, Site, VIPS};
use super::spawn::processes;

/// The description of a lab.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Id of the run.
    pub run: String,
    /// VIPs of the lab's own listeners.
    pub vips: Vec<String>,
    /// VIPs that are free.
    pub spare_vips: Vec<String>,
    /// The clients.
    pub clients: Vec<Machine>,
    /// The routers.
    pub routers: Vec<Machine>,
    /// The backends.
    pub backends: Vec<BackendMachine>,
    /// The directors.
    pub directors: Vec<DirectorMachine>,
}

/// A machine that only has a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
}

/// A backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendMachine {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address.
    pub addr: String,
}

/// A director.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectorMachine {
    /// Its name.
    pub id: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address.
    pub addr: String,
    /// Path of its admin socket.
    pub admin_socket: String,
    /// Where its metrics are.
    pub metrics: String,
    /// Its processes.
    pub pids: Pids,
}

/// The processes of a director; null: it does not run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pids {
    /// `holdfastd`.
    pub daemon: Option<u32>,
    /// `holdfast-guard`.
    pub guard: Option<u32>,
    /// `bird`.
    pub bird: Option<u32>,
}

/// The processes of a director as they are now.
pub async fn pids(plan: &Plan, site: Site) -> Result<Pids> {
    let processes = processes(&plan.netns(site)).await?;
    let find = |name: &str| processes.iter().find(|p| p.name == name).map(|p| p.pid);
    Ok(Pids { daemon: find("holdfastd"), guard: find("holdfast-guard"), bird: find("bird") })
}

/// Where a director's metrics are.
pub fn metrics_url(site: Site) -> String {
    format!("http://{}:{METRICS_PORT}/metrics", site.addr())
}

/// Describes a lab as it is now.
pub async fn describe(plan: &Plan) -> Result<Description> {
    let texts = |vips: &[std::net::Ipv4Addr]| vips.iter().map(|v| v.to_string()).collect();
    let mut directors = Vec::new();
    for site in plan.directors() {
        directors.push(DirectorMachine {
            id: site.name(),
            netns: plan.netns(site),
            addr: site.addr().to_string(),
            admin_socket: plan.admin_socket(site).display().to_string(),
            metrics: metrics_url(site),
            pids: pids(plan, site).await?,
        });
    }
    Ok(Description {
        run: plan.run.clone(),
        vips: texts(&VIPS),
        spare_vips: texts(&SPARE_VIPS),
        clients: plan.clients().map(|c| Machine { name: c.name(), netns: plan.netns(c) }).collect(),
        routers: vec![Machine { name: "r1".into(), netns: plan.router() }],
        backends: plan
            .backends()
            .map(|b| BackendMachine {
                name: b.name(),
                netns: plan.netns(b),
                addr: b.addr().to_string(),
            })
            .collect(),
        directors,
    })
}

/// Writes the description; under sudo the file belongs to who called it.
pub fn write(description: &Description, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(description)? + "\n";
    crate::files::write_for_caller(file, &text)
}

/// Reads a description.
pub fn read(file: &Path) -> Result<Description> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the lab's description {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not the description of a lab", file.display()))
}
