//! The one module that knows the byte format of everything on the wire and on disk.
//!
//! Every message and record is a frame: `type u16, version u16, length u32` (little endian), then
//! `length` bytes of bincode (legacy configuration: fixed-width integers). A reader that meets an
//! unknown type or a newer version says so; it never guesses and never skips.

pub mod disk;
pub mod wire;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};

/// The largest frame body that is read or written.
pub const MAX_BODY: usize = 512 << 20;

/// The largest body that is read of a frame that anybody may send ([`Framed::STRANGERS`]).
pub const MAX_STRANGERS_BODY: usize = 64 << 10;

const HEADER: usize = 8;

type Config = Configuration<LittleEndian, Fixint, Limit<MAX_BODY>>;
const CONFIG: Config = bincode::config::legacy().with_limit::<MAX_BODY>();

/// bincode allocates what a length claims as long as it is within the limit: somebody without a
/// certificate must not make it claim much.
const STRANGERS_CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_STRANGERS_BODY>> =
    bincode::config::legacy().with_limit::<MAX_STRANGERS_BODY>();

/// The types of frame. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// [`wire::RaftBatch`]
    RaftBatch = 0x4801,
    /// [`wire::Forward`]
    Forward = 0x4802,
    /// [`wire::NodeMessage`]
    NodeMessage = 0x4803,
    /// [`wire::Request`]
    Request = 0x4804,
    /// [`wire::Response`]
    Response = 0x4805,
    /// [`wire::SnapshotHeader`]
    SnapshotHeader = 0x4806,
    /// [`wire::JoinAsk`]
    JoinAsk = 0x4808,
    /// [`wire::JoinAnswer`]
    JoinAnswer = 0x4809,
    /// [`wire::Register`]
    Register = 0x480a,
    /// [`wire::Registration`]
    Registration = 0x480b,
    /// [`wire::ShardEntry`]
    ShardEntry = 0x4820,
    /// [`wire::ChangeBatch`]
    ChangeBatch = 0x4821,
    /// [`wire::ControlEntry`]
    ControlEntry = 0x4822,
    /// [`disk::StoredSession`]
    StoredSession = 0x4840,
    /// [`disk::ShardMeta`]
    ShardMeta = 0x4841,
    /// [`disk::ControlRecord`]
    ControlRecord = 0x4842,
    /// [`disk::GroupMeta`]
    GroupMeta = 0x4843,
    /// [`disk::Identity`]
    Identity = 0x4844,
    /// [`disk::MachineImage`]
    MachineImage = 0x4845,
    /// [`disk::Tombs`]
    Tombs = 0x4846,
}

/// Why bytes are not the expected frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Fewer bytes than the header announces.
    #[error("frame is cut short: {have} bytes of {want}")]
    Short {
        /// Bytes there.
        have: usize,
        /// Bytes announced.
        want: usize,
    },
    /// Bytes behind the frame.
    #[error("{0} bytes behind the frame")]
    Trailing(usize),
    /// Another type of frame.
    #[error("frame type {found:#06x} where {expected:?} was expected")]
    Type {
        /// The type found.
        found: u16,
        /// The type expected.
        expected: Kind,
    },
    /// A version this build does not know.
    #[error("{kind:?} of version {found}, this build reads up to {known}: upgrade this director")]
    Version {
        /// The type.
        kind: Kind,
        /// The version found.
        found: u16,
        /// The newest known version.
        known: u16,
    },
    /// The body does not decode.
    #[error("{kind:?} does not decode: {cause}")]
    Body {
        /// The type.
        kind: Kind,
        /// What bincode said.
        cause: String,
    },
}

/// A type with a frame of its own.
pub trait Framed: bincode::Encode + bincode::Decode<()> {
    /// Its type number.
    const KIND: Kind;
    /// The version this build writes; the only one it reads.
    const VERSION: u16 = 1;
    /// Whether it comes from somebody who has shown no certificate.
    const STRANGERS: bool = false;
}

/// The frame of a value.
///
/// Values are made by this program and fit; should one ever pass [`MAX_BODY`], its readers say so.
pub fn encode<T: Framed>(value: &T) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    bincode::encode_into_std_write(value, &mut out, CONFIG)
        .expect("encoding into memory fails only when memory does");
    let length = (out.len() - HEADER) as u32;
    out[0..2].copy_from_slice(&(T::KIND as u16).to_le_bytes());
    out[2..4].copy_from_slice(&T::VERSION.to_le_bytes());
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out
}

