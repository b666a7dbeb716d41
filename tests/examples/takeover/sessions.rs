//! Sessions that a client of ours opens through a chosen director: the handshake is spoken by hand, so
//! that it is known to the microsecond which director has seen what of a session.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::hop::{Ends, Probe};
use crate::segment::{Kind, Segment};
use crate::tap::Tap;

/// The first of the clients' addresses; the router knows 10.90.0.0/16 as a black hole.
const CLIENTS: [u8; 2] = [10, 90];
/// How many handshakes are under way at a time.
const AT_ONCE: usize = 64;
/// How long a burst of handshakes may take; what is not open by then is given up.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// An established session.
pub struct Session {
    client: SocketAddrV4,
    vip: SocketAddrV4,
    seq: u32,
    ack: u32,
    /// Its local address and its backend.
    inside: Ends,
}

impl Session {
    /// The local port, which tells the bucket.
    pub fn local_port(&self) -> u16 {
        self.inside.0.port()
    }

    fn segment(&self, kind: Kind) -> Segment {
        Segment { from: self.client, to: self.vip, kind, seq: self.seq, ack: self.ack }
    }

    /// Its next packet, for the director behind `tap`.
    pub fn probe(&self, tap: &Tap) -> Probe {
        let frame = self.segment(Kind::Ack).frame(tap);
        Probe { frame, entry: (self.client, self.vip), exit: self.inside }
    }

    /// Ends it, at the director behind `tap` and at the backend.
    pub fn reset(&self, tap: &Tap) -> Result<()> {
        tap.send(&self.segment(Kind::Reset).frame(tap))
    }
}

/// Opens sessions of clients that nobody has used before.
pub struct Opener {
    vip: SocketAddrV4,
    opened: u32,
}

/// A handshake under way.
struct Half {
    client: SocketAddrV4,
    inside: Option<Ends>,
    backend_isn: Option<u32>,
}

impl Opener {
    /// For a listener.
    pub fn new(vip: SocketAddrV4) -> Opener {
        Opener { vip, opened: 0 }
    }

    /// Opens sessions through the director behind `tap`.
    pub fn open(&mut self, tap: &Tap, count: usize) -> Result<Vec<Session>> {
        let mut open = Vec::with_capacity(count);
        while open.len() < count {
            let some = self.burst(tap, AT_ONCE.min(count - open.len()))?;
            ensure!(!some.is_empty(), "no session could be opened");
            open.extend(some);
        }
        Ok(open)
    }

    fn burst(&mut self, tap: &Tap, count: usize) -> Result<Vec<Session>> {
        // By the client's initial sequence number, which no director changes.
        let mut halves: HashMap<u32, Half> = HashMap::new();
        tap.seen()?;
        for _ in 0..count {
            let n = self.opened;
            self.opened += 1;
            let [net, host] = CLIENTS;
            let ip = Ipv4Addr::new(net, host, (n % 250) as u8, 1 + (n / 250 % 250) as u8);
            let client = SocketAddrV4::new(ip, 20_000 + (n % 40_000) as u16);
            let isn = n.wrapping_mul(0x9e37_79b1); // odd: no two are the same
            let syn = Segment { from: client, to: self.vip, kind: Kind::Syn, seq: isn, ack: 0 };
            halves.insert(isn, Half { client, inside: None, backend_isn: None });
            tap.send(&syn.frame(tap))?;
        }
        let mut open = Vec::new();
        let until = Instant::now() + HANDSHAKES;
        while !halves.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
            for frame in tap.seen()?.iter().filter(|f| !f.outgoing) {
                let Some(segment) = Segment::read(&frame.bytes) else { continue };
                let isn = match segment.kind {
                    Kind::Syn => segment.seq,
                    Kind::SynAck => segment.ack.wrapping_sub(1),
                    _ => continue,
                };
                let Some(half) = halves.get_mut(&isn) else { continue };
                match segment.kind {
                    Kind::Syn => half.inside = Some((segment.from, segment.to)),
                    // To the client; the same segment came from the backend before.
                    _ if segment.to == half.client => half.backend_isn = Some(segment.seq),
                    _ => {}
                }
                if let (Some(inside), Some(backend_isn)) = (half.inside, half.backend_isn) {
                    let (seq, ack) = (isn.wrapping_add(1), backend_isn.wrapping_add(1));
                    let session = Session { client: half.client, vip: self.vip, seq, ack, inside };
                    tap.send(&session.segment(Kind::Ack).frame(tap))?;
                    open.push(session);
                    halves.remove(&isn);
                }
            }
        }
        Ok(open)
    }
}
