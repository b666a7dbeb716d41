//! The bytes on the wire. Numbers are big-endian. Hostile bytes are data, not bugs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_schema::cluster::DirectorId;

use crate::liveness::{Seen, View};

/// ALPN of connections between members.
pub const ALPN_PEER: &[u8] = b"hf-peer/1";
/// ALPN of those who want to become one.
pub const ALPN_JOIN: &[u8] = b"hf-join/1";

/// Version of everything behind the ALPN.
pub const VERSION: u16 = 1;

/// Kinds of stream: the first byte of each.
pub(super) mod kind {
    pub(in crate::peer) const HELLO: u8 = 1;
    pub(in crate::peer) const MESSAGES: u8 = 2;
    pub(in crate::peer) const HEARTBEAT: u8 = 3;
    pub(in crate::peer) const REQUEST: u8 = 4;
    pub(in crate::peer) const SNAPSHOT: u8 = 5;
}

/// First byte of an answer.
pub(super) mod status {
    pub(in crate::peer) const OK: u8 = 0;
    pub(in crate::peer) const ERROR: u8 = 1;
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    /// Heartbeats, misses, calls.
    Control = 0,
    /// Raft messages, proposals.
    Log = 1,
    /// One snapshot.
    Snapshot = 2,
}

impl Purpose {
    fn from_byte(byte: u8) -> Option<Purpose> {
        match byte {
            0 => Some(Purpose::Control),
            1 => Some(Purpose::Log),
            2 => Some(Purpose::Snapshot),
            _ => None,
        }
    }

    /// The word for it in messages and labels.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Control => "control",
            Purpose::Log => "log",
            Purpose::Snapshot => "snapshot",
        }
    }
}

/// Why bytes make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("it is cut off")]
    Short,
    /// They go on behind their end.
    #[error("it goes on behind its end")]
    Long,
    /// Another version.
    #[error("it has version {0}, we speak {VERSION}")]
    Version(u16),
    /// A value that is none.
    #[error("its {0} has an impossible value")]
    Value(&'static str),
    /// Too large.
    #[error("its {0} bytes are above the limit")]
    TooLarge(usize),
}

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Malformed {
        Malformed::Short
    }
}

fn expect_end(rest: &[u8]) -> Result<(), Malformed> {
    if rest.is_empty() { Ok(()) } else { Err(Malformed::Long) }
}

/// What each side says first. The dialer's stands behind [`kind::HELLO`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) director: DirectorId,
    pub(super) purpose: Purpose,
}

/// Length of an encoded [`Hello`].
pub(super) const HELLO_LEN: usize = 7;

impl Hello {
    pub(super) fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        let mut to = bytes.as_mut_slice();
        to.put_u16(VERSION);
        to.put_u32(self.director.0);
        to.put_u8(self.purpose as u8);
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Hello, Malformed> {
        let version = bytes.try_get_u16()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let director = DirectorId(bytes.try_get_u32()?);
        let purpose = Purpose::from_byte(bytes.try_get_u8()?).ok_or(Malformed::Value("purpose"))?;
        expect_end(bytes)?;
        Ok(Hello { director, purpose })
    }
}

/// A heartbeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heartbeat {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) views: Vec<View>,
    pub(super) payload: Bytes,
}

/// The largest heartbeat (bytes).
pub(super) const MAX_HEARTBEAT: usize = 64 << 10;

/// The most views in a heartbeat.
const MAX_VIEWS: usize = 1_024;

/// The largest payload of a heartbeat (bytes): leaves room for the views.
pub(super) const MAX_HEARTBEAT_PAYLOAD: usize = MAX_HEARTBEAT - 32 - MAX_VIEWS * VIEW_LEN;

const VIEW_LEN: usize = 17;

impl Heartbeat {
    pub(super) fn encode(&self) -> Bytes {
        let views = &self.views[..self.views.len().min(MAX_VIEWS)];
        let mut to = BytesMut::with_capacity(32 + views.len() * VIEW_LEN + self.payload.len());
        to.put_u8(kind::HEARTBEAT);
        to.put_u16(VERSION);
        to.put_u64(self.incarnation);
        to.put_u64(self.sequence);
        to.put_u16(views.len() as u16);
        for view in views {
            to.put_u32(view.subject.0);
            to.put_u64(view.incarnation);
            let (seen, age) = match view.seen {
                Seen::Heard(age) => (0, age),
                Seen::Missed => (1, 0),
                Seen::Blind => (2, 0),
            };
            to.put_u8(seen);
            to.put_u32(age);
        }
        to.put_slice(&self.payload);
        to.freeze()
    }

