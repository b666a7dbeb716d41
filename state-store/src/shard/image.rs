//! A shard as records: what checkpoints and snapshots hold.

use std::collections::BTreeMap;

use holdfast_schema::flow::FlowKey;

use super::Shard;
use crate::codec::disk::{self, ShardMeta, StoredSession};
use crate::codec::{self, CodecError};

/// Key of the record that holds [`ShardMeta`]; sessions have longer keys.
const META: &[u8] = b"m";

/// First byte of the keys of [`disk::Tombs`]; the second follows, big endian.
const TOMBS: u8 = b't';

fn tombs_key(second: u64) -> Vec<u8> {
    let mut out = vec![TOMBS];
    out.extend_from_slice(&second.to_be_bytes());
    out
}

fn tombs_record(tombs: &[disk::Tomb]) -> Vec<u8> {
    codec::encode(&disk::Tombs { tombs: tombs.to_vec() })
}

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
        // The order of a hash map differs from run to run.
        records.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let seconds = std::mem::take(&mut self.dirty_tombs).into_iter();
        records
            .extend(seconds.map(|s| (tombs_key(s), self.tombs.second(s).map(|t| tombs_record(t)))));
        records.push((META.to_vec(), Some(self.meta())));
        Dirty { replaced, records }
    }

    /// The whole shard as records.
    pub fn image(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let sessions = self.table.iter().map(|s| (session_key(&s.record.key), codec::encode(s)));
        let tombs = self.tombs.iter().map(|(s, t)| (tombs_key(s), tombs_record(t)));
        sessions.chain(tombs).chain(std::iter::once((META.to_vec(), self.meta()))).collect()
    }

    /// A shard from its records.
    pub fn load(
        records: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Shard, CodecError> {
        let mut shard = Shard::new();
        let mut tombs = BTreeMap::new();
        for (key, value) in records {
            if key == META {
                shard.clock_ms = codec::decode::<ShardMeta>(&value)?.clock_ms;
            } else if let Some((&TOMBS, second)) = key.split_first()
                && let Ok(second) = second.try_into()
            {
                let record = codec::decode::<disk::Tombs>(&value)?;
                tombs.insert(u64::from_be_bytes(second), record.tombs);
            } else {
                shard.table.insert(codec::decode::<StoredSession>(&value)?);
            }
        }
        tombs.into_iter().for_each(|(second, tombs)| shard.tombs.load(second, tombs));
        Ok(shard)
    }

    /// Takes over another shard's content (a snapshot's); the next checkpoint replaces everything.
    pub fn replace_with(&mut self, other: Shard) {
        self.table.clear();
        *self = Shard {
            replaced: true,
            #[cfg(any(test, feature = "simulation"))]
            without_incarnations: self.without_incarnations,
            ..other
        };
        let keys: Vec<FlowKey> = self.table.iter().map(|s| s.record.key).collect();
        self.dirty.extend(keys);
        self.dirty_tombs.extend(self.tombs.iter().map(|(second, _)| second));
    }
}
