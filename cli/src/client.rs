//! HTTP/1.1 over the admin socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast_schema::admin::{ErrorBody, ErrorCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::failure::Failure;

/// How long a director may take for an answer. It bounds its own work at a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// Most bytes an answer may have.
const MOST_BYTES: usize = 64 << 20;

/// A director's admin API.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// An answer: the JSON as it came, and what it means.
#[derive(Debug)]
pub struct Answer<T> {
    /// As it came; shown by `--output json`.
    pub json: Value,
    /// What it means.
    pub value: T,
}

impl Client {
    /// The admin API behind this socket.
    pub fn new(socket: PathBuf) -> Client {
        Client { socket }
    }

    /// `GET`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Failure> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Another method, with a body.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Failure::error(format!("the request cannot be written: {e}"), ""))?;
        self.ask(method, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer<T>, Failure> {
        let what = format!("{method} {path}");
        let exchange = self.exchange(method, path, body);
        let (status, body) =
            tokio::time::timeout(ANSWER_WITHIN, exchange).await.map_err(|_| {
                let seconds = ANSWER_WITHIN.as_secs();
                Failure::unreachable(
                    format!("the director has not answered {what} within {seconds} s"),
                    "what was asked for may still happen; look with `holdfast status`",
                )
            })??;
        if !status.is_success() {
            return Err(refusal(status, &body, &what));
        }
        let json: Value = serde_json::from_slice(&body).map_err(|e| strange(&what, &e))?;
        let value = serde_json::from_value(json.clone()).map_err(|e| strange(&what, &e))?;
        Ok(Answer { json, value })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|e| no_door(&self.socket, &e))?;
        let broken = |e: hyper::Error| {
            Failure::unreachable(
                format!("the director at {} broke off: {e}", self.socket.display()),
                "has it just ended? what was asked for may have happened; look with `holdfast status`",
            )
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "holdfast");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Failure::error(format!("`{path}` cannot be asked for: {e}"), ""))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(|e| {
            Failure::unreachable(format!("the director's answer broke off: {e}"), "try again")
        })?;
        Ok((status, body.to_bytes()))
    }
}

/// The director understood and refused, or something else answered.
fn refusal(status: StatusCode, body: &[u8], what: &str) -> Failure {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return Failure::refused(body);
    }
    let text = String::from_utf8_lossy(body);
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Failure::refused(ErrorBody {
            code: ErrorCode::Unsupported,
            message: format!("the director does not know {what}"),
            hint: "is it an older holdfastd than this command?".to_owned(),
        }),
        _ => Failure::error(format!("the director answered {what} with {status}: {text}"), ""),
    }
}

fn strange(what: &str, error: &serde_json::Error) -> Failure {
    Failure::error(
        format!("the director's answer to {what} makes no sense: {error}"),
        "is the socket that of holdfastd, and of the same version?",
    )
}

/// The socket cannot be opened: says what is there, and what to do.
fn no_door(path: &Path, error: &std::io::Error) -> Failure {
    let shown = path.display();
    let name_it = "name its `admin-socket` with --socket or $HOLDFAST_SOCKET";
    match error.kind() {
        ErrorKind::PermissionDenied => Failure::not_allowed(
            format!("may not open {shown}{}", owner(path)),
            "run it as root, or as a member of the socket's group",
        ),
        ErrorKind::NotFound => Failure::unreachable(
            format!("there is no socket {shown}"),
            format!(
                "is holdfastd running here? start it (`systemctl start holdfastd`), or {name_it}"
            ),
        ),
        _ if is_something_else(path) => {
            Failure::unreachable(format!("{shown} exists, but it is no socket"), name_it)
        }
        ErrorKind::ConnectionRefused => Failure::unreachable(
            format!("the socket {shown} exists, but nobody listens on it"),
            format!("holdfastd has ended; start it (`systemctl start holdfastd`), or {name_it}"),
        ),
        _ => Failure::unreachable(format!("cannot open {shown}: {error}"), name_it),
    }
}

fn is_something_else(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| !meta.file_type().is_socket())
}

fn owner(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(path) {
        Ok(meta) => {
            let (user, group, mode) = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
            format!(" (owner {user}, group {group}, mode {mode:04o})")
        }
        Err(_) => String::new(),
    }
}
