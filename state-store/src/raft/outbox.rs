//! Messages on their way out: those of all groups to one peer travel together.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use crate::codec;
use crate::codec::wire::{Address, RaftBatch, RaftEnvelope};
use crate::peer::Lane;
use crate::transport::Transport;

/// Bytes of messages after which a batch is sent without waiting for more.
const BATCH_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Waiting {
    batch: RaftBatch,
    bytes: usize,
}

/// Collects messages until they are flushed.
pub struct Outbox {
    transport: Arc<dyn Transport>,
    waiting: HashMap<(DirectorId, Lane), Waiting>,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(transport: Arc<dyn Transport>) -> Outbox {
        Outbox { transport, waiting: HashMap::new() }
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
            self.transport.send(to, lane, Bytes::from(codec::encode(&full.batch)));
        }
    }

    /// Sends what waits.
    pub fn flush(&mut self) {
        for ((to, lane), waiting) in self.waiting.drain() {
            if !waiting.batch.messages.is_empty() {
                self.transport.send(to, lane, Bytes::from(codec::encode(&waiting.batch)));
            }
        }
    }
}
