//! What is remembered of a session, and what may be said about one.
//!
//! A [`SessionRecord`] is the form in which directors exchange sessions: in Raft entries, in
//! answers to misses, in snapshots. It is not the form in which a director keeps them for its
//! packet path (that is the director's slab).
//!
//! Time: no wall clock takes part. A record says how long ago (`age_ms`) each side was last seen,
//! at the moment it was made; whoever stores it subtracts that from a clock of its own.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, BucketKey, ShardId};
use crate::cluster::{BackendId, DirectorId, ListenerId};
use crate::flow::{FlowKey, Protocol};

/// How long a closing session lingers when the client closed first or a reset was seen.
pub const CLOSE_LINGER_MS: u32 = 5_000;

/// How long a closing session (and with it its local port) rests when the backend closed first or
/// it is unclear who did: the backend's TIME_WAIT (RFC 9293 section 3.6.1; Linux: 60 s).
pub const TIME_WAIT_LINGER_MS: u32 = 60_000;

/// How long a session may stay half-open (no handshake, no answer).
pub const HALF_OPEN_LINGER_MS: u32 = 30_000;

/// Which of several uses of one flow key this is. Clients reuse 4-tuples, so a key is not an identity.
///
/// Newer means: greater `stamp`; among equal stamps greater `(creator, counter)`. The field order
/// makes the derived order say just that.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode, Serialize, Deserialize,
)]
pub struct Incarnation {
    /// Set at creation: the creator's Unix time in ms, or one more than the stamp of the record it
    /// replaces if that is greater. It only orders uses of one key; nothing expires by it.
    pub stamp: u64,
    /// The director that created the session.
    pub creator: DirectorId,
    /// The creator's count of created sessions; its high 32 bits are the creator's own incarnation.
    pub counter: u64,
    /// The client's initial sequence number (TCP), 0 for UDP.
    pub isn: u32,
}

impl Incarnation {
    /// Whether two directors have made these of one opening of a TCP client. (Datagrams have no number
    /// that would tell.)
    #[inline]
    pub fn is_twin_of(&self, other: &Incarnation) -> bool {
        self.isn == other.isn && self.isn != 0 && self.creator != other.creator
    }
}

/// What has been seen of a session. Flags of two holders merge by OR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Encode, Decode, Serialize, Deserialize)]
pub struct SessionFlags(pub u16);

impl SessionFlags {
    /// TCP: the client's SYN. UDP: a datagram of the client.
    pub const CLIENT_OPENED: SessionFlags = SessionFlags(1);
    /// TCP: the backend's SYN-ACK. UDP: a datagram of the backend.
    pub const BACKEND_ANSWERED: SessionFlags = SessionFlags(1 << 1);
    /// TCP: the handshake is complete. UDP: traffic in both directions.
    pub const ESTABLISHED: SessionFlags = SessionFlags(1 << 2);
    /// A FIN of the client.
    pub const CLIENT_FIN: SessionFlags = SessionFlags(1 << 3);
    /// A FIN of the backend.
    pub const BACKEND_FIN: SessionFlags = SessionFlags(1 << 4);
    /// A RST of either side.
    pub const RESET: SessionFlags = SessionFlags(1 << 5);
    /// The backend's FIN came before the client's: it keeps the TIME_WAIT, so the local port rests.
    pub const BACKEND_CLOSED_FIRST: SessionFlags = SessionFlags(1 << 6);
    /// The backend has denied that it agreed with the client on this connection. Nothing, once it is established.
    pub const DENIED: SessionFlags = SessionFlags(1 << 7);

    /// Whether every flag of `other` is set.
    #[inline]
    pub fn has(self, other: SessionFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[inline]
    #[must_use]
    pub fn with(self, other: SessionFlags) -> SessionFlags {
        SessionFlags(self.0 | other.0)
    }

    /// Whether the handshake (UDP: the first exchange) is complete.
    #[inline]
    pub fn established(self) -> bool {
        self.has(Self::ESTABLISHED)
    }

    /// Whether the session is over for both sides: reset, or both FINs.
    #[inline]
    pub fn closing(self) -> bool {
        self.has(Self::RESET) || self.has(Self::CLIENT_FIN.with(Self::BACKEND_FIN))
    }

    /// Whether at least one side has ended the session.
    #[inline]
    pub fn ending(self) -> bool {
        let ends = Self::RESET.with(Self::CLIENT_FIN).with(Self::BACKEND_FIN);
        self.0 & ends.0 != 0
    }

    /// How long a session with these flags may go without a packet before it is forgotten.
    #[inline]
    pub fn idle_limit_ms(self, idle_timeout_ms: u32) -> u32 {
        if self.closing() {
            let short = self.has(Self::CLIENT_FIN) && !self.has(Self::BACKEND_CLOSED_FIRST);
            if short || self.has(Self::RESET) { CLOSE_LINGER_MS } else { TIME_WAIT_LINGER_MS }
        } else if self.established() {
            idle_timeout_ms
        } else {
            HALF_OPEN_LINGER_MS.min(idle_timeout_ms)
        }
    }
}

impl std::fmt::Debug for SessionFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.state_name())
    }
}

