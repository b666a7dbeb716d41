//! A director's admin API, as far as the scenario needs it; and its metrics.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_schema::admin::Status;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

const DEADLINE: Duration = Duration::from_secs(3);

/// `GET /v1/status`.
pub async fn status(socket: &Path) -> Result<Status> {
    let body = match tokio::time::timeout(DEADLINE, get(socket, "/v1/status")).await {
        Ok(body) => body?,
        Err(_) => bail!("{} does not answer within {DEADLINE:?}", socket.display()),
    };
    serde_json::from_slice(&body).context("the answer is not a status")
}

async fn get(socket: &Path, path: &str) -> Result<Bytes> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connecting to {}", socket.display()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "holdfast").body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => {
            ended?;
            bail!("{} closed the connection", socket.display())
        }
    }
}

/// Fetches a page over HTTP/1.0 from wherever we are; blocks. (Run in a namespace by `fetch`.)
pub fn fetch(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path} answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// The sum of a metric's samples in a Prometheus exposition, those left out that contain `without`;
/// none if the metric is not there.
pub fn sum_of(exposition: &str, metric: &str, without: Option<&str>) -> Option<f64> {
    let mut sum = None;
    for line in exposition.lines() {
        let Some(rest) = line.strip_prefix(metric) else { continue };
        // The name has to end here: a longer one is another metric.
        let (labels, value) = match rest.chars().next() {
            Some('{') => rest.rsplit_once('}').unwrap_or(("", "")),
            Some(' ') => ("", rest),
            _ => continue,
        };
        let Some(value) = value.split_whitespace().next().and_then(|v| v.parse::<f64>().ok())
        else {
            continue;
        };
        let counts = without.is_none_or(|text| !labels.contains(text));
        *sum.get_or_insert(0.0) += if counts { value } else { 0.0 };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_are_added() {
        let text = "# HELP holdfast_guard_releases_total x\n\
                    # TYPE holdfast_guard_releases_total counter\n\
                    holdfast_guard_releases_total{reason=\"silent } worker\"} 2\n\
                    holdfast_guard_releases_total{reason=\"death\"} 1\n\
                    holdfast_guard_releases_total_other 9\n\
                    holdfast_up 1\n";
        let releases = "holdfast_guard_releases_total";
        assert_eq!(sum_of(text, releases, None), Some(3.0));
        assert_eq!(sum_of(text, releases, Some("reason=\"death\"")), Some(2.0));
        assert_eq!(sum_of(text, "holdfast_up", None), Some(1.0));
        assert_eq!(sum_of(text, "holdfast_down", None), None);
    }
}
