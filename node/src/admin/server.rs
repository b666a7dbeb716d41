//! The HTTP server of the admin API.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, http};
use holdfast_schema::admin::ErrorCode;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::{cluster, config, sessions, status};
use crate::node::Node;

/// Requests that may be under way; more are refused with 503.
pub const CONCURRENT: usize = 32;

/// The largest body: a configuration of ten thousand backends fits easily.
const BODY_BYTES: usize = 8 << 20;

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// What handlers get.
#[derive(Clone)]
pub struct Api {
    /// The node.
    pub node: Arc<Node>,
    permits: Arc<Semaphore>,
}

/// The routes of the API.
pub fn router(node: Arc<Node>) -> Router {
    let api = Api { node, permits: Arc::new(Semaphore::new(CONCURRENT)) };
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/cluster/init", post(cluster::init))
        .route("/v1/nodes", post(cluster::add))
        .route("/v1/nodes/{name}/drain", post(cluster::drain).get(cluster::drain_status))
        .route("/v1/nodes/{name}/undrain", post(cluster::undrain))
        .route("/v1/nodes/{name}", delete(cluster::remove))
        .route("/v1/config", get(config::read).put(config::change))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/count", get(sessions::count))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn_with_state(api.clone(), bounded))
        .with_state(api)
}

async fn unknown(uri: http::Uri) -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        format!("the admin API has no `{}`", uri.path()),
        "is `holdfast` of the same version as `holdfastd`?",
    )
}

async fn wrong_method(method: http::Method, uri: http::Uri) -> ApiError {
    let message = format!("`{}` does not understand {method}", uri.path());
    ApiError::new(ErrorCode::BadRequest, message, "")
}

/// Bounds how many requests are under way and how long each may take.
async fn bounded(State(api): State<Api>, request: Request, next: Next) -> Response {
    api.node.counters.admin_requests.fetch_add(1, Ordering::Relaxed);
    let Ok(_permit) = api.permits.try_acquire() else {
        api.node.counters.admin_busy.fetch_add(1, Ordering::Relaxed);
        let message = format!("{CONCURRENT} requests are under way already");
        return ApiError::new(ErrorCode::Unavailable, message, "try again").into_response();
    };
    let under_way = &api.node.counters.admin_under_way;
    under_way.fetch_add(1, Ordering::Relaxed);
    let answered = tokio::time::timeout(DEADLINE, next.run(request)).await;
    under_way.fetch_sub(1, Ordering::Relaxed);
    match answered {
        Ok(response) => response,
        Err(_) => {
            let message = format!("not done within {} s", DEADLINE.as_secs());
            ApiError::new(ErrorCode::Unavailable, message, "see `holdfast status`").into_response()
        }
    }
}

/// Binds the socket: readable and writable for owner and group, nobody else. A socket that a dead
/// daemon left behind is replaced; one that answers is not.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                let cause = "another holdfastd answers on it";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, cause));
            }
            Err(_) => std::fs::remove_file(path)?,
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn run(listener: UnixListener, node: Arc<Node>) {
    if let Err(error) = axum::serve(listener, router(node)).await {
        tracing::error!(%error, "the admin API has ended");
    }
}