    /// Reads what stands behind the kind byte.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Heartbeat, Malformed> {
        let version = bytes.try_get_u16()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let incarnation = bytes.try_get_u64()?;
        let sequence = bytes.try_get_u64()?;
        let count = usize::from(bytes.try_get_u16()?);
        if count > MAX_VIEWS {
            return Err(Malformed::Value("number of views"));
        }
        let mut views = Vec::with_capacity(count);
        for _ in 0..count {
            let subject = DirectorId(bytes.try_get_u32()?);
            let incarnation = bytes.try_get_u64()?;
            let (seen, age) = (bytes.try_get_u8()?, bytes.try_get_u32()?);
            let seen = match seen {
                0 => Seen::Heard(age),
                1 => Seen::Missed,
                2 => Seen::Blind,
                _ => return Err(Malformed::Value("view")),
            };
            views.push(View { subject, incarnation, seen });
        }
        Ok(Heartbeat { incarnation, sequence, views, payload: bytes })
    }
}

/// Takes the next whole frame (length, bytes) from the front of `buffer`; none: more has to come.
pub(super) fn take_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > limit {
        return Err(Malformed::TooLarge(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Header of a request, behind its kind: deadline (ms) and length. The length tells a request that
/// was cut off from a whole one (a stream that is dropped halfway looks finished).
pub(super) fn request_header(deadline_ms: u32, length: usize) -> Bytes {
    let mut to = BytesMut::with_capacity(9);
    to.put_u8(kind::REQUEST);
    to.put_u32(deadline_ms);
    to.put_u32(length as u32);
    to.freeze()
}

/// Length of what stands between a request's kind and its body.
pub(super) const REQUEST_HEADER_LEN: usize = 8;

/// Stands in the place of a chunk's length behind the last chunk of a snapshot.
pub(super) const SNAPSHOT_END: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn views() -> impl Strategy<Value = Vec<View>> {
        let seen =
            prop_oneof![any::<u32>().prop_map(Seen::Heard), Just(Seen::Missed), Just(Seen::Blind)];
        let view = (any::<u32>(), any::<u64>(), seen);
        proptest::collection::vec(
            view.prop_map(|(id, incarnation, seen)| View {
                subject: DirectorId(id),
                incarnation,
                seen,
            }),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn heartbeats_come_back(
            incarnation: u64, sequence: u64, views in views(), payload: Vec<u8>,
        ) {
            let beat = Heartbeat { incarnation, sequence, views, payload: payload.into() };
            let bytes = beat.encode();
            prop_assert_eq!(bytes[0], kind::HEARTBEAT);
            prop_assert_eq!(Heartbeat::decode(bytes.slice(1..)), Ok(beat));
        }

        #[test]
        fn frames_come_back_however_they_are_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10),
            cut in 1usize..30,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.put_u32(frame.len() as u32);
                stream.put_slice(frame);
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take_frame(&mut buffer, 50).unwrap() {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Hello::decode(&bytes);
            let _ = Heartbeat::decode(bytes.clone().into());
            let _ = take_frame(&mut BytesMut::from(bytes.as_slice()), 100);
        }
    }

    #[test]
    fn hello_comes_back_and_another_version_is_named() {
        let hello = Hello { director: DirectorId(9), purpose: Purpose::Snapshot };
        let mut bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        assert_eq!(Hello::decode(&bytes[..6]), Err(Malformed::Short));
        bytes[1] = 2;
        assert_eq!(Hello::decode(&bytes), Err(Malformed::Version(2)));
    }

    #[test]
    fn the_largest_heartbeat_fits() {
        let view = View { subject: DirectorId(1), incarnation: 1, seen: Seen::Missed };
        let beat = Heartbeat {
            incarnation: 1,
            sequence: 1,
            views: vec![view; MAX_VIEWS + 5],
            payload: vec![0; MAX_HEARTBEAT_PAYLOAD].into(),
        };
        assert!(beat.encode().len() <= MAX_HEARTBEAT);
    }

    #[test]
    fn a_frame_above_the_limit_is_an_error_before_it_arrives() {
        let mut buffer = BytesMut::from(&101u32.to_be_bytes()[..]);
        assert_eq!(take_frame(&mut buffer, 100), Err(Malformed::TooLarge(101)));
    }
}
