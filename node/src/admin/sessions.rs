//! Lists and counts of sessions.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use holdfast_schema::admin::{ErrorCode, SESSION_STATES, SessionCount, SessionList, SessionQuery};

use super::error::ApiError;
use super::server::Api;
use crate::sessions::gather;

fn checked(query: Result<Query<SessionQuery>, QueryRejection>) -> Result<SessionQuery, ApiError> {
    let Query(query) =
        query.map_err(|e| ApiError::new(ErrorCode::BadRequest, e.body_text(), ""))?;
    if let Some(state) = &query.state
        && !SESSION_STATES.contains(&state.as_str())
    {
        let message = format!("no session is `{state}`");
        let hint = format!("states are {}", SESSION_STATES.join(", "));
        return Err(ApiError::new(ErrorCode::BadRequest, message, hint));
    }
    Ok(query)
}

/// `GET /v1/sessions`
pub async fn list(
    State(api): State<Api>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionList>, ApiError> {
    Ok(Json(gather::list(&api.node, checked(query)?).await))
}

/// `GET /v1/sessions/count`
pub async fn count(
    State(api): State<Api>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionCount>, ApiError> {
    Ok(Json(gather::count(&api.node, checked(query)?).await))
}
