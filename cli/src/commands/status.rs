//! `holdfast status`.

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast_schema::admin::{BackendStatus, ClusterStatus, RaftGroupStatus, Status};

use super::{Context, node};
use crate::args::StatusArgs;
use crate::diff::word;
use crate::failure::Failure;
use crate::table::Table;

pub async fn run(context: &Context, args: &StatusArgs) -> Result<(), Failure> {
    let answer = context.client.get::<Status>("/v1/status").await?;
    let status = answer.value;
    context.output.result(&answer.json, || text(&status, args.groups))?;
    match problems(&status) {
        problems if args.check && !problems.is_empty() => {
            Err(Failure::unhealthy(problems.join("; "), "`holdfast status` shows the whole"))
        }
        _ => Ok(()),
    }
}

/// What is not as it should be.
fn problems(status: &Status) -> Vec<String> {
    let mut problems: Vec<String> = status
        .not_ready
        .iter()
        .map(|why| format!("{} is not ready: {why}", status.director))
        .collect();
    match &status.cluster {
        None => problems.push(format!("{} belongs to no cluster yet", status.director)),
        Some(cluster) if !cluster.settled => {
            problems.extend(cluster.unsettled.iter().map(|why| format!("not settled: {why}")));
            if cluster.unsettled.is_empty() {
                problems.push("the cluster has not settled".to_owned());
            }
        }
        Some(_) => {}
    }
    problems
}

fn text(status: &Status, all_groups: bool) -> String {
    let mut out = String::new();
    let ready = if status.not_ready.is_empty() { "ready" } else { "not ready" };
    let Status { director, version, xdp_mode, .. } = status;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "director  {director}, holdfastd {version}, {xdp_mode} XDP, {ready}");
    match &status.cluster {
        None => out += "cluster   none yet: `holdfast cluster init`, or join one with a token\n",
        Some(cluster) => cluster_text(&mut out, cluster, director, all_groups),
    }
    let lines = |out: &mut String, sign: &str, lines: &[String]| {
        for line in lines {
            let _ = writeln!(out, "{sign} {line}");
        }
    };
    let problems = problems(status);
    if !problems.is_empty() || !status.warnings.is_empty() {
        out.push('\n');
    }
    lines(&mut out, "problem:", &problems);
    lines(&mut out, "warning:", &status.warnings);
    out
}

fn cluster_text(out: &mut String, cluster: &ClusterStatus, director: &str, all_groups: bool) {
    let leader = cluster.leader.as_deref().unwrap_or("none");
    let ClusterStatus { id, revision, membership_epoch, .. } = cluster;
    let _ = writeln!(
        out,
        "cluster   {id}, revision {revision}, membership epoch {membership_epoch}, leader {leader}"
    );
    let settled = if cluster.settled { "settled" } else { "not settled" };
    let _ = writeln!(out, "state     {settled}");
    for planned in &cluster.planned {
        let _ = writeln!(out, "planned   {} of {}", word(&planned.kind), planned.director);
    }
    let _ = writeln!(out, "groups    {}", groups_in_short(&cluster.groups));
    let _ = write!(out, "\n{}", node::table(&cluster.nodes, director));
    if all_groups {
        let _ = write!(out, "\n{}", groups(&cluster.groups));
    }
    if !cluster.backends.is_empty() {
        let _ = write!(out, "\n{}", backends(cluster.backends.iter()));
    }
}

/// The Raft groups in a line: leaders, and who is without one or behind.
fn groups_in_short(groups: &[RaftGroupStatus]) -> String {
    let mut leaders: BTreeMap<&str, usize> = BTreeMap::new();
    let mut orphans = Vec::new();
    for group in groups {
        match &group.leader {
            Some(leader) => *leaders.entry(leader).or_default() += 1,
            None => orphans.push(group.name.as_str()),
        }
    }
    let led: Vec<String> = leaders.iter().map(|(name, n)| format!("{name} leads {n}")).collect();
    let sessions: u64 = groups.iter().map(|g| g.sessions).sum();
    let mut text = format!("{} ({}), {sessions} replicated sessions", groups.len(), led.join(", "));
    if !orphans.is_empty() {
        let _ = write!(text, "; WITHOUT LEADER: {}", orphans.join(", "));
    }
    let behind = |g: &RaftGroupStatus| g.committed.saturating_sub(g.applied);
    if let Some(worst) = groups.iter().max_by_key(|g| behind(g)).filter(|g| behind(g) > 0) {
        let _ = write!(text, "; {} is {} entries behind here", worst.name, behind(worst));
    }
    text
}

fn groups(groups: &[RaftGroupStatus]) -> String {
    let mut table = Table::new(&[
        "RAFT GROUP",
        "LEADER",
        ">TERM",
        ">COMMITTED",
        ">APPLIED",
        ">SESSIONS",
        "VOTERS",
        "LEARNERS",
    ]);
    for group in groups {
        table.row([
            group.name.clone(),
            group.leader.clone().unwrap_or_default(),
            group.term.to_string(),
            group.committed.to_string(),
            group.applied.to_string(),
            group.sessions.to_string(),
            group.voters.join(" "),
            group.learners.join(" "),
        ]);
    }
    table.print()
}

/// Backends and their health as a table.
pub fn backends<'b>(backends: impl Iterator<Item = &'b BackendStatus>) -> String {
    let mut table = Table::new(&["BACKEND", "ADDRESS", ">WEIGHT", "HEALTH", "WHY"]);
    for backend in backends {
        let health = match backend.healthy {
            Some(true) => "healthy",
            Some(false) => "UNHEALTHY",
            None => "unknown",
        };
        let drains = if backend.draining { ", draining" } else { "" };
        table.row([
            format!("{}/{}", backend.group, backend.name),
            backend.address.to_string(),
            backend.weight.to_string(),
            format!("{health}{drains}"),
            backend.reason.clone().unwrap_or_default(),
        ]);
    }
    table.print()
}
