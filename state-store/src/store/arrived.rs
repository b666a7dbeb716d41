//! What a message of a peer means to the groups here.

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use protobuf::Message as _;
use raft::eraftpb::Message;

use crate::codec::wire::{Address, Forward, RaftBatch, SnapshotHeader};
use crate::codec::{self, CodecError};
use crate::raft::Input;

/// What a message has for the drivers.
#[derive(Default)]
pub struct Arrived {
    /// For the control group's.
    pub control: Option<Input>,
    /// For that of the session groups.
    pub sessions: Option<Input>,
}

/// Sorts a message; none: it is not for the groups.
pub fn message(from: DirectorId, message: &[u8]) -> Result<Option<Arrived>, CodecError> {
    if codec::is::<RaftBatch>(message) {
        let batch: RaftBatch = codec::decode(message)?;
        let (control, shards): (Vec<_>, Vec<_>) =
            batch.messages.into_iter().partition(|m| m.address.group == Address::CONTROL);
        let input = |messages: Vec<_>| (!messages.is_empty()).then(|| Input::Raft(from, messages));
        Ok(Some(Arrived { control: input(control), sessions: input(shards) }))
    } else if codec::is::<Forward>(message) {
        let Forward { shard, batch } = codec::decode(message)?;
        let sessions = Some(Input::Forwarded(shard, batch));
        Ok(Some(Arrived { control: None, sessions }))
    } else {
        Ok(None)
    }
}

/// Reads a snapshot: the group it is for, and what its driver is to be told.
pub fn snapshot(from: DirectorId, header: &[u8], image: Bytes) -> Result<(u16, Input), String> {
    let header: SnapshotHeader = codec::decode(header).map_err(|e| e.to_string())?;
    if header.length != image.len() as u64 {
        return Err(format!("{} bytes came of {}", image.len(), header.length));
    }
    let mut message = Box::new(Message::default());
    message.merge_from_bytes(&header.message).map_err(|e| e.to_string())?;
    Ok((header.address.group, Input::Snapshot(from, header.address, message, image)))
}
