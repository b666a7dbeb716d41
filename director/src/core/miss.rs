//! What the core asks about sessions it does not know, what others answer, and which denials are
//! remembered for a moment.

use std::ops::Range;

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

/// How many denials are remembered, [`SHARED`] for each hash. A newer one takes the place of the oldest of its hash:
/// then that one's client is asked about again, and reset later.
const PLACES: usize = 16_384;

/// How many denials of one hash are remembered: two clients that try again in turns do not displace each other.
const SHARED: usize = 2;

/// How long (ns) a first refusal counts: longer than the longest pause between two tries of a client (two minutes in
/// Linux).
const FORGOTTEN_NS: u64 = 150_000_000_000;

/// How far apart the numbers of two segments of one client may be that nobody answered between them: it repeats
/// what it last sent, a window at the most, and acknowledges hardly more.
const NEAR: (u32, u32) = (1 << 24, 1 << 20);

/// What is remembered of a denial.
#[derive(Clone, Copy, Debug)]
struct Denial {
    key: FlowKey,
    /// When an answer denied it last.
    last_ns: u64,
    /// The first segment of its client that was refused for it.
    first: Option<Refusal>,
}

/// A segment of a client that was refused.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    at_ns: u64,
    seq: u32,
    ack: u32,
}

impl Refusal {
    /// Whether a segment may be another try of the same connection: a later one of the same port has other numbers.
    fn may_precede(&self, seq: u32, ack: u32, now_ns: u64) -> bool {
        let near = |one: u32, other: u32, distance: u32| {
            one.wrapping_sub(other).wrapping_add(distance) <= 2 * distance
        };
        now_ns.saturating_sub(self.at_ns) < FORGOTTEN_NS
            && near(seq, self.seq, NEAR.0)
            && near(ack, self.ack, NEAR.1)
    }
}

/// Denials of the last moment, so that a flow's next packets need not ask again. A session that
/// comes into the tables is found before anybody looks here, so nothing has to be forgotten for it; one
/// that this director hears of as a home makes them worth nothing ([`SessionTable::heard_since`]).
///
/// One denial resets nobody: a session that has just begun is denied by all while the news of it are on their way to
/// its homes. So it is remembered for longer when a client was refused first, and it is reset when it tries again
/// and was denied again, for good.
///
/// [`SessionTable::heard_since`]: crate::session::SessionTable::heard_since
pub(super) struct Denials {
    places: Vec<Option<Denial>>,
    hasher: RandomState,
}

impl Denials {
    pub(super) fn new(hasher: RandomState) -> Denials {
        Denials { places: vec![None; PLACES], hasher }
    }

    /// The places of a key's hash.
    fn shared(&self, key: &FlowKey) -> Range<usize> {
        let first = self.hasher.hash_one(key) as usize % (PLACES / SHARED) * SHARED;
        first..first + SHARED
    }

    /// The place of this key's denial, or else the one that a new denial of it takes.
    fn place(&mut self, key: &FlowKey) -> Option<&mut Option<Denial>> {
        let shared = self.shared(key);
        let worth = |place: &Option<Denial>| match place {
            Some(denial) if denial.key == *key => (0, 0),
            Some(denial) => (1, denial.last_ns + 1),
            None => (1, 0),
        };
        self.places.get_mut(shared)?.iter_mut().min_by_key(|place| worth(place))
    }

    /// Notes an answer that denies this key.
    pub(super) fn remember(&mut self, key: &FlowKey, now_ns: u64) {
        let Some(place) = self.place(key) else { return };
        let before = place.as_ref().filter(|denial| denial.key == *key);
        let first = before.and_then(|denial| denial.first);
        *place = Some(Denial { key: *key, last_ns: now_ns, first });
    }

