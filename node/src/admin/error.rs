//! Errors of the admin API.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use holdfast_schema::admin::{ErrorBody, ErrorCode};
use holdfast_schema::cluster::{ControlOutcome, Refusal, RefusalCode};
use holdfast_state_store::StoreError;

/// An error with everything a client is told.
#[derive(Debug)]
pub struct ApiError(pub ErrorBody);

impl ApiError {
    /// An error with place and cause, and a remedy.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError(ErrorBody { code, message: message.into(), hint: hint.into() })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status());
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(self.0)).into_response()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let code = match refusal.code {
            RefusalCode::NotFound => ErrorCode::NotFound,
            RefusalCode::RevisionConflict => ErrorCode::RevisionConflict,
            RefusalCode::Exists | RefusalCode::Precondition => ErrorCode::Precondition,
            RefusalCode::Invalid => ErrorCode::Invalid,
            RefusalCode::NotAllowed => ErrorCode::NotAllowed,
            RefusalCode::Unsupported => ErrorCode::Unsupported,
        };
        ApiError::new(code, refusal.message, refusal.hint)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        let (code, hint) = match &error {
            StoreError::Refused(refusal) => return refusal.clone().into(),
            StoreError::NotMember | StoreError::Disowned(_) => (ErrorCode::Unavailable, ""),
            StoreError::AlreadyMember { .. } | StoreError::Locked(_) => {
                (ErrorCode::Precondition, "")
            }
            StoreError::Join(_) => (ErrorCode::NotAllowed, ""),
            StoreError::Deadline { .. } => (
                ErrorCode::Unavailable,
                "a majority of the voters must be up; see `holdfast status`",
            ),
            StoreError::Peer { .. } | StoreError::Closed => (ErrorCode::Unavailable, ""),
            StoreError::Network { .. }
            | StoreError::Storage { .. }
            | StoreError::Identity { .. } => (ErrorCode::Internal, ""),
        };
        ApiError::new(code, error.to_string(), hint)
    }
}

/// What came of a command: the revision, or the refusal.
pub fn done(outcome: ControlOutcome) -> Result<u64, ApiError> {
    match outcome {
        ControlOutcome::Done { revision, .. } => Ok(revision),
        ControlOutcome::Refused(refusal) => Err(refusal.into()),
    }
}
