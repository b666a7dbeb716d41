//! Lists and counts of sessions.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use holdfast_schema::admin::{ErrorCode, SESSION_STATES, SessionCount, SessionList, SessionQuery};
use holdfast_schema::cluster::ClusterState;
use holdfast_state_store::StoreError;

use super::error::ApiError;
use super::server::Api;
use crate::sessions::gather;
use crate::sessions::query::backends;

/// The most names that an error lists.
const MOST_NAMES: usize = 20;

fn checked(
    api: &Api,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<SessionQuery, ApiError> {
    let Query(query) =
        query.map_err(|e| ApiError::new(ErrorCode::BadRequest, e.body_text(), ""))?;
    if let Some(state) = &query.state
        && !SESSION_STATES.contains(&state.as_str())
    {
        let message = format!("no session is `{state}`");
        let hint = format!("states are {}", SESSION_STATES.join(", "));
        return Err(ApiError::new(ErrorCode::BadRequest, message, hint));
    }
    if let Some(backend) = &query.backend {
        known(&*api.node.cluster().ok_or(StoreError::NotMember)?, backend)?;
    }
    Ok(query)
}

/// A backend that does not exist has no sessions; whoever mistypes a name must not read that as
/// "it is empty".
fn known(cluster: &ClusterState, wanted: &str) -> Result<(), ApiError> {
    let all: Vec<(&str, String)> = backends(cluster).map(|(g, name, _)| (g, name)).collect();
    if all.iter().any(|(_, name)| name == wanted) {
        return Ok(());
    }
    let group = wanted.split_once('/').map_or(wanted, |(group, _)| group);
    let in_group = all.iter().any(|(g, _)| *g == group);
    let mut names = all.iter().filter(|(g, _)| !in_group || *g == group).map(|(_, n)| n.as_str());
    let shown: Vec<&str> = names.by_ref().take(MOST_NAMES).collect();
    let hint = match (shown.is_empty(), names.count()) {
        (true, _) => "there is no backend at all".to_owned(),
        (_, 0) => format!("there are {}", shown.join(", ")),
        (_, more) => format!("there are {} and {more} more", shown.join(", ")),
    };
    Err(ApiError::new(ErrorCode::NotFound, format!("there is no backend `{wanted}`"), hint))
}

/// `GET /v1/sessions`
pub async fn list(
    State(api): State<Api>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionList>, ApiError> {
    Ok(Json(gather::list(&api.node, checked(&api, query)?).await))
}

/// `GET /v1/sessions/count`
pub async fn count(
    State(api): State<Api>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionCount>, ApiError> {
    Ok(Json(gather::count(&api.node, checked(&api, query)?).await))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::wish::tests::cluster;
    use holdfast_schema::cluster::{Backend, BackendId, Group, GroupId};
    use holdfast_schema::config::{BackendSpec, GroupSpec};

    fn with_backends(groups: &[(&str, u16)]) -> ClusterState {
        let mut cluster = cluster();
        for (name, many) in groups {
            let group = GroupSpec {
                name: (*name).to_owned(),
                health: Default::default(),
                backends: Vec::new(),
            };
            let backends = (0..*many).map(|n| {
                let spec = BackendSpec {
                    name: format!("b{n}"),
                    address: ([10, 0, 0, 1], n).into(),
                    weight: 100,
                    draining: false,
                };
                (spec.name.clone(), Backend { id: BackendId(u32::from(n)), spec })
            });
            let backends = backends.collect();
            cluster
                .groups
                .insert((*name).to_owned(), Group { id: GroupId(1), spec: group, backends });
        }
        cluster
    }

    fn refused(cluster: &ClusterState, name: &str) -> String {
        let body = known(cluster, name).unwrap_err().0;
        assert_eq!(body.code, ErrorCode::NotFound);
        assert!(body.message.contains(name), "{}", body.message);
        body.hint
    }

    #[test]
    fn a_backend_that_is_not_there_is_no_empty_backend() {
        let cluster = with_backends(&[("api", 1), ("web", 2)]);
        assert!(known(&cluster, "web/b1").is_ok());
        assert_eq!(refused(&cluster, "web/b2"), "there are web/b0, web/b1");
        assert_eq!(refused(&cluster, "wbe/b0"), "there are api/b0, web/b0, web/b1");
        assert_eq!(refused(&cluster, "web"), "there are web/b0, web/b1");
        assert_eq!(refused(&with_backends(&[]), "web/b0"), "there is no backend at all");
        let many = refused(&with_backends(&[("web", 30)]), "web/c");
        assert!(many.ends_with(" and 10 more"), "{many}");
    }
}
