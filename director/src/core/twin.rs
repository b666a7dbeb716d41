//! Sessions with a twin at another director ([`crate::session`], twins): the client's next segment
//! decides which one stays, and the backend of the other is told.
//!
//! That segment may come before anybody has told of a twin. Forwarded to a backend whose number it does
//! not acknowledge, it would make that one reset the client's connection with the other. So it waits until
//! the others have been asked. If none knows of another session, it goes on where it may still belong to the
//! one that is here: it acknowledges a little more than the backend's first number (the handshake was
//! completed at a director that died before it could tell). If that number is not known (replies came by
//! another director, or the SYN was lost), the backend is asked for it ([`super::probe`]): one that has agreed
//! with the client shows it, any other one denies it. If neither comes here though it has had time to repeat its
//! SYN-ACK and was asked twice, the session is believed to be the right one. Otherwise the segment goes to
//! nobody.

use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::SessionFlags;

use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::{Content, Meta, Segment};
use super::probe::at_rest;
use super::reason::DropReason;
use super::waiting::WaitFor;
use super::{Core, Moment, Release};
use crate::session::{HalfOpenReset, Session, Side, Slot, TwinVerdict};
use crate::tables::ForwardingTables;
use crate::wire::TcpFlags;
use crate::wire::emit::{BARE_FRAME, BareSegment, bare_frame};

/// Backends' connections that are reset in one turn.
const RESETS: usize = 16;

/// From which age of a session (ms) on its backend would have repeated its SYN-ACK thrice, had it not been
/// answered: after one, three and seven seconds (RFC 6298 section 2), and some for the way.
const REPEATED_MS: u64 = 7_500;

/// How long (ms) a backend has to deny the connection that it was asked about: more than the way there and back,
/// and the next try of its client comes little later (RFC 6298 section 2).
const DENIES_MS: u64 = 500;

/// How much a client may have been sent before anybody has told that its handshake is complete. Another
/// backend's number is within this once in 4,096 times.
const AHEAD: u32 = 1 << 20;

/// The number that the client acknowledges if it has agreed with this session's backend, if its SYN-ACK
/// was seen.
#[inline]
fn number_of(session: &Session<'_>) -> Option<u32> {
    let answered = session.flags().has(SessionFlags::BACKEND_ANSWERED);
    session.numbers(Side::Backend).filter(|_| answered).map(|(end, _)| end)
}

/// Whether a segment of the client may belong to another session of the opening that made this one: it
/// acknowledges another number than this one's backend began with, or that number is not known.
#[inline]
pub(super) fn is_in_question(session: &Session<'_>, now_ms: u64, segment: &Segment) -> bool {
    let speaks = segment.flags.has(TcpFlags::ACK) && !segment.flags.has(TcpFlags::SYN);
    speaks
        && number_of(session) != Some(segment.ack)
        && (has_shown(session) || !(session.was_asked() && may_be_its(session, now_ms, segment)))
}

/// Whether a backend that nobody saw answer the SYN has shown its number all the same.
fn has_shown(session: &Session<'_>) -> bool {
    number_of(session).is_none() && at_rest(session, Side::Backend).next[0].is_some()
}

/// Whether a segment in question may be of this session, if nobody knows another one.
fn may_be_its(session: &Session<'_>, now_ms: u64, segment: &Segment) -> bool {
    if let Some(number) = number_of(session) {
        return segment.ack.wrapping_sub(number) < AHEAD;
    }
    match at_rest(session, Side::Backend).next {
        // It has answered the question for it, perhaps with more on its way than the client has got.
        [Some(end), _] => segment.ack.wrapping_sub(end).wrapping_add(AHEAD) <= 2 * AHEAD,
        _ => is_believed(session, now_ms, segment),
    }
}

/// Whether a client most likely has agreed with a backend of which nothing comes here: it would have repeated its
/// SYN-ACK by now, and had the time to deny what it was asked. What only acknowledges does no harm anywhere else;
/// before data go there, it is asked twice.
fn is_believed(session: &Session<'_>, now_ms: u64, segment: &Segment) -> bool {
    session.age_ms(now_ms) >= REPEATED_MS
        && session
            .not_denied_for_ms(segment.len > 0, now_ms)
            .is_some_and(|since| since >= DENIES_MS)
}

/// Whether a half-open session's backend speaks of it: it has answered its SYN, or acknowledges what it may have
/// got of it. (A port in TIME_WAIT answers a SYN with an acknowledgement of the connection before.)
pub(super) fn is_of_opening(after: SessionFlags, isn: u32, segment: &Segment) -> bool {
    after.has(SessionFlags::BACKEND_ANSWERED) || (1..AHEAD).contains(&segment.ack.wrapping_sub(isn))
}

