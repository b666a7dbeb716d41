//! The cluster as the control group keeps it: members, listeners, groups, LIPs, planned changes.
//!
//! [`ClusterState`] is what the control group replicates; [`ControlCommand`] is what may be said to
//! it. Applying a command is the state-store's business (and is deterministic).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::bucket::{BucketKey, ShardTable};
use crate::config::{BackendSpec, ClusterSpec, GroupSpec, ListenerSpec};
use crate::prefix::Prefix;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Encode, Decode,
            Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A director's number: given at `node add`, never given twice. Operators use names.
    DirectorId, u32
);
id!(
    /// A replica's number in the session groups, the same in all of them. A director that lost its
    /// memory of sessions gets a new one. In the control group, which never forgets, a replica goes by
    /// its director's number instead.
    ReplicaId, u64
);
id!(
    /// A listener's number.
    ListenerId, u32
);
id!(
    /// A server group's number.
    GroupId, u32
);
id!(
    /// A backend's number. A backend that is removed and added again is a new one.
    BackendId, u32
);

/// Everything the control group agrees on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct ClusterState {
    /// Made at `init`: 32 hex digits.
    pub cluster_id: String,
    /// Key of the bucket hash.
    pub bucket_key: BucketKey,
    /// Bucket to shard.
    pub shards: ShardTable,
    /// How many session groups there are.
    pub shard_count: u16,
    /// Configuration revision: the only counter that operators compare and set.
    pub revision: u64,
    /// Counts changes of `members` and their states.
    pub membership_epoch: u64,
    /// The members by number; removed ones are gone from here.
    pub members: BTreeMap<DirectorId, Member>,
    /// LIPs and who owns them.
    pub lips: BTreeMap<IpAddr, LipAssignment>,
    /// The configuration as operators wrote it.
    pub spec: ClusterSpec,
    /// Listeners of `spec` with their numbers, by name.
    pub listeners: BTreeMap<String, Listener>,
    /// Groups of `spec` with their numbers, by name.
    pub groups: BTreeMap<String, Group>,
    /// Outstanding join tokens, by name of the slot.
    pub tokens: BTreeMap<String, JoinSlot>,
    /// The planned changes under way.
    pub planned: Vec<PlannedChange>,
    /// Next numbers to give away.
    pub next: NextIds,
    /// PEM of the cluster's CA certificate.
    pub ca_certificate: String,
    /// PEM of the CA's key. Never leaves the replicas of the control group.
    #[serde(skip)]
    pub ca_key: String,
    /// The latest request ids and what came of them, oldest first.
    #[serde(skip)]
    pub requests: Vec<(RequestId, ControlOutcome)>,
}

/// The next numbers to give away; none is ever given twice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize, Deserialize)]
pub struct NextIds {
    /// Next director.
    pub director: u32,
    /// Next Raft replica.
    pub replica: u64,
    /// Next listener.
    pub listener: u32,
    /// Next group.
    pub group: u32,
    /// Next backend.
    pub backend: u32,
    /// Next planned change.
    pub planned: u64,
}

/// A director of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: DirectorId,
    /// The name operators use; `id` in its node file.
    pub name: String,
    /// Where peers reach it (QUIC over UDP).
    pub address: SocketAddr,
    /// Its replica in the session groups; in the control group it goes by `id`.
    pub replica: ReplicaId,
    /// Counts its starts.
    pub incarnation: u64,
    /// What operators want of it.
    pub state: MemberState,
    /// Whether the control group has declared it down.
    pub down: bool,
    /// Whether it ended without a clean mark before its current incarnation.
    pub unclean: bool,
    /// SHA-256 of its certificate's public key (SubjectPublicKeyInfo), pinned at join.
    pub key_fingerprint: [u8; 32],
    /// Prefixes directly connected to it, as it reported them.
    pub connected: Vec<Prefix>,
}

/// What operators want of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// It replicates, and does not attract traffic yet.
    Joining,
    /// It serves.
    Active,
    /// It is giving its traffic away.
    Draining,
    /// It is withdrawn but still a member.
    Drained,
}

/// A local address of FullNAT.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct LipAssignment {
    /// The director that opens sessions from it; none: free, or an orphan.
    pub owner: Option<DirectorId>,
    /// A removed director's LIP that may still have sessions.
    pub quarantined: bool,
}

/// A listener with its number.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Listener {
    /// Its number.
    pub id: ListenerId,
    /// What operators wrote.
    pub spec: ListenerSpec,
}

/// A group with its number and its backends.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub id: GroupId,
    /// What operators wrote (its `backends` are repeated in `backends` below, with numbers).
    pub spec: GroupSpec,
    /// The backends by name.
    pub backends: BTreeMap<String, Backend>,
}

/// A backend with its number.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Backend {
    /// Its number.
    pub id: BackendId,
    /// What operators wrote.
    pub spec: BackendSpec,
}

/// A slot that a new machine may join with a token.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct JoinSlot {
    /// SHA-256 of the token's secret.
    pub secret_hash: [u8; 32],
    /// Unix time (s) by the clock of the leader that issued it. Judged by the leader, never in apply.
    pub expires_at_s: u64,
}

