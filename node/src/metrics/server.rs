//! Serves `/metrics` over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::collect;
use crate::node::Node;

/// Scrapes that may be under way; more are refused.
const CONCURRENT: usize = 4;

struct Exporter {
    node: Arc<Node>,
    process: ProcessCollector,
    permits: Semaphore,
}

/// Binds the address.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves for ever.
pub async fn run(listener: TcpListener, node: Arc<Node>) {
    let process = ProcessCollector::new(std::process::id() as i32, "holdfast");
    let exporter = Arc::new(Exporter { node, process, permits: Semaphore::new(CONCURRENT) });
    let router = Router::new().route("/metrics", get(metrics)).with_state(exporter);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics server has ended");
    }
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> Response {
    let Ok(_permit) = exporter.permits.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes\n").into_response();
    };
    let work = exporter.clone();
    // Counting ports walks over tables: not on an async task.
    let text = tokio::task::spawn_blocking(move || {
        collect::scrape(&work.node).text(work.process.collect())
    });
    match text.await {
        Ok(Ok(text)) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            (kind, text).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
