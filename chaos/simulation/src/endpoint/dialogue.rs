//! What the two ends of a connection say to each other. The client's first bytes, the preamble, tell
//! the backend; everything else follows from it, so that both ends know what has to come.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::event::ConnectionId;
use super::payload::{self, Direction};
use crate::rng::mix;

/// Bytes of the preamble, which is at the beginning of the first request.
pub const PREAMBLE_LEN: usize = 48;

/// Bytes of the head of every response.
pub const HEAD_LEN: usize = 16;

const MAGIC: [u8; 4] = *b"hfS1";

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Volume {
    /// Requests and responses of some hundred bytes, which fit into datagrams.
    Small,
    /// Large requests, small responses.
    Up,
    /// Small requests, large responses.
    Down,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The client closes when it has the last response.
    ClientCloses,
    /// The backend closes behind its last response.
    BackendCloses,
    /// The client closes behind its last request and gets the responses on the half-closed connection.
    HalfClose,
    /// Both close at about the same time, the client a moment after its last request.
    Simultaneous,
    /// The client resets when it has the last response.
    Reset,
    /// The client resets in the middle of the last response.
    ResetInResponse,
    /// The client falls silent behind its last request.
    Vanish,
}

const ENDINGS: [Ending; 7] = [
    Ending::ClientCloses,
    Ending::BackendCloses,
    Ending::HalfClose,
    Ending::Simultaneous,
    Ending::Reset,
    Ending::ResetInResponse,
    Ending::Vanish,
];
const VOLUMES: [Volume; 3] = [Volume::Small, Volume::Up, Volume::Down];

impl Ending {
    /// Whether the backend closes when it has answered everything.
    #[must_use]
    pub fn backend_closes(self) -> bool {
        matches!(self, Ending::BackendCloses | Ending::Simultaneous)
    }

    /// Whether the client resets.
    #[must_use]
    pub fn client_resets(self) -> bool {
        matches!(self, Ending::Reset | Ending::ResetInResponse)
    }
}

/// All that is said on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialogue {
    /// The connection's number.
    pub id: ConnectionId,
    /// The client's own socket.
    pub client: SocketAddr,
    /// Requests, at least one; each has a response.
    pub requests: u16,
    /// How large they are.
    pub volume: Volume,
    /// How it ends.
    pub ending: Ending,
}

impl Dialogue {
    fn size(&self, what: u64, number: u32, low: u64, high: u64) -> usize {
        let drawn = mix(mix(self.id.0 ^ (what << 56)) ^ u64::from(number));
        (low + drawn % (high - low + 1)) as usize
    }

    /// Bytes of a request.
    #[must_use]
    pub fn request_len(&self, number: u32) -> usize {
        match self.volume {
            Volume::Up => self.size(1, number, 8_000, 60_000),
            _ => self.size(1, number, PREAMBLE_LEN as u64, 700),
        }
    }

    /// Bytes of a response.
    #[must_use]
    pub fn response_len(&self, number: u32) -> usize {
        match self.volume {
            Volume::Down => self.size(2, number, 8_000, 60_000),
            _ => self.size(2, number, HEAD_LEN as u64, 1_300), // fits into one datagram
        }
    }

    /// How long the backend thinks about a request: mostly not at all.
    #[must_use]
    pub fn think_us(&self, number: u32) -> u64 {
        match self.size(3, number, 0, 3) {
            0 => self.size(4, number, 0, 20_000) as u64,
            _ => 0,
        }
    }

    /// A request, which begins at `offset` of the client's stream.
    #[must_use]
    pub fn request(&self, number: u32, offset: u64) -> Vec<u8> {
        let len = self.request_len(number);
        let mut bytes = Vec::with_capacity(len);
        if number == 0 {
            bytes.extend_from_slice(&self.preamble());
        }
        let at = bytes.len();
        payload::append(self.id.0, Direction::Up, offset + at as u64, len - at, &mut bytes);
        bytes
    }

