//! Counters of the transport: plain atomics, read by whoever exports them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::Purpose;

/// Why a connection was not established.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HandshakeFailure {
    /// Nobody answered in time.
    Timeout,
    /// TLS refused a certificate: another authority, expired, or a broken signature.
    Certificate,
    /// The dialer showed no certificate.
    NoCertificate,
    /// The certificate names no director of this cluster.
    WrongName,
    /// The director is not in the member list.
    NotAMember,
    /// The key is not the pinned one.
    KeyNotPinned,
    /// The other side broke the protocol or speaks another version.
    Protocol,
    /// The other side refused us.
    Refused,
    /// The other side says that we were removed from the cluster.
    Removed,
    /// Over a limit.
    Busy,
    /// Anything else (network unreachable, ...).
    Other,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [HandshakeFailure; 11] = [
        HandshakeFailure::Timeout,
        HandshakeFailure::Certificate,
        HandshakeFailure::NoCertificate,
        HandshakeFailure::WrongName,
        HandshakeFailure::NotAMember,
        HandshakeFailure::KeyNotPinned,
        HandshakeFailure::Protocol,
        HandshakeFailure::Refused,
        HandshakeFailure::Removed,
        HandshakeFailure::Busy,
        HandshakeFailure::Other,
    ];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Certificate => "certificate",
            HandshakeFailure::NoCertificate => "no-certificate",
            HandshakeFailure::WrongName => "wrong-name",
            HandshakeFailure::NotAMember => "not-a-member",
            HandshakeFailure::KeyNotPinned => "key-not-pinned",
            HandshakeFailure::Protocol => "protocol",
            HandshakeFailure::Refused => "refused",
            HandshakeFailure::Removed => "removed",
            HandshakeFailure::Busy => "busy",
            HandshakeFailure::Other => "other",
        }
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $struct:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $struct {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl $struct {
            /// Every counter with its name (without prefix), for export.
            pub fn each(&self, mut see: impl FnMut(&'static str, u64)) {
                $(see(stringify!($name), self.$name.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    /// Counters of one kind of connection.
    LaneMetrics {
        /// Messages, requests or chunks sent.
        messages_out,
        /// Their bytes.
        bytes_out,
        /// Messages, requests or chunks received.
        messages_in,
        /// Their bytes.
        bytes_in,
        /// Messages dropped because their queue was full.
        dropped_full,
        /// Messages dropped because they had waited too long for a connection.
        dropped_stale,
        /// Messages dropped because they were above the size limit or for nobody.
        dropped_unsendable,
    }
}

counters! {
    /// Counters without a lane.
    PlainMetrics {
        /// Heartbeats sent.
        heartbeats_out,
        /// Heartbeats received.
        heartbeats_in,
        /// Heartbeats not sent because the connection did not take them at once.
        heartbeats_skipped,
        /// Heartbeats received that made no sense.
        heartbeats_malformed,
        /// Payloads of heartbeats dropped because the handler lagged behind.
        heartbeats_unhandled,
        /// Connections closed because the peer broke the protocol.
        protocol_violations,
        /// Times the heartbeat thread found that it had slept.
        stalls,
        /// Connections established by us.
        connects,
        /// Those of them that replaced one that had broken.
        reconnects,
        /// Connections accepted from peers.
        accepted,
        /// Join requests answered.
        joins,
        /// Requests that did not get their answer in time.
        request_timeouts,
        /// Snapshots sent completely.
        snapshots_out,
        /// Snapshots that failed while being sent.
        snapshots_failed,
        /// Snapshots received completely.
        snapshots_in,
        /// Connections closed at once because their peer was removed or its key changed.
        revoked,
    }
}

/// All counters of one director's transport.
#[derive(Debug, Default)]
pub struct NetMetrics {
    lanes: [LaneMetrics; 3],
    plain: PlainMetrics,
    failures: [AtomicU64; HandshakeFailure::ALL.len()],
}

impl std::ops::Deref for NetMetrics {
    type Target = PlainMetrics;
    fn deref(&self) -> &PlainMetrics {
        &self.plain
    }
}

impl NetMetrics {
    /// Every lane with the value of its label.
    pub fn lanes(&self) -> impl Iterator<Item = (&'static str, &LaneMetrics)> {
        ["control", "log", "snapshot"].into_iter().zip(&self.lanes)
    }

    /// Every counter without labels with its name (without prefix), for export.
    pub fn each(&self, see: impl FnMut(&'static str, u64)) {
        self.plain.each(see);
    }

    /// Failed handshakes for this reason.
    pub fn handshake_failures(&self, reason: HandshakeFailure) -> u64 {
        self.failures[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self, reason: HandshakeFailure) {
        add(&self.failures[reason as usize], 1);
    }

    pub(super) fn lane(&self, purpose: Purpose) -> &LaneMetrics {
        &self.lanes[purpose as usize]
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