/// Why all directors replicate everything at once for a while (PROTOCOLS, planned changes).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct PlannedChange {
    /// Its number.
    pub id: u64,
    /// The director that joins, drains, or comes back.
    pub director: DirectorId,
    /// What is planned.
    pub kind: PlannedKind,
}

/// The kinds of planned change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedKind {
    /// A new director, or one that comes back.
    Join,
    /// A director gives its traffic away.
    Drain,
    /// A drained director serves again.
    Undrain,
}

/// Makes a repeated command recognisable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct RequestId(pub u128);

/// What may be said to the control group.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub enum ControlCommand {
    /// Replace the configuration if its revision still is `expected`.
    Configure {
        /// The revision the change was made against.
        expected: u64,
        /// The whole new configuration.
        spec: Box<ClusterSpec>,
        /// Drop live sessions of what goes; the reason is logged.
        force: Option<String>,
    },
    /// Open a slot for a new director.
    IssueToken {
        /// The name of the director to come.
        name: String,
        /// The slot.
        slot: JoinSlot,
        /// Unix time (s) by the clock of the leader that proposes it: slots that expired before are
        /// dropped. Whatever the sender says is replaced.
        now_s: u64,
    },
    /// A new director consumes its slot. (The leader has judged secret and expiry.)
    Join {
        /// The name of the slot.
        name: String,
        /// SHA-256 of the secret it showed.
        secret_hash: [u8; 32],
        /// Where peers reach it.
        address: SocketAddr,
        /// SHA-256 of its public key.
        key_fingerprint: [u8; 32],
        /// Prefixes directly connected to it.
        connected: Vec<Prefix>,
    },
    /// A member has started (again).
    Started {
        /// Who.
        director: DirectorId,
        /// Where peers reach it now.
        address: SocketAddr,
        /// Its last run ended without a clean mark.
        unclean: bool,
        /// Its session groups lost their memory: it needs a new replica number.
        amnesiac: bool,
        /// Prefixes directly connected to it.
        connected: Vec<Prefix>,
    },
    /// A member is (not) heard of by a majority of observers.
    SetDown {
        /// Who.
        director: DirectorId,
        /// The incarnation that was observed; another one is left alone.
        incarnation: u64,
        /// Down or up.
        down: bool,
    },
    /// Move a member to another state.
    SetState {
        /// Who.
        director: DirectorId,
        /// Where to.
        state: MemberState,
        /// Do it although a precondition fails; the reason is logged.
        force: Option<String>,
    },
    /// Begin a planned change.
    BeginPlanned {
        /// Whom it concerns.
        director: DirectorId,
        /// What it is.
        kind: PlannedKind,
    },
    /// End a planned change.
    EndPlanned {
        /// Its number.
        id: u64,
    },
    /// End a membership and revoke its key.
    Remove {
        /// Who.
        director: DirectorId,
        /// Do it although a precondition fails; the reason is logged.
        force: Option<String>,
    },
    /// Give a quarantined LIP back to the pool.
    ReleaseLip {
        /// Which.
        lip: IpAddr,
    },
    /// A member has done what it had to do in one state and goes on to the next. Its word may come late: if it is in
    /// another state by now (an operator drains it, say), nothing changes.
    Proceed {
        /// Who.
        director: DirectorId,
        /// The state it was in.
        from: MemberState,
        /// Where to.
        to: MemberState,
    },
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub enum ControlOutcome {
    /// Done; the configuration revision and membership epoch after it.
    Done {
        /// Configuration revision.
        revision: u64,
        /// Membership epoch.
        membership_epoch: u64,
        /// The number the command gave away (director, planned change), if it gave one.
        number: Option<u64>,
    },
    /// Refused, nothing changed.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: RefusalCode,
    /// Place and cause, in a sentence, with the arithmetic if there is some.
    pub message: String,
    /// The remedy.
    pub hint: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The named thing does not exist.
    NotFound,
    /// The name or number is taken.
    Exists,
    /// Somebody else changed the configuration first.
    RevisionConflict,
    /// It would break quorum, the last VIP holder, live sessions, or a rule of the design.
    Precondition,
    /// The configuration contradicts itself or the directors' networks.
    Invalid,
    /// The token is wrong, used or expired; the key is not pinned.
    NotAllowed,
    /// Not there yet.
    Unsupported,
}

impl ClusterState {
    /// The member with this name.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|m| m.name == name)
    }

    /// The LIPs this director owns, in order.
    pub fn lips_of(&self, director: DirectorId) -> impl Iterator<Item = IpAddr> + '_ {
        self.lips.iter().filter(move |(_, a)| a.owner == Some(director)).map(|(ip, _)| *ip)
    }

    /// The distinct VIPs of all listeners, in order.
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<IpAddr> = self.listeners.values().map(|l| l.spec.vip).collect();
        vips.sort();
        vips.dedup();
        vips
    }

    /// Whether every director replicates every session at once now.
    pub fn change_planned(&self) -> bool {
        !self.planned.is_empty()
    }
}
