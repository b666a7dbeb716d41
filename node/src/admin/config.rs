//! Reading and changing the configuration.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use holdfast_schema::admin::{ConfigChange, ConfigDocument, Done, ErrorCode};
use holdfast_schema::cluster::{ClusterState, ControlCommand};
use holdfast_schema::config::{ClusterSpec, validate};
use holdfast_state_store::StoreError;

use super::cluster::{COMMAND, body};
use super::error::{ApiError, done};
use super::server::Api;
use crate::peers::Uses;
use crate::sessions::gather;

/// `GET /v1/config`
pub async fn read(State(api): State<Api>) -> Result<Json<ConfigDocument>, ApiError> {
    let cluster = api.node.cluster().ok_or(StoreError::NotMember)?;
    Ok(Json(ConfigDocument { revision: cluster.revision, spec: cluster.spec.clone() }))
}

/// `PUT /v1/config`
pub async fn change(
    State(api): State<Api>,
    request: Result<Json<ConfigChange>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let ConfigChange { expected_revision, spec, force } = body(request)?;
    let cluster = api.node.cluster().ok_or(StoreError::NotMember)?;
    let errors = validate(&spec);
    if !errors.is_empty() {
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(ApiError::new(ErrorCode::Invalid, text.join("\n"), ""));
    }
    if force.is_none() {
        refuse_live(&api, &cluster, &spec).await?;
    }
    let command =
        ControlCommand::Configure { expected: expected_revision, spec: Box::new(spec), force };
    let revision = done(api.node.store.control(command, COMMAND).await?)?;
    let message = match revision == cluster.revision {
        true => format!("nothing changed, revision {revision}"),
        false => format!("revision {revision}"),
    };
    Ok(Json(Done { revision, message }))
}

/// Listeners and backends that the new configuration lacks.
fn removed(cluster: &ClusterState, spec: &ClusterSpec) -> Uses {
    let mut gone = Uses::default();
    for (name, listener) in &cluster.listeners {
        if !spec.listeners.iter().any(|l| l.name == *name) {
            gone.listeners.insert(listener.id);
        }
    }
    for (name, group) in &cluster.groups {
        let new = spec.groups.iter().find(|s| s.name == *name);
        for (name, backend) in &group.backends {
            let kept = new.and_then(|n| n.backends.iter().find(|s| s.name == *name));
            // Another address is another backend, whatever its name.
            if kept.is_none_or(|s| s.address != backend.spec.address) {
                gone.backends.insert(backend.id);
            }
        }
    }
    gone
}

/// Refuses to take away what live sessions use (DESIGN rule 9).
async fn refuse_live(
    api: &Api,
    cluster: &ClusterState,
    spec: &ClusterSpec,
) -> Result<(), ApiError> {
    let gone = removed(cluster, spec);
    if gone.is_empty() {
        return Ok(());
    }
    let live = gather::live(&api.node, gone).await;
    if live.total == 0 {
        return Ok(());
    }
    let by: Vec<String> =
        live.by_director.iter().map(|(name, n)| format!("{n} on {name}")).collect();
    Err(ApiError::new(
        ErrorCode::Precondition,
        format!(
            "{} live sessions use a listener or backend that would go ({})",
            live.total,
            by.join(", ")
        ),
        "drain the backend first and wait, or repeat with --force REASON: the sessions break",
    ))
}
