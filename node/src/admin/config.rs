//! Reading and changing the configuration.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use holdfast_schema::admin::{ConfigChange, ConfigDocument, Done, ErrorCode, SessionQuery};
use holdfast_schema::cluster::{BackendId, ClusterState, ControlCommand, ListenerId};
use holdfast_schema::config::{ClusterSpec, validate};
use holdfast_state_store::StoreError;

use super::cluster::{COMMAND, body};
use super::error::{ApiError, done};
use super::server::Api;
use crate::clock::mono_ms;

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
fn removed(
    cluster: &ClusterState,
    spec: &ClusterSpec,
) -> (BTreeSet<ListenerId>, BTreeSet<BackendId>) {
    let listeners = cluster
        .listeners
        .iter()
        .filter(|(name, _)| !spec.listeners.iter().any(|l| l.name == **name));
    let backends = cluster.groups.iter().flat_map(|(group, g)| {
        let new = spec.groups.iter().find(|s| s.name == *group);
        g.backends.iter().filter(move |(name, b)| {
            let kept = new.and_then(|n| n.backends.iter().find(|s| s.name == **name));
            kept.is_none_or(|s| s.address != b.spec.address)
        })
    });
    (listeners.map(|(_, l)| l.id).collect(), backends.map(|(_, b)| b.id).collect())
}

/// Refuses to take away what live sessions use (DESIGN rule 9).
async fn refuse_live(
    api: &Api,
    cluster: &ClusterState,
    spec: &ClusterSpec,
) -> Result<(), ApiError> {
    let (listeners, backends) = removed(cluster, spec);
    if listeners.is_empty() && backends.is_empty() {
        return Ok(());
    }
    // What this director holds: everything that is replicated, and its own. Counting exactly would
    // take an answer of every director, and would be old by the time it came.
    let node = api.node.clone();
    let live = tokio::task::spawn_blocking(move || {
        let mut live = 0u64;
        if let Some(forwarder) = node.forwarder.get() {
            forwarder.sessions().for_each(mono_ms(), |record, _| {
                let concerned =
                    listeners.contains(&record.listener) || backends.contains(&record.backend);
                live += u64::from(concerned && !record.flags.closing());
            });
        }
        live
    });
    let mut live = live.await.unwrap_or(0);
    // Young sessions of other directors show in their own lists only.
    for group in cluster.groups.values() {
        for (name, backend) in &group.backends {
            if live == 0 && removed(cluster, spec).1.contains(&backend.id) {
                let query = SessionQuery {
                    backend: Some(format!("{}/{name}", group.spec.name)),
                    ..SessionQuery::default()
                };
                let count = crate::sessions::gather::count(&api.node, query).await;
                let open = count.by_state.iter().filter(|(s, _)| s != "closed" && s != "reset");
                live += open.map(|(_, n)| n).sum::<u64>();
            }
        }
    }
    if live == 0 {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Precondition,
        format!("{live} live sessions use a listener or backend that would go"),
        "drain the backend first and wait, or repeat with --force REASON: the sessions break",
    ))
}
