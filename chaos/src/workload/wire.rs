//! The frame of the echo services, TCP and UDP alike: 52 bytes of header, then the payload.
//!
//! ```text
//! "HFW1" | kind 1 | name length 1 | 0 2 | sequence 8 | name 16 | source IPv4 4, port 2, 0 2 | length 4 | check 8
//! ```
//! Numbers are big-endian. `check` is FNV-1a (64 bits) over the rest of the header and the payload:
//! TCP's and UDP's own checksums are rewritten on the way, this one is not.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of a frame before its payload.
pub const HEADER: usize = 52;
/// Most bytes of payload.
pub const MAX_PAYLOAD: usize = 4096;
/// Most bytes of a backend's name.
pub const MAX_NAME: usize = 16;

const MAGIC: &[u8; 4] = b"HFW1";

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Answer this.
    Ask,
    /// The answer: same sequence number and payload, and the backend's name.
    Answer,
    /// UDP: begin to send me datagrams of your own; the sequence number is the interval in ms.
    Subscribe,
    /// UDP: such a datagram.
    Push,
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub seq: u64,
    /// The backend's name; empty from clients.
    pub name: String,
    /// The source address that the backend saw.
    pub source: SocketAddrV4,
    /// Anything.
    pub payload: Vec<u8>,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Not ours, or out of step.
    #[error("not a frame")]
    Magic,
    /// A field that cannot be.
    #[error("a malformed frame")]
    Malformed,
    /// Damaged on the way.
    #[error("the frame's checksum is wrong")]
    Check,
}

fn fnv(parts: [&[u8]; 2]) -> u64 {
    parts.iter().flat_map(|p| p.iter()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Frame {
    /// A client's frame.
    pub fn ask(kind: Kind, seq: u64, payload: Vec<u8>) -> Frame {
        let source = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Frame { kind, seq, name: String::new(), source, payload }
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let name = &self.name.as_bytes()[..self.name.len().min(MAX_NAME)];
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        out.extend(MAGIC);
        out.push(match self.kind {
            Kind::Ask => 1,
            Kind::Answer => 2,
            Kind::Subscribe => 3,
            Kind::Push => 4,
        });
        out.push(name.len() as u8);
        out.extend([0; 2]);
        out.extend(self.seq.to_be_bytes());
        out.extend(name);
        out.resize(32, 0);
        out.extend(self.source.ip().octets());
        out.extend(self.source.port().to_be_bytes());
        out.extend([0; 2]);
        out.extend((self.payload.len() as u32).to_be_bytes());
        out.extend(fnv([&out, &self.payload]).to_be_bytes());
        out.extend(&self.payload);
        out
    }

    /// How long the payload behind this header is.
    pub fn payload_len(header: &[u8; HEADER]) -> Result<usize, WireError> {
        if &header[..4] != MAGIC {
            return Err(WireError::Magic);
        }
        let length = u32::from_be_bytes([header[40], header[41], header[42], header[43]]) as usize;
        if length > MAX_PAYLOAD { Err(WireError::Malformed) } else { Ok(length) }
    }

    /// Reads a whole frame.
    pub fn decode(bytes: &[u8]) -> Result<Frame, WireError> {
        let (header, payload) = bytes.split_first_chunk::<HEADER>().ok_or(WireError::Magic)?;
        if Frame::payload_len(header)? != payload.len() {
            return Err(WireError::Malformed);
        }
        let number = |at: usize| {
            let bytes: [u8; 8] = header[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        if number(44) != fnv([&header[..44], payload]) {
            return Err(WireError::Check);
        }
        let kind = match header[4] {
            1 => Kind::Ask,
            2 => Kind::Answer,
            3 => Kind::Subscribe,
            4 => Kind::Push,
            _ => return Err(WireError::Malformed),
        };
        let length = usize::from(header[5]);
        let name = header[16..32].get(..length).ok_or(WireError::Malformed)?;
        let name = std::str::from_utf8(name).map_err(|_| WireError::Malformed)?.to_owned();
        let ip = Ipv4Addr::new(header[32], header[33], header[34], header[35]);
        let source = SocketAddrV4::new(ip, u16::from_be_bytes([header[36], header[37]]));
        Ok(Frame { kind, seq: number(8), name, source, payload: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            Just(Kind::Ask),
            Just(Kind::Answer),
            Just(Kind::Subscribe),
            Just(Kind::Push)
        ];
        (
            kind,
            any::<u64>(),
            "[a-z0-9]{0,16}",
            any::<(u32, u16)>(),
            prop::collection::vec(0u8.., 0..300),
        )
            .prop_map(|(kind, seq, name, (ip, port), payload)| Frame {
                kind,
                seq,
                name,
                source: SocketAddrV4::new(ip.into(), port),
                payload,
            })
    }

    proptest! {
        #[test]
        fn there_and_back(frame in frame()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn one_flipped_bit_is_noticed(frame in frame(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = frame.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Frame::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_data(bytes in prop::collection::vec(0u8.., 0..200)) {
            Frame::decode(&bytes).ok();
        }
    }
}
