//! BIRD on the router and on each director, configured by the templates of deploy/bird.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan::{DATA_INTERFACE, DIRECTOR_AS, Plan, ROUTER_AS, Site};
use super::spawn::{Priority, spawn};
use crate::command::run;
use crate::scenario::wait::until;

const DIRECTOR: &str = include_str!("../../../deploy/bird/director.conf");
const ROUTER: &str = include_str!("../../../deploy/bird/router.conf");
const BFD_INTERVAL: &str = "100 ms";

/// The router's BIRD is configured with a protocol for each of the plan's directors.
pub async fn start_router(plan: &Plan) -> Result<()> {
    write_router(plan)?;
    start(plan, "r1", &plan.router()).await
}

/// Tells the router's BIRD about the directors of the plan as it is now.
pub async fn reconfigure_router(plan: &Plan) -> Result<()> {
    write_router(plan)?;
    let said = birdc(plan, "r1", &["configure"]).await?;
    if !said.contains("Reconfigured") && !said.contains("Reconfiguration in progress") {
        bail!("the router's BIRD refuses its configuration: {said}");
    }
    Ok(())
}

/// Starts a director's BIRD.
pub async fn start_director(plan: &Plan, site: Site) -> Result<()> {
    let name = site.name();
    let text = fill(
        DIRECTOR,
        &[
            ("ROUTER_ID", site.addr().to_string()),
            ("INTERFACE", DATA_INTERFACE.to_owned()),
            ("ADDRESS", site.addr().to_string()),
            ("ROUTER", site.gateway().to_string()),
            ("AS", DIRECTOR_AS.to_string()),
            ("ROUTER_AS", ROUTER_AS.to_string()),
            ("BFD_INTERVAL", BFD_INTERVAL.to_owned()),
            ("LOG", format!("\"{}\"", log_file(plan, &name).display())),
        ],
    )?;
    std::fs::create_dir_all(plan.dir().join(&name))?;
    std::fs::write(plan.file(&name, "bird.conf"), text)?;
    start(plan, &name, &plan.netns(site)).await
}

/// Asks a machine's BIRD.
pub async fn birdc(plan: &Plan, machine: &str, words: &[&str]) -> Result<String> {
    let socket = plan.file(machine, "bird.ctl").display().to_string();
    let mut argv = vec!["birdc", "-s", &socket];
    argv.extend(words);
    run(&argv).await
}

/// Where a machine's BIRD writes its log (timestamps in UTC).
pub fn log_file(plan: &Plan, machine: &str) -> PathBuf {
    plan.file(machine, "bird.log")
}

fn write_router(plan: &Plan) -> Result<()> {
    let neighbors: String = plan
        .directors()
        .map(|d| {
            let (name, addr) = (d.name(), d.addr());
            format!("protocol bgp {name} from director {{ neighbor {addr} as {DIRECTOR_AS}; }}\n")
        })
        .collect();
    let text = fill(
        ROUTER,
        &[
            ("ROUTER_ID", "10.70.0.1".to_owned()),
            ("AS", ROUTER_AS.to_string()),
            ("DIRECTOR_AS", DIRECTOR_AS.to_string()),
            ("BFD_INTERVAL", BFD_INTERVAL.to_owned()),
            ("LOG", format!("\"{}\"", log_file(plan, "r1").display())),
            ("NEIGHBORS", neighbors),
        ],
    )?;
    std::fs::create_dir_all(plan.dir().join("r1"))?;
    std::fs::write(plan.file("r1", "bird.conf"), text)?;
    Ok(())
}

async fn start(plan: &Plan, machine: &str, netns: &str) -> Result<()> {
    let path = |name: &str| plan.file(machine, name).display().to_string();
    // A socket left by a BIRD that was killed would look like one that is ready.
    std::fs::remove_file(path("bird.ctl")).ok();
    let (conf, socket, pid) = (path("bird.conf"), path("bird.ctl"), path("bird.pid"));
    let argv = ["bird", "-f", "-c", &conf, "-s", &socket, "-P", &pid];
    // BFD must not starve behind workers that share its cores.
    spawn(netns, &argv, Priority::High, &plan.file(machine, "bird.out"), &[]).await?;
    until("BIRD answers", Duration::from_secs(10), async || {
        birdc(plan, machine, &["show", "status"]).await.map(|_| ())
    })
    .await
    .with_context(|| {
        let said = std::fs::read_to_string(path("bird.out")).unwrap_or_default();
        format!("BIRD on {machine} did not start: {}", said.trim())
    })
}

/// Fills the template's `@WORDS@`; one that is not filled is an error.
fn fill(template: &str, words: &[(&str, String)]) -> Result<String> {
    // Comments explain the words and would be filled too; they are of no use to the lab.
    let mut text: String = template
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (word, value) in words {
        text = text.replace(&format!("@{word}@"), value);
    }
    if let Some(line) = text.lines().find(|line| line.contains('@')) {
        bail!("a word of BIRD's template is not filled: {line}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_word_is_an_error() {
        let words = [("A", "1".to_owned())];
        assert_eq!(fill("# @B@ is explained here\nx @A@;\n", &words).unwrap(), "x 1;\n");
        assert!(fill("x @A@ @B@;", &words).unwrap_err().to_string().contains("@B@"));
    }
}
