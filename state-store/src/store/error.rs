//! What can go wrong in the store, in words for operators: place, cause, remedy.

use std::path::PathBuf;

use holdfast_schema::cluster::Refusal;

/// What to do with the machine of a director that was removed.
pub(super) const COME_BACK: &str = "to bring this machine back, empty its data directory and start it \
                                    with a join token from `holdfast node add`";

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no cluster here yet.
    #[error(
        "this director is not in a cluster yet; run `holdfast cluster init` here, or start it with a \
         join token from `holdfast node add`"
    )]
    NotMember,
    /// There is one already.
    #[error(
        "data directory {data_dir} already belongs to cluster {cluster_id}; use an empty data directory"
    )]
    AlreadyMember {
        /// The data directory.
        data_dir: PathBuf,
        /// The cluster it belongs to.
        cluster_id: String,
    },
    /// Another daemon uses the data directory.
    #[error(
        "data directory {0} is in use by another holdfastd; stop that one or use another directory"
    )]
    Locked(PathBuf),
    /// The disk failed, or holds what this version cannot read.
    #[error("{place}: {cause}")]
    Storage {
        /// The file or database.
        place: String,
        /// What it said.
        cause: String,
    },
    /// The identity on this disk is not (or no longer) this machine's.
    #[error("identity of {name}: {cause}; {remedy}")]
    Identity {
        /// The director's name.
        name: String,
        /// What contradicts it.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// It was a member, and is not the one that the cluster knows (any more).
    #[error("{0}; {COME_BACK}")]
    Disowned(String),
    /// The join token, or who may join with it.
    #[error("join refused: {0}")]
    Join(String),
    /// The cluster said no.
    #[error("{}{}", .0.message, if .0.hint.is_empty() { String::new() } else { format!(" ({})", .0.hint) })]
    Refused(Refusal),
    /// Not in time.
    #[error("{what} took longer than {deadline_ms} ms: {cause}")]
    Deadline {
        /// What was tried.
        what: String,
        /// The deadline.
        deadline_ms: u64,
        /// The last reason it did not work.
        cause: String,
    },
    /// A peer could not be reached or did not answer sensibly.
    #[error("peer {peer}: {cause}")]
    Peer {
        /// Its number.
        peer: u32,
        /// What happened.
        cause: String,
    },
    /// The network endpoint could not be set up.
    #[error("peer endpoint {listen}: {cause}")]
    Network {
        /// Where it should listen.
        listen: std::net::SocketAddr,
        /// What happened.
        cause: String,
    },
    /// The store is shutting down.
    #[error("the store is shutting down")]
    Closed,
}

/// The queue of proposals is full: nothing was taken, propose again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue of proposals is full")]
pub struct Busy;