/// The value of a frame.
pub fn decode<T: Framed>(bytes: &[u8]) -> Result<T, CodecError> {
    let (kind, version, body) = split(bytes)?;
    if kind != T::KIND as u16 {
        return Err(CodecError::Type { found: kind, expected: T::KIND });
    }
    if version != T::VERSION {
        return Err(CodecError::Version { kind: T::KIND, found: version, known: T::VERSION });
    }
    let decoded = match T::STRANGERS {
        true => bincode::decode_from_slice(body, STRANGERS_CONFIG),
        false => bincode::decode_from_slice(body, CONFIG),
    };
    let (value, used) =
        decoded.map_err(|e| CodecError::Body { kind: T::KIND, cause: e.to_string() })?;
    if used != body.len() {
        return Err(CodecError::Trailing(body.len() - used));
    }
    Ok(value)
}

/// Whether these bytes begin like a frame of `T`'s type (whatever its version).
pub fn is<T: Framed>(bytes: &[u8]) -> bool {
    bytes.get(0..2) == Some(&(T::KIND as u16).to_le_bytes())
}

fn split(bytes: &[u8]) -> Result<(u16, u16, &[u8]), CodecError> {
    let header: &[u8; HEADER] =
        bytes.first_chunk().ok_or(CodecError::Short { have: bytes.len(), want: HEADER })?;
    let [k0, k1, v0, v1, l0, l1, l2, l3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let body = &bytes[HEADER..];
    if body.len() < length {
        return Err(CodecError::Short { have: bytes.len(), want: HEADER + length });
    }
    if body.len() > length {
        return Err(CodecError::Trailing(body.len() - length));
    }
    Ok((u16::from_le_bytes([k0, k1]), u16::from_le_bytes([v0, v1]), body))
}

#[cfg(test)]
mod tests {
    use holdfast_schema::cluster::RequestId;

    use super::wire::{ChangeBatch, Forward, JoinAsk, NodeMessage};
    use super::*;

    #[test]
    fn a_frame_comes_back() {
        let frame = encode(&NodeMessage { body: vec![1, 2, 3] });
        assert!(is::<NodeMessage>(&frame));
        assert_eq!(decode::<NodeMessage>(&frame).unwrap().body, [1, 2, 3]);
    }

    #[test]
    fn the_format_is_pinned() {
        // Directors of two versions read each other's frames, and disks outlive versions.
        let frame = encode(&NodeMessage { body: vec![9] });
        assert_eq!(frame, [0x03, 0x48, 1, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn foreign_frames_are_named() {
        let mut frame = encode(&NodeMessage { body: vec![] });
        assert!(matches!(decode::<Forward>(&frame), Err(CodecError::Type { found: 0x4803, .. })));
        frame[2] = 7;
        let error = decode::<NodeMessage>(&frame).unwrap_err();
        assert_eq!(
            error.to_string(),
            "NodeMessage of version 7, this build reads up to 1: upgrade this director"
        );
    }

    #[test]
    fn hostile_lengths_are_errors() {
        let frame = encode(&NodeMessage { body: vec![5; 40] });
        for cut in 0..frame.len() {
            assert!(decode::<NodeMessage>(&frame[..cut]).is_err());
        }
        let mut long = frame.clone();
        long.push(0);
        assert_eq!(decode::<NodeMessage>(&long).unwrap_err(), CodecError::Trailing(1));
        // A vector that claims more elements than bytes exist must fail without allocating them.
        let mut liar = encode(&ChangeBatch { changes: vec![] });
        liar[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<ChangeBatch>(&liar), Err(CodecError::Body { .. })));
    }

    #[test]
    fn a_stranger_cannot_claim_much_memory() {
        let ask = |signing_request| JoinAsk {
            request: RequestId(1),
            name: "d2".to_owned(),
            secret: [7; 32],
            address: "192.0.2.1:7400".parse().unwrap(),
            signing_request,
            connected: Vec::new(),
            hops: 0,
        };
        let frame = encode(&ask(vec![5; 1_000]));
        assert_eq!(decode::<JoinAsk>(&frame).unwrap().signing_request.len(), 1_000);
        // The request that claims 100 MB in a frame of a kilobyte.
        let mut liar = frame;
        let at = liar.windows(8).position(|w| w == 1_000u64.to_le_bytes()).unwrap();
        liar[at..at + 8].copy_from_slice(&(100u64 << 20).to_le_bytes());
        let error = decode::<JoinAsk>(&liar).unwrap_err().to_string();
        assert!(error.contains("LimitExceeded"), "refused before it is allocated: {error}");
    }
}
