//! The directors' daemons, and the cluster that they form.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_schema::admin::Status;
use serde_json::Value;

use super::plan::{DATA_INTERFACE, METRICS_PORT, PEER_PORT, Plan, Site};
use super::spawn::{Priority, alive, spawn};
use super::{backends, clocks, describe};
use crate::admin;
use crate::command::{SOON, run_in, run_within};
use crate::scenario::wait::{until, until_every};

/// How long a cluster may take to settle on a busy machine.
pub const SETTLED: Duration = Duration::from_secs(90);

/// The environment variable that carries a join token, so that it does not show in `ps`.
const TOKEN_VARIABLE: &str = "HOLDFAST_JOIN_TOKEN";

/// Starts the daemons, begins a cluster with the first and lets the others join.
pub async fn form(plan: &Plan, say: &dyn Fn(&str)) -> Result<()> {
    let mut directors = plan.directors();
    let first = directors.next().context("a lab has a director")?;
    say("cluster init on d1");
    start(plan, first, None).await?;
    holdfast(plan, first, &["cluster", "init"]).await?;
    until("the cluster begins", SOON, async || {
        let status = admin::status(&plan.admin_socket(first)).await?;
        ensure!(status.phase == "member", "d1 is {}", status.phase);
        ensure!(status.cluster.is_some_and(|c| c.leader.is_some()), "no leader yet");
        Ok(())
    })
    .await?;
    say("listeners and groups");
    let file = plan.dir().join("cluster.toml");
    std::fs::write(&file, backends::cluster_file(plan))?;
    holdfast(plan, first, &["apply", "-f", &file.display().to_string()]).await?;
    for site in directors {
        say(&format!("{} joins", site.name()));
        let token = token(plan, first, site).await?;
        start(plan, site, Some(&token)).await?;
    }
    say("the cluster settles");
    settled(plan, SETTLED).await
}

/// Opens a slot for a director.
pub async fn token(plan: &Plan, at: Site, newcomer: Site) -> Result<String> {
    let said = holdfast(plan, at, &["node", "add", &newcomer.name()]).await?;
    let answer: Value = serde_json::from_str(&said)
        .with_context(|| format!("`holdfast node add` did not answer with JSON: {said}"))?;
    let token = answer["token"].as_str();
    Ok(token.with_context(|| format!("`holdfast node add` gave no token: {said}"))?.to_owned())
}

/// Installs the kernel's rules and starts a director's daemon; waits until it answers.
pub async fn start(plan: &Plan, site: Site, token: Option<&str>) -> Result<u32> {
    let (name, netns) = (site.name(), plan.netns(site));
    std::fs::create_dir_all(plan.dir().join(&name))?;
    let config = plan.file(&name, "node.toml");
    std::fs::write(&config, node_file(plan, site))?;
    let (daemon, config) =
        (plan.binary("holdfastd").display().to_string(), config.display().to_string());
    run_in(&netns, &[&daemon, "--config", &config, "--install-rules"]).await?;
    let socket = plan.admin_socket(site);
    // A socket left by a daemon that was killed would look like one that is ready.
    std::fs::remove_file(&socket).ok();
    let log = plan.file(&name, "holdfastd.log");
    let clock = clocks::environment(plan, site);
    let mut env = vec![("RUST_BACKTRACE", "1")];
    env.extend(clock.iter().map(|(name, value)| (*name, value.as_str())));
    if let Some(token) = token {
        env.push((TOKEN_VARIABLE, token));
    }
    let pid = spawn(&netns, &[&daemon, "--config", &config], Priority::Normal, &log, &env).await?;
    let ready = until("the daemon answers", SOON, async || {
        if !alive(pid) {
            return Ok(false);
        }
        admin::status(&socket).await.map(|_| true)
    });
    match ready.await {
        Ok(true) => Ok(pid),
        Ok(false) => bail!("holdfastd on {name} has ended: {}", last_lines(&log, 12)),
        Err(error) => Err(error.context(format!("holdfastd on {name}: {}", last_lines(&log, 12)))),
    }
}

