//! A shard as records: what checkpoints and snapshots hold.

use holdfast_schema::flow::FlowKey;

use super::Shard;
use crate::codec::disk::{ShardMeta, StoredSession};
use crate::codec::{self, CodecError};

/// Key of the record that holds [`ShardMeta`]; sessions have longer keys.
const META: &[u8] = b"m";

/// What changed since the last checkpoint.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// Everything that was stored before is void.
    pub replaced: bool,
    /// Records by key; none: the record is gone.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn session_key(key: &FlowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(38);
    out.push(b's');
    out.push(key.protocol.number());
    out.extend_from_slice(&key.src.0);
    out.extend_from_slice(&key.src_port.to_be_bytes());
    out.extend_from_slice(&key.dst.0);
    out.extend_from_slice(&key.dst_port.to_be_bytes());
    out
}

impl Shard {
    fn meta(&self) -> Vec<u8> {
        codec::encode(&ShardMeta { clock_ms: self.clock_ms })
    }

    /// What changed since this was last asked.
    pub fn take_dirty(&mut self) -> Dirty {
        let replaced = std::mem::take(&mut self.replaced);
        let mut records: Vec<_> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|key| (session_key(&key), self.table.get(&key).map(codec::encode)))
            .collect();
        records.push((META.to_vec(), Some(self.meta())));
        Dirty { replaced, records }
    }

    /// The whole shard as records.
    pub fn image(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let sessions = self.table.iter().map(|s| (session_key(&s.record.key), codec::encode(s)));
        sessions.chain(std::iter::once((META.to_vec(), self.meta()))).collect()
    }

    /// A shard from its records.
    pub fn load(
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Shard, CodecError> {
        let mut shard = Shard::new();
        for (key, value) in records {
            if key == META {
                shard.clock_ms = codec::decode::<ShardMeta>(&value)?.clock_ms;
            } else {
                shard.table.insert(codec::decode::<StoredSession>(&value)?);
            }
        }
        Ok(shard)
    }

    /// Takes over another shard's content (a snapshot's); the next checkpoint replaces everything.
    pub fn replace_with(&mut self, other: Shard) {
        self.table.clear();
        *self = Shard { replaced: true, ..other };
        let keys: Vec<FlowKey> = self.table.iter().map(|s| s.record.key).collect();
        self.dirty.extend(keys);
    }
}