impl SessionFlags {
    /// The state operators see.
    pub fn state_name(self) -> &'static str {
        if self.has(Self::RESET) {
            "reset"
        } else if self.closing() {
            "closed"
        } else if self.has(Self::CLIENT_FIN) || self.has(Self::BACKEND_FIN) {
            "half-closed"
        } else if self.established() {
            "established"
        } else if self.has(Self::BACKEND_ANSWERED) {
            "answered"
        } else {
            "half-open"
        }
    }
}

/// What was last seen of one direction. The three fields belong together and merge as one unit,
/// by the later `age_ms`; never by maximum, because sequence numbers wrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct HalfSeen {
    /// Milliseconds since the last packet of this direction.
    pub age_ms: u32,
    /// Sequence number just behind that packet (TCP).
    pub seq: u32,
    /// Acknowledgement number in that packet (TCP).
    pub ack: u32,
}

/// How packets reach the backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardingMode {
    /// Source becomes LIP:lport, destination becomes RIP:rport.
    FullNat,
    /// Only the destination is rewritten.
    Dnat,
    /// Only the destination MAC is rewritten.
    DsrL2,
    /// The packet is put into a tunnel to the backend.
    DsrTunnel,
}

/// Everything another director needs to carry a session on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Client > VIP.
    #[serde(with = "flow_text")]
    pub key: FlowKey,
    /// Backend > LIP.
    #[serde(with = "flow_text")]
    pub reply: FlowKey,
    /// Which use of `key` this is.
    pub incarnation: Incarnation,
    /// Orders changes within one incarnation.
    pub generation: u32,
    /// The listener it came through.
    pub listener: ListenerId,
    /// The backend it began with. It never changes (DESIGN rule 1).
    pub backend: BackendId,
    /// How its packets are rewritten.
    pub mode: ForwardingMode,
    /// The director that forwards the client's side.
    pub owner: DirectorId,
    /// What has been seen.
    pub flags: SessionFlags,
    /// Milliseconds since it was created.
    pub created_age_ms: u32,
    /// The listener's idle timeout when the session began.
    pub idle_timeout_ms: u32,
    /// Added to the client's sequence numbers towards the backend (0: no rewriting).
    pub isn_delta: u32,
    /// Added to the client's TCP timestamps towards the backend (0: no rewriting).
    pub timestamp_delta: u32,
    /// The client's side.
    pub client: HalfSeen,
    /// The backend's side.
    pub backend_seen: HalfSeen,
}

impl SessionRecord {
    /// The bucket of this session.
    pub fn bucket(&self, key: &BucketKey) -> Bucket {
        key.bucket(self.key.protocol, &self.key.src, self.key.src_port)
    }

    /// Whether this record takes the place of another of the same key: the newer incarnation. But of two
    /// that the same opening of the client made (a SYN that was repeated at another director): the
    /// established one, for the client and a backend have agreed on it; before that the older one, so
    /// that of two directors that hear of each other at the same time only one gives way.
    pub fn prevails_over(&self, kept: &SessionRecord) -> bool {
        prevails((&self.incarnation, self.flags), (&kept.incarnation, kept.flags))
    }

    /// Takes over what somebody else has seen later of this very incarnation. Ages count from the same moment;
    /// the owner goes with the client's side. A side that was never seen is told with zeros for numbers.
    pub fn merge(&mut self, other: &SessionRecord) {
        let seen = |half: &HalfSeen| (half.seq, half.ack) != (0, 0);
        let later = |new: &HalfSeen, kept: &HalfSeen| match (seen(new), seen(kept)) {
            (true, false) => true,
            (false, true) => false,
            _ => new.age_ms < kept.age_ms,
        };
        self.flags = self.flags.with(other.flags);
        if later(&other.client, &self.client) {
            (self.client, self.owner) = (other.client, other.owner);
        }
        if later(&other.backend_seen, &self.backend_seen) {
            self.backend_seen = other.backend_seen;
        }
    }