/// Whether a segment of the client with this acknowledgement completes the handshake with the session's
/// backend. Only who got the SYN-ACK knows its number; further on is who completed it elsewhere.
pub(super) fn completes(session: &Session<'_>, ack: u32) -> bool {
    session
        .numbers(Side::Backend)
        .is_none_or(|(end, _)| end == ack || session.was_asked() && ack.wrapping_sub(end) < AHEAD)
}

impl Core {
    /// Finds the session of a client's segment that may not belong to the one that is here.
    #[cold]
    pub(super) fn whose(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        slot: Slot,
    ) -> Verdict {
        let Content::Transport(segment) = &meta.content else {
            return self.drop(DropReason::Internal); // only a segment can be in question
        };
        let session = self.table.session(slot);
        let known = number_of(&session).is_some();
        // What is a little further on than the own backend's number is not the other's.
        let beside = known && may_be_its(&session, at.now_ms, segment);
        if session.has_twin() {
            let excluded = known && !beside;
            match self.table.resolve_twin(slot, at.now_ms, excluded, segment.ack) {
                TwinVerdict::Other(other) => {
                    self.replaced = self.replaced.wrapping_add(1);
                    return self.known(at, frame, key, meta, (other, Side::Client));
                }
                TwinVerdict::Contended => return self.park(at, frame, key, meta, WaitFor::Lock),
                TwinVerdict::Own => {}
            }
        }
        let may_be_its = may_be_its(&session, at.now_ms, segment);
        let asked = session.was_asked();
        match self.waited_since_ns {
            _ if asked && may_be_its => {}
            Some(since_ns) if may_be_its || self.is_over(at.now_ns, since_ns) => {}
            // The question goes on.
            Some(_) => return self.park(at, frame, key, meta, WaitFor::Answer),
            // Those whose session is not known at all need the questions more.
            None if !self.room.holds(key) && !self.budget.has_plenty(at.now_ns) => {
                if !may_be_its {
                    return self.drop(DropReason::AskBudget);
                }
            }
            None => {
                if self.try_ask(at, frame, key, meta).is_ok() {
                    return Verdict::Parked;
                }
            }
        }
        if !may_be_its && !known {
            return self.ask_backend(at, frame, slot, segment, DropReason::OtherBackend);
        }
        if !may_be_its {
            return self.drop(DropReason::OtherBackend);
        }
        self.table.session(slot).note_asked();
        if has_shown(&self.table.session(slot)) {
            self.note_agreement(slot);
        }
        self.known(at, frame, key, meta, (slot, Side::Client))
    }

    /// A client acknowledges what a backend has shown that nobody saw answer the SYN: they have agreed on the
    /// session, and no SYN-ACK will come any more to show it.
    fn note_agreement(&mut self, slot: Slot) {
        let session = self.table.session(slot);
        let undecided = session.has_twin();
        let agreed = SessionFlags::BACKEND_ANSWERED;
        session.set_flags(session.flags().with(agreed).with(SessionFlags::ESTABLISHED));
        self.note_young(slot);
        if undecided {
            self.table.twin_won(slot);
        }
    }

    /// Whether a session is here, but packets of its client may wait to be told of another one.
    pub(super) fn is_half_open(&self, key: &FlowKey, (slot, side): (Slot, Side)) -> bool {
        let session = self.table.session(slot);
        key.protocol == Protocol::Tcp
            && side == Side::Client
            && !session.flags().established()
            && !(session.has_twin() && number_of(&session).is_some())
    }

    /// Resets half-open connections of backends whose session gave way to its twin. Cheap when there are
    /// none; to be called once a turn.
    pub fn reset_half_open(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        release: &mut Release<'_>,
    ) {
        for _ in 0..RESETS {
            let Some(reset) = self.table.next_reset() else { return };
            let _ = self.begin(tables, now_ns);
            let segment = segment_of(&reset).zip(tables.next_hop(&reset.reply.src));
            if let Some((segment, hop)) = segment {
                let mut bytes = bare_frame(&segment, hop.dst_mac, hop.src_mac);
                self.counters.add(Count::TwinsReset, 1);
                release(&mut Frame::new(&mut bytes, 0, BARE_FRAME), Verdict::Transmit);
            }
            self.end_batch();
        }
    }
}

fn segment_of(reset: &HalfOpenReset) -> Option<BareSegment> {
    let reply = &reset.reply;
    Some(BareSegment {
        src: (reply.dst.v4_octets()?, reply.dst_port),
        dst: (reply.src.v4_octets()?, reply.src_port),
        seq: reset.seq,
        ack: 0,
        flags: TcpFlags::RST,
    })
}
