//! What the admin API says: JSON over HTTP/1.1 on a unix socket.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `POST /v1/cluster/init` | [`InitRequest`] | [`Done`] |
//! | `POST /v1/nodes` | [`NodeAddRequest`] | [`NodeAdded`] |
//! | `POST /v1/nodes/NAME/drain` | [`ForceRequest`] | [`DrainStatus`] (202: it goes on by itself) |
//! | `GET /v1/nodes/NAME/drain` | | [`DrainStatus`] |
//! | `POST /v1/nodes/NAME/undrain` | | [`Done`] |
//! | `DELETE /v1/nodes/NAME` | [`ForceRequest`] | [`Done`] |
//! | `GET /v1/config` | | [`ConfigDocument`] |
//! | `PUT /v1/config` | [`ConfigChange`] | [`Done`] |
//! | `GET /v1/sessions?client=&vip=&backend=&state=&limit=` ([`SessionQuery`]) | | [`SessionList`], of all live directors |
//! | `GET /v1/sessions/count?client=&vip=&backend=&state=` ([`SessionQuery`]) | | [`SessionCount`] |
//!
//! Every error is an [`ErrorBody`] with an HTTP status that tells its class.

mod query;

use std::net::SocketAddr;

pub use query::{
    DEFAULT_SESSION_LIMIT, Endpoint, EndpointError, MAX_SESSION_LIMIT, SESSION_STATES, SessionQuery,
};
use serde::{Deserialize, Serialize};

use crate::cluster::{MemberState, PlannedKind};
use crate::config::ClusterSpec;
use crate::session::SessionRecord;

/// An error of the API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Its class.
    pub code: ErrorCode,
    /// Place and cause.
    pub message: String,
    /// The remedy; may be empty.
    #[serde(default)]
    pub hint: String,
}

/// Classes of error; each has an HTTP status and an exit code of `holdfast`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// 400: the request makes no sense (exit 2).
    BadRequest,
    /// 403 (exit 4).
    NotAllowed,
    /// 404 (exit 1).
    NotFound,
    /// 409: the configuration changed meanwhile (exit 6).
    RevisionConflict,
    /// 412: a precondition fails; may be forced where the hint says so (exit 6).
    Precondition,
    /// 422: the configuration contradicts itself (exit 1).
    Invalid,
    /// 501: not there yet (exit 1).
    Unsupported,
    /// 503: no cluster yet, no leader, or not in time (exit 5).
    Unavailable,
    /// 500 (exit 1).
    Internal,
}

impl ErrorCode {
    /// The HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::NotAllowed => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::RevisionConflict => 409,
            ErrorCode::Precondition => 412,
            ErrorCode::Invalid => 422,
            ErrorCode::Unsupported => 501,
            ErrorCode::Unavailable => 503,
            ErrorCode::Internal => 500,
        }
    }

    /// The exit code of `holdfast`.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorCode::BadRequest => 2,
            ErrorCode::NotAllowed => 4,
            ErrorCode::NotFound
            | ErrorCode::Invalid
            | ErrorCode::Unsupported
            | ErrorCode::Internal => 1,
            ErrorCode::RevisionConflict | ErrorCode::Precondition => 6,
            ErrorCode::Unavailable => 5,
        }
    }
}

/// A change was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Configuration revision after it.
    pub revision: u64,
    /// What was done, in a sentence.
    pub message: String,
}

/// Begin a cluster on this director.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InitRequest {
    /// How many session groups; fixed for ever.
    pub shards: u16,
}

/// Open a slot for a new director.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAddRequest {
    /// Its name: `id` in its node file.
    pub name: String,
    /// How long the token lives (s).
    pub expires_in_s: u64,
}

/// A slot was opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAdded {
    /// The director to come.
    pub name: String,
    /// The one-time token.
    pub token: String,
    /// What to run on the new machine.
    pub command: String,
    /// How long the token lives (s).
    pub expires_in_s: u64,
}

/// Do it although a precondition fails.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ForceRequest {
    /// The reason; recorded. Absent: do not force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<String>,
}

/// The configuration and its revision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigDocument {
    /// Its revision.
    pub revision: u64,
    /// The configuration.
    pub spec: ClusterSpec,
}

/// Replace the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The revision the change was made against.
    pub expected_revision: u64,
    /// The whole new configuration.
    pub spec: ClusterSpec,
    /// Do it although sessions are live on what goes; the reason is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<String>,
}

