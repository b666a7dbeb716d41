//! Messages on their way out: those of all groups to one peer travel together.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::driver::Peers;
use crate::codec;
use crate::codec::wire::{Address, RaftBatch, RaftEnvelope};
use crate::peer::Lane;

/// Bytes of messages after which a batch is sent without waiting for more.
const BATCH_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Waiting {
    batch: RaftBatch,
    bytes: usize,
}

/// Collects messages until they are flushed.
pub struct Outbox {
    peers: Arc<dyn Peers>,
    waiting: BTreeMap<(DirectorId, Lane), Waiting>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(peers: Arc<dyn Peers>) -> Outbox {
        Outbox { peers, waiting: BTreeMap::new() }
    }

    /// Adds a message. (Snapshots go another way.)
    pub fn add(&mut self, to: DirectorId, address: Address, message: &Message) {
        let Ok(bytes) = message.write_to_bytes() else { return };
        // What keeps a leader a leader must not wait behind a megabyte of entries.
        let lane = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgAppendResponse => Lane::Log,
            _ => Lane::Control,
        };
        let waiting = self.waiting.entry((to, lane)).or_default();
        waiting.bytes += bytes.len();
        waiting.batch.messages.push(RaftEnvelope { address, message: bytes });
        if waiting.bytes > BATCH_BYTES {
            let full = std::mem::take(waiting);
            self.peers.send(to, lane, Bytes::from(codec::encode(&full.batch)));
        }
    }

    /// Sends what waits.
    pub fn flush(&mut self) {
        for ((to, lane), waiting) in std::mem::take(&mut self.waiting) {
            if !waiting.batch.messages.is_empty() {
                self.peers.send(to, lane, Bytes::from(codec::encode(&waiting.batch)));
            }
        }
    }
}
