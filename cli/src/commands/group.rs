//! `holdfast group`.

use holdfast_schema::config::{ClusterSpec, GroupSpec, HealthCheck, HealthSpec};
use serde_json::json;

use super::listener::exists;
use super::{Context, no_such};
use crate::args::{GroupCommand, HealthArgs};
use crate::diff::health as health_text;
use crate::edit;
use crate::failure::Failure;
use crate::table::Table;

pub async fn run(context: &Context, command: GroupCommand) -> Result<(), Failure> {
    let Context { output, client } = context;
    match command {
        GroupCommand::List => list(context).await,
        GroupCommand::Add { name, health } => {
            let mut group = GroupSpec::new(&name);
            set(&mut group.health, &health)?;
            edit::edit(client, *output, None, &format!("group {name} added"), |spec| {
                if spec.groups.iter().any(|g| g.name == name) {
                    let hint = format!("change it with `holdfast group set {name}`");
                    return Err(exists(&format!("group \"{name}\""), hint));
                }
                spec.groups.push(group.clone());
                Ok(())
            })
            .await
        }
        GroupCommand::Set { name, health } => {
            edit::edit(client, *output, None, &format!("group {name} changed"), |spec| {
                set(&mut find(spec, &name)?.health, &health)
            })
            .await
        }
        GroupCommand::Remove { name, force } => {
            let said = format!("group {name} removed");
            edit::edit(client, *output, force.force, &said, |spec| {
                find(spec, &name)?;
                let users: Vec<&str> = spec
                    .listeners
                    .iter()
                    .filter(|l| l.group == name)
                    .map(|l| l.name.as_str())
                    .collect();
                if !users.is_empty() {
                    return Err(Failure::precondition(
                        format!("group \"{name}\" is used by listener {}", users.join(", ")),
                        "remove the listener first, or give it another group",
                    ));
                }
                spec.groups.retain(|g| g.name != name);
                Ok(())
            })
            .await
        }
    }
}

/// The group of this name.
pub fn find<'s>(spec: &'s mut ClusterSpec, name: &str) -> Result<&'s mut GroupSpec, Failure> {
    match spec.groups.iter().position(|g| g.name == name) {
        Some(at) => Ok(&mut spec.groups[at]),
        None => Err(no_such("group", name, spec.groups.iter().map(|g| g.name.as_str()))),
    }
}

fn set(health: &mut HealthSpec, args: &HealthArgs) -> Result<(), Failure> {
    match (args.health, &health.check) {
        (None, _)
        | (Some("tcp"), HealthCheck::Tcp { .. })
        | (Some("http"), HealthCheck::Http { .. }) => {}
        (Some("tcp"), _) => health.check = HealthCheck::Tcp { port: None },
        (Some("http"), _) => {
            let (port, host, status) = (None, None, None);
            health.check = HealthCheck::Http { port, path: "/".to_owned(), host, status };
        }
        (Some(_), _) => health.check = HealthCheck::None,
    }
    let HealthArgs { health_port, path, host, status, .. } = args;
    let http_only = path.is_some() || host.is_some() || status.is_some();
    match &mut health.check {
        HealthCheck::Http { port, path: p, host: h, status: s } => {
            *port = health_port.or(*port);
            *s = status.or(*s);
            if let Some(host) = host {
                *h = Some(host.clone());
            }
            if let Some(path) = path {
                p.clone_from(path);
            }
        }
        _ if http_only => {
            return Err(Failure::usage(
                "--path, --host and --status belong to HTTP checks",
                "add --health http",
            ));
        }
        HealthCheck::Tcp { port } => *port = health_port.or(*port),
        HealthCheck::None if health_port.is_some() => {
            return Err(Failure::usage(
                "--health-port means nothing without a check",
                "add --health tcp or --health http",
            ));
        }
        HealthCheck::None => {}
    }
    health.interval_ms = args.interval.unwrap_or(health.interval_ms);
    health.timeout_ms = match args.timeout {
        Some(timeout) => timeout,
        // A shorter interval takes the timeout along, as it does in files.
        None if args.interval.is_some() => health.timeout_ms.min(health.interval_ms),
        None => health.timeout_ms,
    };
    health.rise = args.rise.unwrap_or(health.rise);
    health.fall = args.fall.unwrap_or(health.fall);
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let answer = edit::current(&context.client).await?;
    let raw = &answer.json;
    let json = json!({ "revision": raw["revision"], "groups": raw["spec"]["groups"] });
    context.output.result(&json, || {
        let spec = &answer.value.spec;
        let mut table = Table::new(&["GROUP", ">BACKENDS", "HEALTH CHECK", "LISTENERS"]);
        for group in &spec.groups {
            let users = spec.listeners.iter().filter(|l| l.group == group.name);
            let users: Vec<&str> = users.map(|l| l.name.as_str()).collect();
            table.row([
                group.name.clone(),
                group.backends.len().to_string(),
                health_text(&group.health),
                users.join(" "),
            ]);
        }
        table.print()
    })
}
