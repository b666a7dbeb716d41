//! Records that may be of an earlier use of their addresses and ports.
//!
//! A record that this director has itself seen no packet of lately is hearsay. Its connection may have
//! ended at another director, and a later one of the same client's port begun there, while this
//! director was cut off from those who know, or before they could tell it. By such a record the later
//! connection's packets would go to a backend that resets it. So what does not fit a hearsay record
//! is asked about first: does anybody know a later use of this key?
//!
//! - A segment is in doubt whose numbers are far from all that is known of the connection. Initial numbers
//!   are hashes and a clock (RFC 6528), so those of another connection seldom fit. Those of a fast session
//!   that moves here may not fit either; that costs it one question. Of a session that is over, only what
//!   its client says is, but however lately it was seen here, and also if no numbers are known. What the client says is
//!   as well however lately one of its ends was seen to close: the other one may have closed elsewhere.
//! - Of an open session, a SYN or its answer is that is not of this connection's opening.
//!
//! What others have seen of the connection since may show that the packet fits after all. Otherwise, if
//! nobody knows of a later use or can be asked, a packet of an open session goes by the record that is here:
//! a director that is cut off from its peers goes on serving. Not so a client's segment that the record
//! refutes ([`refuted`]): its backend would reset the later connection. A fast session is not refuted by
//! data in one direction. For one with data in both, the backend is asked for its numbers in the segment's
//! place ([`super::probe`]); its segments are always forwarded, what they show is told to all at once, and
//! the client's next try fits it.
//!
//! What fits goes on in any case, and so do the last segments of a connection that ends.

use holdfast_schema::session::Incarnation;

use super::frame::{Frame, Verdict};
use super::meta::{Content, Meta, Segment};
use super::probe::at_rest;
use super::reason::DropReason;
use super::waiting::WaitFor;
use super::{Core, Moment, Release};
use crate::session::{Lookup, Session, Side, Slot};
use crate::wire::TcpFlags;
use holdfast_schema::flow::FlowKey;

/// How long (ms) this director must have seen nothing of a direction before its record is hearsay. What
/// belongs to the end of a connection itself comes sooner, or can wait for an answer.
const QUIET_MS: u64 = 200;

/// How far from the known numbers a segment's may be: more than is under way in nearly all connections,
/// and little enough that a number of another connection is that near once in 128 times.
const NEAR: u32 = 1 << 24;

/// The record by which a flow's packets would go, if nobody knows better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Doubt {
    pub(super) slot: Slot,
    pub(super) incarnation: Incarnation,
}

/// How far the second number of a segment may be whose first one is not near: what goes the one way in a
/// connection that sends much the other way.
const BESIDE: u32 = 1 << 20;

/// Whether a number is farther than this from all that are known.
fn beyond(distance: u32, number: u32, known: [Option<u32>; 2]) -> bool {
    let within = |one: u32| number.wrapping_sub(one).wrapping_add(distance) <= 2 * distance;
    known != [None, None] && !known.into_iter().flatten().any(within)
}

/// Whether a segment in doubt is most likely not of the session's connection: one of its numbers is far from
/// all that was told of it, and the other one beside; or it acknowledges less than the same end has before.
fn refuted(session: &Session<'_>, side: Side, segment: &Segment) -> bool {
    let known = at_rest(session, side);
    let apart = |distance| {
        (beyond(distance, segment.seq, known.next), beyond(distance, segment.ack, known.expected))
    };
    let ((far_seq, far_ack), (seq, ack)) = (apart(NEAR), apart(BESIDE));
    let [_, acked] = known.expected;
    let went_back = acked.is_some_and(|acked| segment.ack.wrapping_sub(acked) > 1 << 31);
    far_seq && (ack || went_back) || far_ack && seq
}

/// The most that a SYN and its data (RFC 7413) take of the sequence space: a jumbo frame.
const OPENING: u32 = 9_000;

/// Whether a backend's SYN-ACK with this acknowledgement is of the opening that began a session: of its
/// SYN, and perhaps of data in it.
pub(super) fn acknowledges_opening(session: &Session<'_>, ack: u32) -> bool {
    let isn = session.incarnation().isn;
    let sent = session.numbers(Side::Client).map_or(1, |(end, _)| end.wrapping_sub(isn));
    (1..=sent.clamp(1, OPENING)).contains(&ack.wrapping_sub(isn))
}

/// Whether a segment shows that it is not of the connection of an open session.
fn misfits(session: &Session<'_>, side: Side, segment: &Segment) -> bool {
    if segment.flags.has(TcpFlags::RST) {
        return false;
    }
    if segment.flags.has(TcpFlags::SYN) {
        return match side {
            Side::Client => segment.seq != session.incarnation().isn,
            Side::Backend => !acknowledges_opening(session, segment.ack),
        };
    }
    let known = at_rest(session, side);
    segment.flags.has(TcpFlags::ACK)
        && (beyond(NEAR, segment.seq, known.next) || beyond(NEAR, segment.ack, known.expected))
}

