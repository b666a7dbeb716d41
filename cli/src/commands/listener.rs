//! `holdfast listener`.

use std::net::SocketAddr;

use holdfast_schema::config::{
    ClusterSpec, ListenerSpec, NewUdp, ReplicateAfter, UnknownSession, format_millis,
};
use holdfast_schema::flow::Protocol;
use serde_json::json;

use super::{Context, no_such};
use crate::args::{ListenerCommand, ListenerPolicy};
use crate::diff::{replicate_after, word};
use crate::edit;
use crate::failure::Failure;
use crate::table::Table;

pub async fn run(context: &Context, command: ListenerCommand) -> Result<(), Failure> {
    let Context { output, client } = context;
    match command {
        ListenerCommand::List => list(context).await,
        ListenerCommand::Add { name, vip, port, protocol, group, policy } => {
            let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
            let mut listener = ListenerSpec::new(&name, vip, port, protocol, group);
            set(&mut listener, &policy)?;
            edit::edit(client, *output, None, &format!("listener {name} added"), |spec| {
                if spec.listeners.iter().any(|l| l.name == name) {
                    let hint = format!("change it with `holdfast listener set {name}`");
                    return Err(exists(&format!("listener \"{name}\""), hint));
                }
                spec.listeners.push(listener.clone());
                Ok(())
            })
            .await
        }
        ListenerCommand::Set { name, vip, port, group, policy, force } => {
            let said = format!("listener {name} changed");
            edit::edit(client, *output, force.force, &said, |spec| {
                let listener = find(spec, &name)?;
                listener.vip = vip.unwrap_or(listener.vip);
                listener.port = port.unwrap_or(listener.port);
                if let Some(group) = &group {
                    listener.group.clone_from(group);
                }
                set(listener, &policy)
            })
            .await
        }
        ListenerCommand::Remove { name, force } => {
            let said = format!("listener {name} removed");
            edit::edit(client, *output, force.force, &said, |spec| {
                find(spec, &name)?;
                spec.listeners.retain(|l| l.name != name);
                Ok(())
            })
            .await
        }
    }
}

/// A thing of this name is there already.
pub fn exists(what: &str, hint: impl Into<String>) -> Failure {
    Failure::error(format!("there is a {what} already"), hint)
}

fn find<'s>(spec: &'s mut ClusterSpec, name: &str) -> Result<&'s mut ListenerSpec, Failure> {
    match spec.listeners.iter().position(|l| l.name == name) {
        Some(at) => Ok(&mut spec.listeners[at]),
        None => Err(no_such("listener", name, spec.listeners.iter().map(|l| l.name.as_str()))),
    }
}

fn set(listener: &mut ListenerSpec, policy: &ListenerPolicy) -> Result<(), Failure> {
    // `mode` and `scheduler` have one value each so far, which every listener has.
    let ListenerPolicy { mode: _, scheduler: _, .. } = policy;
    if let Some(after) = policy.replicate_after {
        listener.replicate_after = after.0.map_or(ReplicateAfter::Never, ReplicateAfter::Millis);
    }
    listener.idle_timeout_ms = policy.idle_timeout.unwrap_or(listener.idle_timeout_ms);
    match (policy.unknown_session, listener.protocol) {
        (None, _) => {}
        (Some("reset"), Protocol::Udp) => {
            return Err(Failure::usage(
                "--unknown-session cannot be `reset` for a UDP listener",
                "UDP has no resets; leave it away",
            ));
        }
        (Some("reset"), Protocol::Tcp) => listener.unknown_session = UnknownSession::Reset,
        (Some(_), _) => listener.unknown_session = UnknownSession::Drop,
    }
    match (policy.new_udp, listener.protocol) {
        (None, _) => {}
        (Some(_), Protocol::Tcp) => {
            return Err(Failure::usage(
                "--new-udp means nothing for a TCP listener",
                "leave it away, or add the listener with --protocol udp",
            ));
        }
        (Some("ask"), Protocol::Udp) => listener.new_udp = NewUdp::Ask,
        (Some(_), Protocol::Udp) => listener.new_udp = NewUdp::Schedule,
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let answer = edit::current(&context.client).await?;
    let raw = &answer.json;
    let json = json!({ "revision": raw["revision"], "listeners": raw["spec"]["listeners"] });
    context.output.result(&json, || {
        let mut table = Table::new(&[
            "LISTENER",
            "PROTOCOL",
            "VIP",
            "GROUP",
            "MODE",
            "REPLICATE AFTER",
            "IDLE TIMEOUT",
            "UNKNOWN",
        ]);
        for l in &answer.value.spec.listeners {
            let unknown = match l.protocol {
                Protocol::Tcp => word(&l.unknown_session),
                Protocol::Udp => word(&l.new_udp),
            };
            table.row([
                l.name.clone(),
                l.protocol.to_string(),
                SocketAddr::new(l.vip, l.port).to_string(),
                l.group.clone(),
                word(&l.mode),
                replicate_after(l.replicate_after),
                format_millis(l.idle_timeout_ms),
                unknown,
            ]);
        }
        table.print()
    })
}
