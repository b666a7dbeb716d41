//! What directors say to each other, and what Raft log entries hold.

use std::net::SocketAddr;

use bincode::{Decode, Encode};
use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, RequestId,
};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::prefix::Prefix;
use holdfast_schema::session::{SessionChange, SessionRecord};

use super::{Framed, Kind};

macro_rules! framed {
    ($($name:ident)*) => { $(impl Framed for $name { const KIND: Kind = Kind::$name; })* };
}

framed! { RaftBatch Forward NodeMessage Register Registration Request Response SnapshotHeader
JoinAnswer ShardEntry ChangeBatch ControlEntry }

impl Framed for JoinAsk {
    const KIND: Kind = Kind::JoinAsk;
    const STRANGERS: bool = true;
}

/// Raft messages of many groups to one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct RaftBatch {
    /// The messages, in order of sending.
    pub messages: Vec<RaftEnvelope>,
}

/// Whom a Raft message is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Address {
    /// The group: a shard number, or [`Address::CONTROL`].
    pub group: u16,
    /// The group's generation; re-forming a group begins a new one.
    pub generation: u32,
    /// The sending replica.
    pub from: u64,
    /// The replica it is for.
    pub to: u64,
}

impl Address {
    /// The control group's number.
    pub const CONTROL: u16 = u16::MAX;
}

/// A Raft message and its address.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RaftEnvelope {
    /// Whom it is for. Dropped when group generation or replica do not match.
    pub address: Address,
    /// The message in raft-rs' protobuf form.
    pub message: Vec<u8>,
}

/// Session changes on their way to the leader of their shard.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Forward {
    /// The shard.
    pub shard: u16,
    /// A [`ChangeBatch`] frame.
    pub batch: Vec<u8>,
}

/// A best-effort message between node layers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeMessage {
    /// Whatever the node layer says.
    pub body: Vec<u8>,
}

/// Young sessions of the sender, for one of their homes ([`crate::homes`]).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Register {
    /// The membership epoch that the sender goes by.
    pub epoch: u64,
    /// The sender's life.
    pub incarnation: u64,
    /// Counts these messages to this home, from 0.
    pub number: u64,
    /// Whoever has every message from this number on has been told everything.
    pub told: Option<u64>,
    /// The sessions.
    pub records: Vec<SessionRecord>,
}

/// A home's answer to a [`Register`], where there is something to answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Registration {
    /// Sessions that somebody else had registered before, from the same opening of the client.
    pub twins: Vec<SessionRecord>,
    /// Messages before this number were missed: everything has to be said again.
    pub resync: Option<u64>,
}

/// Announces a snapshot; its chunks follow.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotHeader {
    /// Whom it is for.
    pub address: Address,
    /// The Raft message (MsgSnapshot) with empty data, in protobuf form.
    pub message: Vec<u8>,
    /// Bytes of the [`super::disk::MachineImage`] frame that the chunks make up.
    pub length: u64,
}

/// A question to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// Whether you have the session this packet belongs to.
    Miss {
        /// Either direction of it.
        key: FlowKey,
        /// Its shard: answer for the shard if you lead it.
        shard: u16,
    },
    /// Propose this; you lead the control group.
    Control(Box<Proposal>),
    /// Commit a no-op through these shards that you lead.
    Barrier {
        /// The shards.
        shards: Vec<u16>,
    },
    /// How far you have applied the shards.
    Applied,
    /// How your replicas of the shards' groups are configured.
    Forms,
    /// Let this director join; you lead the control group.
    Join(Box<JoinAsk>),
    /// A question to the node layer.
    Node {
        /// Whatever the node layer says.
        body: Vec<u8>,
    },
}

/// An answer to a [`Request`].
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub enum Response {
    /// I have it.
    Found(Box<SessionRecord>),
    /// I know that I do not have it.
    No {
        /// And I led its shard, confirmed by a quorum after the question came.
        as_leader: bool,
        /// And every live director has told me all its young sessions that I am a home of.
        as_home: bool,
    },
    /// I cannot be sure.
    DontKnow,
    /// What came of a control command.
    Outcome(ControlOutcome),
    /// I do not lead; this one does, as far as I know.
    NotLeader(Option<DirectorId>),
    /// The index of each no-op, 0 for shards that I do not lead.
    Barrier(Vec<u64>),
    /// Index applied per shard.
    Applied(Vec<u64>),
    /// One per shard.
    Forms(Vec<Form>),
    /// What the joining director is to be told.
    Join(Box<JoinAnswer>),
    /// The node layer's answer.
    Node {
        /// Whatever the node layer says.
        body: Vec<u8>,
    },
    /// It went wrong.
    Failed(String),
}

/// How a replica's group is configured, as far as the replica knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Form {
    /// The generation of the group that this replica is in.
    pub generation: u32,
    /// Index applied by this replica.
    pub applied: u64,
    /// The voters at that index; in a joint configuration those to come.
    pub voters: Vec<u64>,
    /// The other half of a joint configuration: the voters before.
    pub outgoing: Vec<u64>,
}

impl Form {
    /// The halves of a joint configuration, or the one there is. Each has to have a majority.
    pub fn halves(&self) -> impl Iterator<Item = &[u64]> {
        [&self.voters[..], &self.outgoing].into_iter().filter(|half| !half.is_empty())
    }
}

/// A control command on its way into the log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Proposal {
    /// Makes repetitions recognisable.
    pub request: RequestId,
    /// The command.
    pub command: ControlCommand,
    /// `Started` only: the incarnation that the sender's disk counts.
    pub incarnation: u64,
}

/// A joining director's request, sealed in TLS to a member whose CA it has checked.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct JoinAsk {
    /// Repeats of one attempt are one attempt.
    pub request: RequestId,
    /// The slot's name; also the director's.
    pub name: String,
    /// The token's secret.
    pub secret: [u8; 32],
    /// Where peers reach the joiner.
    pub address: SocketAddr,
    /// Its signing request (DER): public key and proof of the private one.
    pub signing_request: Vec<u8>,
    /// Prefixes directly connected to it.
    pub connected: Vec<Prefix>,
    /// How often members have passed this on already.
    pub hops: u8,
}

/// What a joining director is told.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum JoinAnswer {
    /// Welcome.
    Welcome {
        /// Its number.
        director: DirectorId,
        /// Its certificate and the authority's (PEM).
        chain_pem: String,
        /// The cluster as the leader has it, without the CA's key.
        cluster: Box<ClusterState>,
        /// Generation of each shard.
        generations: Vec<u32>,
    },
    /// No.
    Refused(String),
    /// Try again shortly: no leader, or not in time.
    Again(String),
}

/// An entry of a session group's log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ShardEntry {
    /// What the shard's clock advances by before the changes are applied.
    pub elapsed_ms: u32,
    /// [`ChangeBatch`] frames, opaque on their way through the log.
    pub batches: Vec<Vec<u8>>,
}

/// Session changes of one director.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ChangeBatch {
    /// In order.
    pub changes: Vec<SessionChange>,
}

/// An entry of the control group's log.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ControlEntry {
    /// A command of somebody.
    Command(Box<Proposal>),
    /// Begins a new generation of a shard whose voters are lost.
    Reform {
        /// The shard.
        shard: u16,
        /// The generation it ends; another one: nothing happens.
        ends: u32,
        /// The director whose replica is the first voter of the new generation.
        voter: DirectorId,
    },
}