    /// Milliseconds since any packet was seen.
    pub fn idle_ms(&self) -> u32 {
        self.client.age_ms.min(self.backend_seen.age_ms)
    }

    /// How long it may be idle before it is forgotten.
    pub fn idle_limit_ms(&self) -> u32 {
        self.flags.idle_limit_ms(self.idle_timeout_ms)
    }
}

/// [`SessionRecord::prevails_over`] for those who keep sessions in another form.
pub fn prevails(new: (&Incarnation, SessionFlags), kept: (&Incarnation, SessionFlags)) -> bool {
    if new.0.is_twin_of(kept.0) {
        let (said, here) = (standing_of_twin(new.1), standing_of_twin(kept.1));
        return said > here || said == here && new.0 < kept.0;
    }
    let open = |flags: SessionFlags| flags.established() && !flags.closing();
    match (open(new.1), open(kept.1)) {
        (true, false) if new.0.isn == kept.0.isn => true,
        (false, true) if new.0.isn == kept.0.isn => false,
        _ => new.0 > kept.0,
    }
}

/// How far a session is that has a twin. What was established keeps its claim when it is over: the
/// client will not agree with the other any more.
fn standing_of_twin(flags: SessionFlags) -> u8 {
    match (flags.established(), flags.closing()) {
        (true, false) => 3,
        (true, true) => 2,
        (false, false) => 1,
        (false, true) => 0,
    }
}

/// News about a session that the store already has: a refresh, a closing, an adoption.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct SessionUpdate {
    /// Client > VIP.
    #[serde(with = "flow_text")]
    pub key: FlowKey,
    /// Which use of `key`.
    pub incarnation: Incarnation,
    /// Who says so.
    pub from: DirectorId,
    /// The director that forwards the client's side, according to `from`.
    pub owner: DirectorId,
    /// Flags to be merged by OR.
    pub flags: SessionFlags,
    /// The client's side, if `from` saw packets of it.
    pub client: Option<HalfSeen>,
    /// The backend's side, if `from` saw packets of it.
    pub backend_seen: Option<HalfSeen>,
}

impl SessionUpdate {
    /// To whom it moves the session: only the word of the one who forwards the client's side does. Others tell whom
    /// they hold for the owner, and an adoption may be under way that they do not know of.
    pub fn new_owner(&self) -> Option<DirectorId> {
        (self.owner == self.from).then_some(self.owner)
    }
}

/// One change to a shard's sessions, as directors propose them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum SessionChange {
    /// A session to keep. Idempotent; over an existing key [`SessionRecord::prevails_over`] decides.
    Create(SessionRecord),
    /// News about a kept session; ignored if that incarnation is not kept.
    Update(SessionUpdate),
    /// Proposed by the shard's leader only: forget it, unless something newer got in between.
    Expire {
        /// Client > VIP.
        key: FlowKey,
        /// Which use of `key`.
        incarnation: Incarnation,
        /// The shard-clock time (ms) of the last packet that the leader judged by.
        last_seen_ms: u64,
    },
}

/// What a director knows of the session that a key belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// This one.
    Session(Box<SessionRecord>),
    /// It has none with that key.
    Nobody,
    /// It has one that it does not tell, or may have one that found no place: no ground to deny it.
    Unsure,
}

impl Known {
    /// The session, if there is one to tell of.
    pub fn session(self) -> Option<SessionRecord> {
        match self {
            Known::Session(record) => Some(*record),
            Known::Nobody | Known::Unsure => None,
        }
    }
}

