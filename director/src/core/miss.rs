//! What the core asks about sessions it does not know, what others answer, and which denials are
//! remembered for a moment.

use ahash::RandomState;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, SessionRecord};

/// What kind of packet misses its session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MissKind {
    /// A client's TCP segment.
    Tcp,
    /// A client's datagram.
    Udp,
    /// An ICMP error; `key` is the flow of the packets it hinders, seen from our side.
    IcmpError,
    /// A backend's segment or datagram to a LIP.
    LipReply,
}

/// A question for the others: who knows this session?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissQuestion {
    /// Names the question in its answer. A repeated question has the same number.
    pub id: u64,
    /// The key the packet has: of either direction.
    pub key: FlowKey,
    /// The kind of packet that waits.
    pub kind: MissKind,
    /// The use of the key that is known here: asked for is a later one.
    pub known: Option<Incarnation>,
}

/// What came of a question. By value: a worker must not free what another thread has allocated.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MissAnswer {
    /// Somebody knows the session.
    Found {
        /// Which question.
        id: u64,
        /// The newest record that was told.
        record: SessionRecord,
    },
    /// Everybody who could know denies it (PROTOCOLS).
    NoWithAuthority {
        /// Which question.
        id: u64,
    },
    /// Neither, and no more answers are to be expected.
    DontKnow {
        /// Which question.
        id: u64,
    },
}

impl MissAnswer {
    /// Which question is answered.
    pub fn id(&self) -> u64 {
        match self {
            MissAnswer::Found { id, .. }
            | MissAnswer::NoWithAuthority { id }
            | MissAnswer::DontKnow { id } => *id,
        }
    }
}

/// How many denials are remembered. A newer one takes the place of an older one.
const PLACES: usize = 1024;

/// Denials of the last moment, so that a flow's next packets need not ask again. A session that
/// comes into the tables is found before anybody looks here, so nothing has to be forgotten for it; one
/// that this director hears of as a home makes them worth nothing ([`SessionTable::heard_since`]).
///
/// [`SessionTable::heard_since`]: crate::session::SessionTable::heard_since
pub(super) struct Denials {
    places: Vec<Option<(FlowKey, u64)>>,
    hasher: RandomState,
}

impl Denials {
    pub(super) fn new(hasher: RandomState) -> Denials {
        Denials { places: vec![None; PLACES], hasher }
    }

    fn place(&self, key: &FlowKey) -> usize {
        self.hasher.hash_one(key) as usize % PLACES
    }

    pub(super) fn remember(&mut self, key: &FlowKey, until_ns: u64) {
        let place = self.place(key);
        if let Some(slot) = self.places.get_mut(place) {
            *slot = Some((*key, until_ns));
        }
    }

    /// Until when a denial of this key counts, if it does.
    pub(super) fn until_ns(&self, key: &FlowKey, now_ns: u64) -> Option<u64> {
        let slot = self.places.get(self.place(key)).copied().flatten();
        let (_, until_ns) = slot.filter(|(denied, _)| denied == key)?;
        (now_ns < until_ns).then_some(until_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_schema::flow::Protocol;

    #[test]
    fn a_denial_is_remembered_for_its_time_and_its_key() {
        let key = |port: u16| {
            FlowKey::new(Protocol::Tcp, ([192, 0, 2, 1], port).into(), ([10, 0, 0, 1], 80).into())
        };
        let mut denials = Denials::new(RandomState::with_seeds(1, 2, 3, 4));
        denials.remember(&key(1), 100);
        assert_eq!(denials.until_ns(&key(1), 99), Some(100));
        assert_eq!(denials.until_ns(&key(1), 100), None);
        assert_eq!(denials.until_ns(&key(2), 0), None);
    }
}
