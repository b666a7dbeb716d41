//! `holdfast node`.

use holdfast_schema::admin::{Done, ForceRequest, NodeAddRequest, NodeAdded, NodeStatus, Status};
use holdfast_schema::config::format_millis;
use hyper::Method;
use serde_json::json;

use super::{Context, drain};
use crate::args::NodeCommand;
use crate::diff::word;
use crate::failure::Failure;
use crate::table::Table;

pub async fn run(context: &Context, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(context).await,
        NodeCommand::Add { name, expires } => add(context, name, expires).await,
        NodeCommand::Drain { name, timeout, no_wait, force } => {
            let wait = drain::Wait { timeout_ms: timeout, no_wait };
            drain::run(context, &name, wait, force.force).await
        }
        NodeCommand::Undrain { name } => {
            let path = format!("/v1/nodes/{name}/undrain");
            done(context, Method::POST, &path, &ForceRequest::default()).await
        }
        NodeCommand::Remove { name, force } => {
            let path = format!("/v1/nodes/{name}");
            done(context, Method::DELETE, &path, &ForceRequest { force: force.force }).await
        }
    }
}

async fn done(
    context: &Context,
    method: Method,
    path: &str,
    body: &ForceRequest,
) -> Result<(), Failure> {
    let answer = context.client.send::<Done>(method, path, body).await?;
    context.output.result(&answer.json, || answer.value.message)
}

async fn list(context: &Context) -> Result<(), Failure> {
    let answer = context.client.get::<Status>("/v1/status").await?;
    let Some(cluster) = answer.value.cluster else {
        return Err(no_cluster(&answer.value.director));
    };
    let json = json!({ "nodes": answer.json["cluster"]["nodes"] });
    context.output.result(&json, || table(&cluster.nodes, &answer.value.director))
}

/// There is no cluster yet.
pub fn no_cluster(director: &str) -> Failure {
    Failure::unhealthy(
        format!("director {director} belongs to no cluster yet"),
        "`holdfast cluster init` begins one; `holdfast node add NAME` on a member lets it join one",
    )
}

/// The members as a table; the director that answered is marked.
pub fn table(nodes: &[NodeStatus], here: &str) -> String {
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "STATE",
        "UP",
        "READY",
        "ANNOUNCED",
        ">SESSIONS",
        ">VOTES",
        "LIPS",
    ]);
    for node in nodes {
        let mark = if node.name == here { "*" } else { "" };
        table.row([
            format!("{}{mark}", node.name),
            node.address.to_string(),
            word(&node.state),
            yes(Some(node.up)),
            yes(node.ready),
            node.announcement.clone().unwrap_or_default(),
            node.sessions.map(|n| n.to_string()).unwrap_or_default(),
            node.votes.to_string(),
            node.lips.join(" "),
        ]);
    }
    table.print()
}

/// `yes`, `no`, or nothing if it is unknown.
pub fn yes(known: Option<bool>) -> String {
    match known {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => String::new(),
    }
}

async fn add(context: &Context, name: String, expires_in_s: u64) -> Result<(), Failure> {
    let request = NodeAddRequest { name, expires_in_s };
    let answer = context.client.send::<NodeAdded>(Method::POST, "/v1/nodes", &request).await?;
    context.output.result(&answer.json, || {
        let NodeAdded { name, token, command, expires_in_s } = answer.value;
        let millis = u32::try_from(expires_in_s.saturating_mul(1_000)).unwrap_or(u32::MAX);
        let within = format_millis(millis);
        format!(
            "There is a slot for director {name}. On the new machine, with `id = \"{name}\"` in its \
             node file, run:\n\n  {command}\n\nor, to keep the token out of the process list:\n\n  \
             HOLDFAST_JOIN_TOKEN={token} holdfastd --config /etc/holdfast/node.toml\n\n\
             token: {token}\nIt works once and for {within}. Whoever has it can join: pass it on \
             like a password."
        )
    })
}
