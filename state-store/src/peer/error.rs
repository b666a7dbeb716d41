//! Errors of the transport, and the codes connections are closed with.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_schema::cluster::DirectorId;
use quinn::{ConnectionError, VarInt};

use crate::pki::PkiError;

/// Why something over the network failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// The socket could not be made.
    #[error("cannot listen for peers on {listen}: {cause}")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// Why not.
        cause: String,
    },
    /// Our own identity cannot be used.
    #[error("the director's certificate cannot be used: {0}")]
    Identity(String),
    /// Not a member, or ourselves.
    #[error("director {0} is no peer")]
    UnknownPeer(DirectorId),
    /// There is no connection.
    #[error("director {peer} is not connected: {cause}")]
    NotConnected {
        /// Whom.
        peer: DirectorId,
        /// The latest failure.
        cause: String,
    },
    /// The connection broke.
    #[error("the connection to director {peer} broke: {cause}")]
    Broken {
        /// Whom to.
        peer: DirectorId,
        /// Why.
        cause: String,
    },
    /// Not in time.
    #[error("director {peer} did not finish {what} within {after:?}")]
    Timeout {
        /// Who.
        peer: DirectorId,
        /// What.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// More bytes than the limit.
    #[error("{what} of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How many.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The other side could not or would not.
    #[error("director {peer} refused: {cause}")]
    Refused {
        /// Who.
        peer: DirectorId,
        /// Why.
        cause: String,
    },
    /// The other side said something that makes no sense.
    #[error("director {peer} broke the protocol: {cause}")]
    Protocol {
        /// Who.
        peer: DirectorId,
        /// How.
        cause: String,
    },
    /// Where the chunks of a snapshot come from failed.
    #[error("the snapshot could not be read: {0}")]
    Source(String),
}

impl From<PkiError> for NetError {
    fn from(error: PkiError) -> NetError {
        NetError::Identity(error.to_string())
    }
}

/// Why no member could be asked to let us join.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JoinError {
    /// Every address failed.
    #[error("no member of the cluster could be asked to join: {}", each(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// The request cannot be sent.
    #[error("the join request of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

fn each(failures: &[(SocketAddr, String)]) -> String {
    let lines: Vec<String> = failures.iter().map(|(at, why)| format!("{at}: {why}")).collect();
    lines.join("; ")
}

/// Application codes of closed connections. The reason travels as text beside it.
pub(super) mod close {
    use quinn::VarInt;

    /// The director stops.
    pub(in crate::peer) const SHUTDOWN: VarInt = VarInt::from_u32(1);
    /// The address or key changed, or the list is one that does not know the peer yet.
    pub(in crate::peer) const REMOVED: VarInt = VarInt::from_u32(2);
    /// The certificate is missing, not pinned, or of somebody else.
    pub(in crate::peer) const NOT_ALLOWED: VarInt = VarInt::from_u32(3);
    /// The peer said something that makes no sense.
    pub(in crate::peer) const PROTOCOL: VarInt = VarInt::from_u32(4);
    /// Over a limit; try later.
    pub(in crate::peer) const BUSY: VarInt = VarInt::from_u32(5);
    /// The same peer has a newer connection.
    pub(in crate::peer) const REPLACED: VarInt = VarInt::from_u32(6);
    /// All done.
    pub(in crate::peer) const DONE: VarInt = VarInt::from_u32(7);
    /// The peer was a member and was removed; it need not come again.
    pub(in crate::peer) const GONE: VarInt = VarInt::from_u32(8);
}

/// Says in words why a connection ended.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(closed) => {
            let reason = String::from_utf8_lossy(&closed.reason);
            if closed.error_code == close::SHUTDOWN {
                "the peer stops".to_owned()
            } else if reason.is_empty() {
                format!("the peer closed the connection (code {})", closed.error_code)
            } else {
                format!("the peer closed the connection: {reason}")
            }
        }
        ConnectionError::ConnectionClosed(closed) => match alert(closed.error_code) {
            Some(text) => format!("the peer refused us in the TLS handshake: {text}"),
            None => format!("the peer aborted the connection: {closed}"),
        },
        ConnectionError::TransportError(inner) if failed_in_tls(error) => {
            let cause = &inner.reason;
            let foreign = cause.contains("UnknownIssuer") || cause.contains("BadSignature");
            let hint = if foreign { " (it is of another authority than ours)" } else { "" };
            format!("TLS failed: {cause}{hint}")
        }
        ConnectionError::TransportError(error) => error.to_string(),
        ConnectionError::Reset => "the peer has restarted".to_owned(),
        ConnectionError::TimedOut => "the peer does not answer".to_owned(),
        ConnectionError::LocallyClosed => "closed by us".to_owned(),
        other => other.to_string(),
    }
}

/// The TLS alert inside a QUIC transport error code (RFC 9001 section 4.8), in words.
fn alert(code: quinn::TransportErrorCode) -> Option<String> {
    let code = u64::from(code);
    if !(0x100..0x200).contains(&code) {
        return None;
    }
    let text = match code as u8 {
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired (or the clocks differ)",
        46 => "certificate unknown",
        48 => "the certificate is of another authority",
        49 => "access denied",
        51 => "bad signature: the certificate is of another authority",
        80 => "internal error",
        116 => "certificate required",
        120 => "no application protocol in common",
        other => return Some(format!("alert {other}")),
    };
    Some(text.to_owned())
}

/// Whether the connection ended in the TLS handshake, on either side.
pub(super) fn failed_in_tls(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(closed) => closed.error_code,
        _ => return false,
    };
    (0x100..0x200).contains(&u64::from(code))
}

/// Whether the peer closed the connection because we were removed from the cluster.
pub(super) fn says_gone(error: &ConnectionError) -> bool {
    closed_with(error) == Some(close::GONE)
}

/// The code the peer closed the connection with, if it did.
pub(super) fn closed_with(error: &ConnectionError) -> Option<VarInt> {
    match error {
        ConnectionError::ApplicationClosed(closed) => Some(closed.error_code),
        _ => None,
    }
}