/// What a director knows of the cluster and of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The director that answers.
    pub director: String,
    /// Version of `holdfastd`.
    pub version: String,
    /// `waiting` (no cluster yet), `member`.
    pub phase: String,
    /// The cluster, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// What keeps this director from being ready; empty: ready.
    pub not_ready: Vec<String>,
    /// The tables that it forwards by, once it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<TablesStatus>,
    /// How the XDP program is attached: `native`, `skb`.
    pub xdp_mode: String,
    /// What deserves attention but keeps nobody from working.
    pub warnings: Vec<String>,
}

/// The tables that a director forwards by. Those of the same revision and health version have the same
/// hash on every director.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TablesStatus {
    /// Configuration revision they were made from.
    pub revision: u64,
    /// Health version they were made from.
    pub health_version: u64,
    /// Their hash (48 bits).
    pub hash: u64,
}

/// The cluster as one director sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub id: String,
    /// Configuration revision.
    pub revision: u64,
    /// Membership epoch.
    pub membership_epoch: u64,
    /// Leader of the control group, by name.
    pub leader: Option<String>,
    /// The members.
    pub nodes: Vec<NodeStatus>,
    /// The groups: control first, then the shards.
    pub groups: Vec<RaftGroupStatus>,
    /// Planned changes under way.
    pub planned: Vec<PlannedStatus>,
    /// Backends and what the cluster thinks of their health.
    pub backends: Vec<BackendStatus>,
    /// Everything up, caught up and announced; no planned change under way; all voters in place.
    pub settled: bool,
    /// Why not, if not.
    pub unsettled: Vec<String>,
}

/// One member as the cluster sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub address: SocketAddr,
    /// What operators want of it.
    pub state: MemberState,
    /// Whether it answers now.
    pub up: bool,
    /// Whether it is ready (by its own word); none: unknown.
    pub ready: Option<bool>,
    /// `announced`, `worse`, `withdrawn`; none: unknown.
    pub announcement: Option<String>,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its LIPs.
    pub lips: Vec<String>,
    /// Sessions it owns.
    pub sessions: Option<u64>,
    /// How many groups it votes in.
    pub votes: u32,
}

/// One Raft group as this director sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RaftGroupStatus {
    /// `control` or `shard-N`.
    pub name: String,
    /// Its leader, by name.
    pub leader: Option<String>,
    /// Its term.
    pub term: u64,
    /// Committed index.
    pub committed: u64,
    /// Index applied here.
    pub applied: u64,
    /// Voters, by name.
    pub voters: Vec<String>,
    /// Learners, by name.
    pub learners: Vec<String>,
    /// Sessions in it here (0 for control).
    pub sessions: u64,
}

/// A planned change under way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlannedStatus {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub kind: PlannedKind,
    /// Whom it concerns.
    pub director: String,
}

/// A backend's health.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u16,
    /// Whether it gets no new sessions by the operator's wish.
    pub draining: bool,
    /// Healthy in the cluster's judgement; none: not judged yet.
    pub healthy: Option<bool>,
    /// Why it is unhealthy, as this director saw it.
    pub reason: Option<String>,
}

/// How far a drain is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DrainStatus {
    /// The director.
    pub name: String,
    /// Its state.
    pub state: MemberState,
    /// The step it is at: `flushing`, `moving-votes`, `vips-worse`, `lips-worse`, `quiet`, `drained`.
    pub step: String,
    /// Sessions that only it knows.
    pub unreplicated: u64,
    /// Sessions it still owns.
    pub owned: u64,
    /// Groups it still votes in.
    pub votes: u32,
    /// Milliseconds since the last packet of a client.
    pub quiet_ms: u64,
    /// What it waits for, or what an operator should know.
    pub notes: Vec<String>,
}

/// Sessions, of all live directors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionList {
    /// The sessions, each once.
    pub sessions: Vec<SessionEntry>,
    /// Whether `limit` cut the list.
    pub truncated: bool,
    /// Directors that did not answer.
    pub missing: Vec<String>,
}

/// A session and who forwards it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionEntry {
    /// What is known of it.
    pub record: SessionRecord,
    /// Its state, in a word.
    pub state: String,
    /// Name of its listener.
    pub listener: String,
    /// Name of its backend (`group/name`).
    pub backend: String,
    /// The director that forwards the client's side (the one that saw the client last).
    pub director: String,
    /// Whether the store has acknowledged it.
    pub replicated: bool,
    /// Directors that hold it.
    pub holders: Vec<String>,
}

/// How many sessions there are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionCount {
    /// Distinct sessions.
    pub total: u64,
    /// By owner's name.
    pub by_director: Vec<(String, u64)>,
    /// By state.
    pub by_state: Vec<(String, u64)>,
    /// Directors that did not answer.
    pub missing: Vec<String>,
}