/// Where applied sessions go, and where peers' questions are answered from: a director's L2 table.
///
/// Called from the store's apply threads and from its network tasks; implementations must not wait
/// for the network or for the store.
pub trait SessionSink: Send + Sync {
    /// A create was applied, or one of another session with this key was refused. The record's ages count
    /// from now.
    fn created(&self, record: &SessionRecord);
    /// A create was refused: this session has ended.
    fn refused(&self, _key: &FlowKey, _incarnation: &Incarnation) {}
    /// An update was applied.
    fn updated(&self, update: &SessionUpdate);
    /// An expiry was applied. The sink keeps what it saw alive itself and proposes it again (veto).
    fn expired(&self, key: &FlowKey, incarnation: &Incarnation);
    /// A snapshot of a whole shard was installed: sessions of that shard that `records` lacks are
    /// removed unless they are locally alive or were never acknowledged.
    fn installed(&self, shard: ShardId, records: &[SessionRecord]);
    /// Another director has registered this session before (or with a better claim: client and backend
    /// have agreed on it) than the sink's own director one of the same opening of the client. One of
    /// the two has to give way.
    fn twin(&self, first: &SessionRecord);
    /// This director was told, as a home, that these sessions exist: who has denied them may forget that.
    fn registered(&self, _records: &[SessionRecord]) {}
    /// The record that a packet with this key (either direction) belongs to. `Nobody` promises that
    /// no session the sink was told of (and not told the end of) has that key. Sessions whose listener
    /// or backend was removed from the configuration have ended, whatever was told.
    fn find(&self, key: &FlowKey) -> Known;
}

/// How long an established session of this protocol may be idle when the listener does not say.
pub fn default_idle_timeout_ms(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 900_000,
        Protocol::Udp => 120_000,
    }
}

/// Flow keys in JSON: `{"protocol":"tcp","src":"192.0.2.1:40000","dst":"203.0.113.10:80"}`.
mod flow_text {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::flow::{FlowKey, Protocol};

    #[derive(Serialize, Deserialize)]
    struct Text {
        protocol: Protocol,
        src: SocketAddr,
        dst: SocketAddr,
    }

    pub(super) fn serialize<S: Serializer>(key: &FlowKey, to: S) -> Result<S::Ok, S::Error> {
        Text { protocol: key.protocol, src: key.source(), dst: key.destination() }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<FlowKey, D::Error> {
        Text::deserialize(from).map(|t| FlowKey::new(t.protocol, t.src, t.dst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN that was repeated elsewhere: whoever compares the two, in whichever order, keeps the same.
    #[test]
    fn of_two_twins_everybody_keeps_the_same() {
        type F = SessionFlags;
        let made = |stamp, creator, isn| Incarnation {
            stamp,
            creator: DirectorId(creator),
            counter: stamp,
            isn,
        };
        let half = F::CLIENT_OPENED;
        let answered = half.with(F::BACKEND_ANSWERED);
        let open = answered.with(F::ESTABLISHED);
        let (over, refused) = (open.with(F::RESET), half.with(F::RESET));
        let (older, newer) = (made(5, 2, 7), made(6, 1, 7));
        for (old, new, old_stays) in [
            (half, half, true),
            (half, answered, true),
            (half, open, false),
            (open, half, true),
            (open, open, true),
            (half, over, false),
            (over, half, true),
            (over, open, false),
            (refused, half, false),
        ] {
            assert_eq!(prevails((&older, old), (&newer, new)), old_stays, "{old:?} {new:?}");
            assert_eq!(prevails((&newer, new), (&older, old)), !old_stays, "{new:?} {old:?}");
        }
        // Another opening, a datagram, and what one director made after the other: the newer one.
        for newer in [made(6, 1, 8), made(6, 2, 7)] {
            assert!(prevails((&newer, half), (&older, half)));
            assert!(!prevails((&older, half), (&newer, half)));
        }
        assert!(prevails((&made(6, 1, 0), half), (&made(5, 2, 0), half)));
        assert!(!prevails((&made(6, 1, 0), half), (&made(5, 2, 0), open)), "as ever");
    }

    #[test]
    fn linger_depends_on_who_closed_first() {
        type F = SessionFlags;
        let open = F::CLIENT_OPENED.with(F::BACKEND_ANSWERED).with(F::ESTABLISHED);
        assert_eq!(F::CLIENT_OPENED.idle_limit_ms(900_000), HALF_OPEN_LINGER_MS);
        assert_eq!(open.idle_limit_ms(900_000), 900_000);
        assert_eq!(open.with(F::CLIENT_FIN).idle_limit_ms(900_000), 900_000);
        let both = open.with(F::CLIENT_FIN).with(F::BACKEND_FIN);
        assert_eq!(both.idle_limit_ms(900_000), CLOSE_LINGER_MS);
        assert_eq!(both.with(F::BACKEND_CLOSED_FIRST).idle_limit_ms(900_000), TIME_WAIT_LINGER_MS);
        assert_eq!(open.with(F::RESET).idle_limit_ms(900_000), CLOSE_LINGER_MS);
    }
}
