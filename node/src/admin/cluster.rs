//! Beginning a cluster; adding, draining and removing directors.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use holdfast_schema::admin::{
    Done, DrainStatus, ErrorCode, ForceRequest, InitRequest, NodeAddRequest, NodeAdded,
};
use holdfast_schema::cluster::{ControlCommand, Member, MemberState};

use super::error::{ApiError, done};
use super::server::Api;
use crate::announce::others;
use crate::peers::{Request, Response};

/// How long a command to the cluster may take.
pub const COMMAND: Duration = Duration::from_secs(10);

/// How long another director may take to tell how far its drain is.
const ANSWER: Duration = Duration::from_secs(2);

/// The longest a join token may live (s): a month.
const MOST_TOKEN_LIFE_S: u64 = 31 * 86_400;

/// The body of a request, or what is wrong with it.
pub fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, ApiError> {
    match body {
        Ok(Json(value)) => Ok(value),
        Err(rejection) => Err(ApiError::new(ErrorCode::BadRequest, rejection.body_text(), "")),
    }
}

/// `POST /v1/cluster/init`
pub async fn init(
    State(api): State<Api>,
    request: Result<Json<InitRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let request = body(request)?;
    if !(1..=64).contains(&request.shards) {
        let message = format!("{} session groups: there must be 1 to 64", request.shards);
        return Err(ApiError::new(ErrorCode::BadRequest, message, "16 is a good number"));
    }
    api.node.store.init_cluster(request.shards).await?;
    let cluster = api.node.cluster();
    let id = cluster.as_ref().map_or_else(String::new, |c| c.cluster_id.clone());
    let message = format!("cluster {id} begins with director {}", api.node.spec.id);
    Ok(Json(Done { revision: cluster.map_or(0, |c| c.revision), message }))
}

/// `POST /v1/nodes`
pub async fn add(
    State(api): State<Api>,
    request: Result<Json<NodeAddRequest>, JsonRejection>,
) -> Result<Json<NodeAdded>, ApiError> {
    let request = body(request)?;
    if let Err(cause) = holdfast_schema::config::check_name(&request.name) {
        let message = format!("`{}` is no name for a director: {cause}", request.name);
        return Err(ApiError::new(ErrorCode::BadRequest, message, ""));
    }
    if !(1..=MOST_TOKEN_LIFE_S).contains(&request.expires_in_s) {
        let message = format!("a token lives 1 to {MOST_TOKEN_LIFE_S} s");
        return Err(ApiError::new(ErrorCode::BadRequest, message, ""));
    }
    let ttl = Duration::from_secs(request.expires_in_s);
    let token = api.node.store.issue_token(&request.name, ttl).await?;
    let command = format!("holdfastd --config /etc/holdfast/node.toml --join {token}");
    Ok(Json(NodeAdded { name: request.name, token, command, expires_in_s: request.expires_in_s }))
}

fn member(api: &Api, name: &str) -> Result<Member, ApiError> {
    let cluster = api.node.cluster().ok_or(holdfast_state_store::StoreError::NotMember)?;
    cluster.member_named(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = cluster.members.values().map(|m| m.name.as_str()).collect();
        let message = format!("there is no director `{name}`");
        ApiError::new(ErrorCode::NotFound, message, format!("there are {}", names.join(", ")))
    })
}

async fn set_state(
    api: &Api,
    member: &Member,
    state: MemberState,
    force: Option<String>,
) -> Result<u64, ApiError> {
    let command = ControlCommand::SetState { director: member.id, state, force };
    done(api.node.store.control(command, COMMAND).await?)
}

/// Refuses a drain that would leave nobody to serve. The cluster's own refusal knows what operators
/// want of each director; here it counts what each really announces.
fn others_serve(api: &Api, member: &Member, force: Option<&str>) -> Result<(), ApiError> {
    let Some(cluster) = api.node.cluster() else { return Ok(()) };
    let by_wish = cluster
        .members
        .values()
        .any(|m| m.id != member.id && m.state == MemberState::Active && !m.down);
    // Without one the cluster refuses, with the arithmetic. And who announces nothing takes nothing
    // away.
    if !by_wish || announces_nothing(api, member) {
        return Ok(());
    }
    let served = others::serve(&others::all_but(&api.node, &cluster, member.id));
    let refusal = unless_served(&member.name, served);
    if let (Err(error), Some(reason)) = (&refusal, force) {
        tracing::warn!(reason, message = error.0.message, "a drain is forced");
        return Ok(());
    }
    refusal
}

fn announces_nothing(api: &Api, member: &Member) -> bool {
    match api.node.me() == Some(member.id) {
        true => api.node.spec.announce.is_none(),
        false => api.node.summaries.get(member.id).is_some_and(|s| !s.announces),
    }
}