impl Core {
    /// Whether this director has seen nothing of this direction lately.
    #[inline]
    pub(super) fn is_hearsay(&self, now_ms: u64, (slot, side): (Slot, Side)) -> bool {
        self.table.session(slot).unseen_ms(side, now_ms) >= QUIET_MS
    }

    /// Whether a record may be of an earlier use of its key than a packet: it is hearsay, or the connection is over,
    /// or at one end, and the next one may have begun at another director a moment ago.
    #[inline]
    pub(super) fn may_be_earlier(&self, now_ms: u64, found: (Slot, Side)) -> bool {
        self.is_hearsay(now_ms, found) || self.table.session(found.0).flags().ending()
    }

    /// Whether a packet may be of a later connection than such a record of its key.
    pub(super) fn is_in_doubt(
        &self,
        now_ms: u64,
        key: &FlowKey,
        meta: &Meta,
        found: (Slot, Side),
    ) -> bool {
        use holdfast_schema::flow::Protocol::Tcp;
        let Content::Transport(segment) = &meta.content else { return false };
        let (slot, side) = found;
        let session = self.table.session(slot);
        let (flags, expiring) = session.standing();
        // (A SYN begins a new session.)
        let speaks = side == Side::Client && meta.continues();
        if flags.closing() {
            let unknown = at_rest(&session, side).next == [None, None];
            return speaks && (unknown || misfits(&session, side, segment));
        }
        key.protocol == Tcp
            && (speaks || self.is_hearsay(now_ms, found))
            && !(expiring && meta.opens())
            && misfits(&session, side, segment)
    }

    /// Judges a packet in doubt about which nobody knows better, or can be asked (then `reason` says why).
    #[cold]
    pub(super) fn doubted(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        (slot, side): (Slot, Side),
        reason: DropReason,
    ) -> Verdict {
        let session = self.table.session(slot);
        let speaks = side == Side::Client && meta.continues();
        match &meta.content {
            Content::Transport(_) if speaks && session.flags().closing() => self.drop(reason),
            Content::Transport(segment) if speaks && refuted(&session, side, segment) => {
                self.ask_backend(at, frame, slot, segment, reason)
            }
            _ => {
                let verdict = self.known(at, frame, key, meta, (slot, side));
                if side == Side::Backend {
                    // Its client's packets may come to another director, where they do not fit either.
                    self.table.session(slot).tell_soon();
                }
                verdict
            }
        }
    }

    /// Asks whether anybody knows a later use of this key.
    #[cold]
    pub(super) fn ask_in_doubt(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        found: (Slot, Side),
    ) -> Verdict {
        let session = self.table.session(found.0);
        let doubt = Doubt { slot: found.0, incarnation: session.incarnation() };
        if session.flags().closing() {
            let verdict = self.ask(at, frame, key, meta);
            self.room.doubt(key, doubt);
            return verdict;
        }
        // Those whose session is not known at all need the questions more.
        let may = self.room.holds(key) || self.budget.has_plenty(at.now_ns);
        if !may || self.charge(at, key).is_err() {
            return self.doubted(at, frame, key, meta, found, DropReason::AskBudget);
        }
        match self.try_park(at, frame, key, meta, WaitFor::Answer) {
            Ok(()) => {
                self.room.doubt(key, doubt);
                Verdict::Parked
            }
            // Nor may it overtake those that wait.
            Err(reason) if self.room.holds(key) => self.drop(reason),
            Err(reason) => self.doubted(at, frame, key, meta, found, reason),
        }
    }

    /// Ends the waiting of a flow that nobody has told of: packets of an open session that is known here
    /// go by what is known, others are dropped.
    pub(super) fn stop_asking(
        &mut self,
        at: &Moment<'_>,
        key: &FlowKey,
        reason: DropReason,
        release: &mut Release<'_>,
    ) {
        let doubted = self.room.doubt_of(key).is_some();
        if doubted
            && let Lookup::Found(slot, _) = self.table.lookup(key)
            && !self.table.session(slot).flags().closing()
        {
            self.release(at, key, false, release);
        } else if let Some(chain) = self.room.detach(key) {
            self.discard_chain(chain, reason, release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_near_within_a_window_to_each_side() {
        for (number, known, expected) in [
            (5, [None, None], false),
            (5, [Some(5), None], false),
            (NEAR, [Some(0), None], false),
            (NEAR + 1, [Some(0), None], true),
            (NEAR + 1, [Some(0), Some(1)], false),
            (0, [None, Some(NEAR)], false),
            (0, [None, Some(NEAR + 1)], true),
            (3, [Some(u32::MAX), None], false),
            (u32::MAX, [Some(3), None], false),
            (1 << 31, [Some(0), Some(NEAR)], true),
        ] {
            assert_eq!(beyond(NEAR, number, known), expected, "{number} {known:?}");
        }
    }
}
