//! `holdfast backend`.

use holdfast_schema::admin::Status;
use holdfast_schema::config::{BackendSpec, ClusterSpec};
use serde_json::{Value, json};

use super::listener::exists;
use super::{Context, group, no_such, node, status};
use crate::args::{BackendCommand, BackendId};
use crate::edit;
use crate::failure::Failure;

pub async fn run(context: &Context, command: BackendCommand) -> Result<(), Failure> {
    match command {
        BackendCommand::List { group } => list(context, group.as_deref()).await,
        BackendCommand::Add { id, address, weight } => {
            let mut backend = BackendSpec::new(&id.name, address);
            backend.weight = weight;
            let said = format!("backend {id} added");
            edit::edit(&context.client, context.output, None, &said, |spec| {
                let group = group::find(spec, &id.group)?;
                if group.backends.iter().any(|b| b.name == id.name) {
                    let hint = format!(
                        "change its weight with `holdfast backend set {} {}`",
                        id.group, id.name
                    );
                    return Err(exists(&format!("backend \"{id}\""), hint));
                }
                group.backends.push(backend.clone());
                Ok(())
            })
            .await
        }
        BackendCommand::Set { id, weight } => {
            let said = format!("backend {id} has weight {weight}");
            change(context, &id, &said, |b| b.weight = weight).await
        }
        BackendCommand::Drain { id } => {
            let said = format!(
                "backend {id} gets no new sessions; `holdfast session count --backend {id}` shows what is left"
            );
            change(context, &id, &said, |b| b.draining = true).await
        }
        BackendCommand::Undrain { id } => {
            let said = format!("backend {id} gets new sessions again");
            change(context, &id, &said, |b| b.draining = false).await
        }
        BackendCommand::Remove { id, force } => {
            let said = format!("backend {id} removed");
            edit::edit(&context.client, context.output, force.force, &said, |spec| {
                find(spec, &id)?;
                group::find(spec, &id.group)?.backends.retain(|b| b.name != id.name);
                Ok(())
            })
            .await
        }
    }
}

impl std::fmt::Display for BackendId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.name)
    }
}

fn find<'s>(spec: &'s mut ClusterSpec, id: &BackendId) -> Result<&'s mut BackendSpec, Failure> {
    let group = group::find(spec, &id.group)?;
    match group.backends.iter().position(|b| b.name == id.name) {
        Some(at) => Ok(&mut group.backends[at]),
        None => {
            let what = format!("backend of group {}", id.group);
            Err(no_such(&what, &id.name, group.backends.iter().map(|b| b.name.as_str())))
        }
    }
}

async fn change(
    context: &Context,
    id: &BackendId,
    said: &str,
    change: impl Fn(&mut BackendSpec),
) -> Result<(), Failure> {
    edit::edit(&context.client, context.output, None, said, |spec| {
        change(find(spec, id)?);
        Ok(())
    })
    .await
}

async fn list(context: &Context, group: Option<&str>) -> Result<(), Failure> {
    let answer = context.client.get::<Status>("/v1/status").await?;
    let Some(cluster) = answer.value.cluster else {
        return Err(node::no_cluster(&answer.value.director));
    };
    let wanted = |name: &str| group.is_none_or(|group| group == name);
    let raw = answer.json["cluster"]["backends"].as_array().cloned().unwrap_or_default();
    let of = |b: &Value| b["group"].as_str().is_some_and(wanted);
    let json = json!({ "backends": raw.into_iter().filter(of).collect::<Vec<_>>() });
    context
        .output
        .result(&json, || status::backends(cluster.backends.iter().filter(|b| wanted(&b.group))))
}