/// Runs `holdfast` against a director; it has to end well. Gives its JSON.
pub async fn holdfast(plan: &Plan, at: Site, words: &[&str]) -> Result<String> {
    holdfast_within(plan, at, words, Duration::from_secs(60)).await
}

/// [`holdfast`] with a deadline.
pub async fn holdfast_within(
    plan: &Plan,
    at: Site,
    words: &[&str],
    deadline: Duration,
) -> Result<String> {
    let program = plan.binary("holdfast").display().to_string();
    let socket = plan.admin_socket(at).display().to_string();
    let mut argv = vec![program.as_str(), "--socket", &socket, "--output", "json"];
    argv.extend(words);
    run_within(&argv, None, deadline).await
}

/// Waits until every director says that the cluster has settled.
pub async fn settled(plan: &Plan, deadline: Duration) -> Result<()> {
    until_every("the cluster settles", deadline, Duration::from_millis(200), async || {
        for site in plan.directors() {
            let name = site.name();
            let status = admin::status(&plan.admin_socket(site))
                .await
                .with_context(|| format!("asking {name}"))?;
            all_well(&status, plan.directors.len()).with_context(|| format!("{name} says"))?;
        }
        Ok(())
    })
    .await
    .with_context(|| logs_hint(plan))
}

/// Whether a director sees nothing that is still under way.
fn all_well(status: &Status, directors: usize) -> Result<()> {
    let cluster = status.cluster.as_ref().context("it belongs to no cluster yet")?;
    ensure!(cluster.settled, "unsettled: {}", cluster.unsettled.join("; "));
    let up = cluster.nodes.iter().filter(|n| n.up).count();
    ensure!(up == directors, "{up} of {directors} directors are up");
    Ok(())
}

/// Whether the daemon of a director runs.
pub async fn daemon_pid(plan: &Plan, site: Site) -> Result<u32> {
    let pids = describe::pids(plan, site).await?;
    pids.daemon.with_context(|| format!("no holdfastd runs on {}", site.name()))
}

fn logs_hint(plan: &Plan) -> String {
    format!("logs are in {}/d*/holdfastd.log", plan.dir().display())
}

fn last_lines(log: &std::path::Path, count: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn node_file(plan: &Plan, site: Site) -> String {
    let (name, addr) = (site.name(), site.addr());
    let path = |file: &str| plan.file(&name, file).display().to_string();
    format!(
        "kind = \"node\"\n\
         id = \"{name}\"\n\
         peer-address = \"{addr}:{PEER_PORT}\"\n\
         interface = \"{DATA_INTERFACE}\"\n\
         data-dir = \"{}\"\n\
         admin-socket = \"{}\"\n\
         metrics-address = \"{addr}:{METRICS_PORT}\"\n\
         max-sessions = 65536\n\
         guard-timeout = \"{}ms\"\n\n\
         [announce]\n\
         bird-socket = \"{}\"\n",
        path("data"),
        path("admin.sock"),
        plan.guard_timeout_ms,
        path("bird.ctl"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_the_daemon_reads() {
        let plan = Plan {
            run: "xtest".into(),
            directors: vec![1, 2, 3],
            backends: 3,
            clients: 1,
            guard_timeout_ms: 150,
            replicate_after: "3s".into(),
            bin_dir: "/".into(),
            clocks: false,
            own_disk: None,
            owner: (1, 1),
            standing: false,
            made_netns_mount: false,
        };
        let node = node_file(&plan, crate::lab::plan::director(2));
        let node = holdfast_schema::config::parse_node(&node, "node.toml").unwrap();
        assert_eq!((node.id.as_str(), node.guard_timeout_ms), ("d2", 150));
        let text = backends::cluster_file(&plan);
        let cluster = holdfast_schema::config::parse_cluster(&text, "cluster.toml").unwrap();
        assert_eq!(cluster.listeners.len(), 4);
        assert!(cluster.groups.iter().all(|g| g.backends.len() == 3));
    }
}