    /// Somebody knows this key: what was denied before is over.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        if let Some(place) = self.place(key) {
            place.take_if(|denial| denial.key == *key);
        }
    }

    /// When an answer denied this key last.
    pub(super) fn last_ns(&self, key: &FlowKey) -> Option<u64> {
        let mut denials = self.places.get(self.shared(key))?.iter().flatten();
        denials.find(|denial| denial.key == *key).map(|denial| denial.last_ns)
    }

    /// Whether a client, of which this segment is denied, was refused before, and denied again at least so long (ns)
    /// after that. If not, it is refused now.
    pub(super) fn confirm(
        &mut self,
        key: &FlowKey,
        (seq, ack): (u32, u32),
        now_ns: u64,
        after_ns: u64,
    ) -> bool {
        let denial = self.place(key).and_then(Option::as_mut).filter(|denial| denial.key == *key);
        let Some(denial) = denial else { return false };
        match denial.first.filter(|first| first.may_precede(seq, ack, now_ns)) {
            Some(first) => denial.last_ns.saturating_sub(first.at_ns) >= after_ns,
            None => {
                denial.first = Some(Refusal { at_ns: now_ns, seq, ack });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_schema::flow::Protocol;

    const AFTER_NS: u64 = 150;

    fn key(port: u16) -> FlowKey {
        FlowKey::new(Protocol::Tcp, ([192, 0, 2, 1], port).into(), ([10, 0, 0, 1], 80).into())
    }

    fn denials() -> Denials {
        Denials::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn a_denial_counts_for_its_key_until_somebody_knows_it() {
        let mut denials = denials();
        denials.remember(&key(1), 60);
        assert_eq!((denials.last_ns(&key(1)), denials.last_ns(&key(2))), (Some(60), None));
        denials.forget(&key(2));
        denials.remember(&key(1), 70);
        assert_eq!(denials.last_ns(&key(1)), Some(70));
        denials.forget(&key(1));
        assert_eq!(denials.last_ns(&key(1)), None);
    }

    #[test]
    fn a_denial_is_confirmed_by_a_later_one_of_the_same_connection() {
        let mut denials = denials();
        let (key, numbers) = (key(1), (100, 200));
        assert!(!denials.confirm(&key, numbers, 0, AFTER_NS), "nobody denied it");
        denials.remember(&key, 10);
        for at_ns in [10, 100, 400] {
            assert!(!denials.confirm(&key, numbers, at_ns, AFTER_NS), "denied once");
        }
        denials.remember(&key, 159);
        assert!(!denials.confirm(&key, numbers, 500, AFTER_NS), "too early");
        denials.remember(&key, 160);
        assert!(denials.confirm(&key, numbers, 500, AFTER_NS));
        assert!(denials.confirm(&key, (u32::MAX, 0), 600, AFTER_NS), "near");
    }

    /// Both clients are reset in the end; a third one takes the place of the one that was denied longest ago.
    #[test]
    fn two_denials_of_one_hash_do_not_displace_each_other() {
        let mut denials = denials();
        let first = denials.shared(&key(1));
        let mut same = (2..).map(key).filter(|key| denials.shared(key) == first);
        let (one, other, third) = (key(1), same.next().unwrap(), same.next().unwrap());
        let numbers = (100, 200);
        for (at_ns, confirmed) in [(0, false), (AFTER_NS, true)] {
            for key in [&one, &other] {
                denials.remember(key, at_ns);
                assert_eq!(denials.confirm(key, numbers, at_ns, AFTER_NS), confirmed);
            }
        }
        denials.remember(&one, 300);
        denials.remember(&third, 400);
        let last_ns = [&one, &other, &third].map(|key| denials.last_ns(key));
        assert_eq!(last_ns, [Some(300), None, Some(400)]);
    }

    #[test]
    fn what_was_denied_long_ago_or_of_another_connection_is_no_first_denial() {
        let (key, numbers) = (key(1), (100, 200));
        let refused = || {
            let mut denials = denials();
            denials.remember(&key, 10);
            assert!(!denials.confirm(&key, numbers, 10, AFTER_NS));
            denials
        };
        for (next, at_ns, confirmed) in [
            (numbers, 9 + FORGOTTEN_NS, true),
            (numbers, 10 + FORGOTTEN_NS, false),
            ((100 + NEAR.0, 200 + NEAR.1), 500, true),
            ((101 + NEAR.0, 200), 500, false),
            ((100, 201 + NEAR.1), 500, false),
        ] {
            let mut denials = refused();
            denials.remember(&key, at_ns);
            assert_eq!(denials.confirm(&key, next, at_ns, AFTER_NS), confirmed, "{next:?}");
            if !confirmed {
                let at_ns = at_ns + AFTER_NS;
                denials.remember(&key, at_ns);
                assert!(denials.confirm(&key, next, at_ns, AFTER_NS), "{next:?} again");
            }
        }
        let mut denials = refused();
        denials.forget(&key);
        denials.remember(&key, 500);
        assert!(!denials.confirm(&key, numbers, 500, AFTER_NS), "somebody knew it meanwhile");
    }
}