    /// A response of the backend `identity`, which begins at `offset` of its stream.
    #[must_use]
    pub fn response(&self, number: u32, offset: u64, identity: u32) -> Vec<u8> {
        let len = self.response_len(number);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&Head { id: self.id, identity, number }.encode());
        let at = offset + HEAD_LEN as u64;
        payload::append(self.id.0, Direction::Down, at, len - HEAD_LEN, &mut bytes);
        bytes
    }

    /// The bytes that tell all this.
    #[must_use]
    pub fn preamble(&self) -> [u8; PREAMBLE_LEN] {
        let mut bytes = [0; PREAMBLE_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..12].copy_from_slice(&self.id.0.to_be_bytes());
        bytes[12..14].copy_from_slice(&self.requests.to_be_bytes());
        bytes[14] = VOLUMES.iter().position(|v| *v == self.volume).unwrap_or(0) as u8;
        bytes[15] = ENDINGS.iter().position(|e| *e == self.ending).unwrap_or(0) as u8;
        bytes[16..18].copy_from_slice(&self.client.port().to_be_bytes());
        let address = match self.client.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        bytes[18..34].copy_from_slice(&address.octets());
        let check = check(&bytes[..40]);
        bytes[40..].copy_from_slice(&check);
        bytes
    }

    /// Reads a preamble. None: it is none, or damaged.
    #[must_use]
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Option<Dialogue> {
        if bytes[..4] != MAGIC || bytes[40..] != check(&bytes[..40]) {
            return None;
        }
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[18..34]).ok()?);
        let port = u16::from_be_bytes([bytes[16], bytes[17]]);
        Some(Dialogue {
            id: ConnectionId(u64::from_be_bytes(bytes[4..12].try_into().ok()?)),
            client: SocketAddr::new(address.to_canonical(), port),
            requests: u16::from_be_bytes([bytes[12], bytes[13]]),
            volume: *VOLUMES.get(usize::from(bytes[14]))?,
            ending: *ENDINGS.get(usize::from(bytes[15]))?,
        })
    }
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let hash = bytes.iter().fold(0x243f_6a88_85a3_08d3, |hash, byte| mix(hash ^ u64::from(*byte)));
    hash.to_be_bytes()
}

/// The head of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Of which connection.
    pub id: ConnectionId,
    /// Which backend responds.
    pub identity: u32,
    /// To which request.
    pub number: u32,
}

impl Head {
    /// The head's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&self.identity.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.id.0.to_be_bytes());
        bytes
    }

    /// Reads a head.
    #[must_use]
    pub fn parse(bytes: &[u8; HEAD_LEN]) -> Head {
        let [a, b, c, d, e, f, g, h, id @ ..] = *bytes;
        Head {
            identity: u32::from_be_bytes([a, b, c, d]),
            number: u32::from_be_bytes([e, f, g, h]),
            id: ConnectionId(u64::from_be_bytes(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preamble_tells_all_of_it() {
        for (index, ending) in ENDINGS.into_iter().enumerate() {
            let client = if index % 2 == 0 { "192.0.2.1:4000" } else { "[2001:db8::7]:65535" };
            let dialogue = Dialogue {
                id: ConnectionId(0x0102_0304_0506_0708 + index as u64),
                client: client.parse().unwrap(),
                requests: 300,
                volume: VOLUMES[index % 3],
                ending,
            };
            let request = dialogue.request(0, 0);
            assert_eq!(request.len(), dialogue.request_len(0));
            let preamble = *request.first_chunk().unwrap();
            assert_eq!(Dialogue::parse(&preamble), Some(dialogue));
            for at in 0..PREAMBLE_LEN {
                let mut damaged = preamble;
                damaged[at] ^= 1;
                assert_eq!(Dialogue::parse(&damaged), None, "byte {at}");
            }
        }
    }

    #[test]
    fn heads_read_as_written() {
        let head = Head { id: ConnectionId(u64::MAX - 3), identity: 7, number: 1 << 20 };
        assert_eq!(Head::parse(&head.encode()), head);
    }
}