fn unless_served(name: &str, served: Result<(), String>) -> Result<(), ApiError> {
    served.map_err(|why| {
        ApiError::new(
            ErrorCode::Precondition,
            format!("without director {name} nobody would serve: {why}"),
            "wait until another director is ready and announced (`holdfast status`), or force it with \
             a reason",
        )
    })
}

/// `POST /v1/nodes/NAME/drain`
pub async fn drain(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<ForceRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<DrainStatus>), ApiError> {
    let force = body(request)?.force;
    let member = member(&api, &name)?;
    if !matches!(member.state, MemberState::Draining | MemberState::Drained) {
        others_serve(&api, &member, force.as_deref())?;
        set_state(&api, &member, MemberState::Draining, force).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(progress(&api, &name).await?)))
}

/// `GET /v1/nodes/NAME/drain`
pub async fn drain_status(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<DrainStatus>, ApiError> {
    Ok(Json(progress(&api, &name).await?))
}

/// A director's state as this director knows it and as the director itself does. The two apply the
/// same changes at different times, and a drain goes one way: the one that is further on is right.
fn later(here: MemberState, there: MemberState) -> MemberState {
    match (here, there) {
        (MemberState::Drained, _) | (_, MemberState::Drained) => MemberState::Drained,
        (MemberState::Draining, _) | (_, MemberState::Draining) => MemberState::Draining,
        (here, _) => here,
    }
}

async fn progress(api: &Api, name: &str) -> Result<DrainStatus, ApiError> {
    let member = member(api, name)?;
    if api.node.me() == Some(member.id) {
        return Ok(api.node.drain_status());
    }
    match api.node.ask(member.id, &Request::Drain, ANSWER).await {
        Ok(Response::Drain(mut status)) => {
            status.state = later(member.state, status.state);
            Ok(status)
        }
        Ok(_) | Err(_) => {
            let step = match member.state {
                MemberState::Drained => "drained",
                _ => "waiting",
            };
            Ok(DrainStatus {
                name: member.name.clone(),
                state: member.state,
                step: step.to_owned(),
                unreplicated: 0,
                owned: 0,
                votes: api.node.votes(Some(member.id)),
                quiet_ms: 0,
                notes: vec!["it does not answer; it drains when it is back".to_owned()],
            })
        }
    }
}

/// `POST /v1/nodes/NAME/undrain`
pub async fn undrain(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Done>, ApiError> {
    let member = member(&api, &name)?;
    let revision = match member.state {
        MemberState::Active | MemberState::Joining => api.node.cluster().map_or(0, |c| c.revision),
        _ => set_state(&api, &member, MemberState::Active, None).await?,
    };
    Ok(Json(Done { revision, message: undrained(&name, member.state) }))
}

/// What an `undrain` of a director in this state does.
fn undrained(name: &str, state: MemberState) -> String {
    match state {
        MemberState::Drained => format!("director {name} comes back"),
        MemberState::Draining => format!("the drain of director {name} ends, it comes back"),
        MemberState::Active => {
            format!(
                "director {name} is not drained, nothing changes; `holdfast status` says whether it serves"
            )
        }
        MemberState::Joining => {
            format!(
                "director {name} is still joining, nothing changes; it serves as soon as it can"
            )
        }
    }
}

/// `DELETE /v1/nodes/NAME`
pub async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Result<Json<ForceRequest>, JsonRejection>,
) -> Result<Json<Done>, ApiError> {
    let force = body(request)?.force;
    let member = member(&api, &name)?;
    let revision = done(api.node.store.remove(member.id, force, COMMAND).await?)?;
    Ok(Json(Done { revision, message: format!("director {name} is no member any more") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_leaves_nobody_is_refused_with_the_reasons() {
        assert!(unless_served("d1", Ok(())).is_ok());
        let refused = unless_served("d1", Err("d2 is down; d3: not ready (no rule)".to_owned()));
        let error = refused.unwrap_err().0;
        assert_eq!(error.code, ErrorCode::Precondition);
        assert_eq!(
            error.message,
            "without director d1 nobody would serve: d2 is down; d3: not ready (no rule)"
        );
        assert!(error.hint.contains("force"));
    }

    #[test]
    fn an_undrain_says_what_it_does() {
        assert_eq!(undrained("d2", MemberState::Drained), "director d2 comes back");
        for state in [MemberState::Active, MemberState::Joining] {
            assert!(undrained("d2", state).contains("nothing changes"));
        }
    }

    #[test]
    fn a_drain_that_one_side_has_not_heard_of_is_no_undrain() {
        use MemberState::{Active, Drained, Draining};
        assert_eq!(later(Draining, Active), Draining);
        assert_eq!(later(Active, Draining), Draining);
        assert_eq!(later(Draining, Drained), Drained);
        assert_eq!(later(Drained, Draining), Drained);
        assert_eq!(later(Active, Active), Active);
    }
}
