//! The ends of an expired TCP connection: they are probed, and reset when their answer shows that they
//! have been at rest.
//!
//! An endpoint takes a RST only with exactly the number that it expects (RFC 5961 section 3.2), and what
//! is known here may be a packet behind. A bare ACK with an old number makes it tell: it is not
//! acceptable, so the endpoint drops it and answers with an ACK of its own numbers (RFC 9293 section
//! 3.10.7.4).
//!
//! The answer tells more. If its numbers are those of the last packets known here, then this end sent and
//! got nothing since, by no way. If the other end says the same, or nothing to a second probe either, the
//! reset hits a connection at rest. Otherwise the connection is alive, and so is its session.
//!
//! The same probe asks a backend whether a client's segment that is far from all that is known of a session is
//! of its connection: its answer shows the numbers, and the client's next try fits them.
#![forbid(unsafe_code)]

use holdfast_schema::flow::FlowKey;

use super::answer;
use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::Segment;
use super::reason::DropReason;
use super::{Core, Moment, Release};
use crate::session::{Probe, Session, Side, Slot};
use crate::tables::ForwardingTables;
use crate::wire::TcpFlags;
use crate::wire::emit::{BARE_FRAME, BareSegment, bare_frame};

/// What is known of one direction: the sequence number behind its last packet, and the number that this
/// packet acknowledged.
type Numbers = Option<(u32, u32)>;

/// Two sources of each number that an end at rest has.
#[derive(Clone, Copy, Debug)]
pub(super) struct AtRest {
    /// What it sends next: behind its own last packet, or what its peer acknowledged.
    pub(super) next: [Option<u32>; 2],
    /// What it expects next: behind its peer's last packet, or what it acknowledged itself.
    pub(super) expected: [Option<u32>; 2],
}

impl AtRest {
    /// Of the end that sent `own`, whose peer sent `peer`.
    fn of(own: Numbers, peer: Numbers) -> AtRest {
        // A direction that nobody saw is told as zeros, and a SYN acknowledges nothing.
        let seen = |numbers: Numbers| numbers.filter(|numbers| *numbers != (0, 0));
        let end = |numbers: Numbers| seen(numbers).map(|(end, _)| end);
        let acked = |numbers: Numbers| seen(numbers).map(|(_, ack)| ack).filter(|ack| *ack != 0);
        AtRest { next: [end(own), acked(peer)], expected: [end(peer), acked(own)] }
    }

    /// Whether a segment of this end is what it answers to an old one, and shows that nothing was sent
    /// since. (A keep-alive is one number below.)
    fn shown_by(&self, segment: &Segment) -> bool {
        const WITH_MEANING: u8 = TcpFlags::FIN.0 | TcpFlags::SYN.0 | TcpFlags::RST.0;
        let bare = segment.flags.has(TcpFlags::ACK)
            && segment.flags.0 & WITH_MEANING == 0
            && !segment.data;
        bare && self.next.contains(&Some(segment.seq)) && self.expected.contains(&Some(segment.ack))
    }
}

/// What becomes of a segment of an expiring session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It is forwarded.
    Forward,
    /// Its sender is at rest, and the other end is to be heard first. (It carries no news.)
    Wait,
    /// Its sender is reset.
    Reset,
}

/// The later of two sequence numbers (RFC 1982), or the only one.
fn later([one, two]: [Option<u32>; 2]) -> Option<u32> {
    match (one, two) {
        (Some(one), Some(two)) => Some(if two.wrapping_sub(one) < 1 << 31 { two } else { one }),
        (known, None) | (None, known) => known,
    }
}

/// What is known of the numbers of an end.
pub(super) fn at_rest(session: &Session<'_>, side: Side) -> AtRest {
    let (client, backend) = (session.numbers(Side::Client), session.numbers(Side::Backend));
    match side {
        Side::Client => AtRest::of(client, backend),
        Side::Backend => AtRest::of(backend, client),
    }
}

/// The bare old segment that makes one end tell its numbers; it acknowledges `ack`, or what that end is known to send
/// next. None: the numbers are not even known roughly.
fn probe_of(session: &Session<'_>, side: Side, ack: Option<u32>) -> Option<BareSegment> {
    // Packets of an end lead from `src` to `dst`.
    let key = match side {
        Side::Client => session.key(),
        Side::Backend => session.reply(),
    };
    let rest = at_rest(session, side);
    Some(BareSegment {
        src: (key.dst.v4_octets()?, key.dst_port),
        dst: (key.src.v4_octets()?, key.src_port),
        seq: later(rest.expected)?.wrapping_sub(1),
        // If the connection is gone there, this is the number of the reset that comes back.
        ack: ack.or(later(rest.next))?,
        flags: TcpFlags::ACK,
    })
}

impl Core {
    /// Sends the probes of an expired session, if it still is one.
    pub fn probe(
        &mut self,
        tables: &ForwardingTables,
        now_ns: u64,
        probe: &Probe,
        release: &mut Release<'_>,
    ) {
        let _ = self.begin(tables, now_ns);
        let wanted = [
            (probe.client, Side::Client, Count::ProbesToClient),
            (probe.backend, Side::Backend, Count::ProbesToBackend),
        ];
        for (wanted, side, count) in wanted {
            if !wanted {
                continue;
            }
            let segment = self.table.probed(probe).and_then(|session| {
                let segment = probe_of(&session, side, None)?;
                let key = if side == Side::Client { session.key() } else { session.reply() };
                Some((segment, tables.next_hop(&key.src)?))
            });
            if let Some((segment, hop)) = segment {
                let mut bytes = bare_frame(&segment, hop.dst_mac, hop.src_mac);
                self.counters.add(count, 1);
                release(&mut Frame::new(&mut bytes, 0, BARE_FRAME), Verdict::Transmit);
            }
        }
        self.end_batch();
    }

    /// Asks the backend of a session for its numbers, in the place of a client's segment that they seem to refute,
    /// or that may be of another backend's connection.
    ///
    /// Where nobody saw the SYN answered, the question acknowledges what the client does: a backend that has agreed
    /// with the client tells its numbers, also if it waits for the end of the handshake. Any other one resets it,
    /// with the number that the client expects next; no director forwards that
    /// ([`denies_agreement`](super::track::denies_agreement)). (So does the right one if it has agreed by a SYN
    /// cookie and keeps nothing: RFC 4987 section 3.6. That connection is not carried on.)
    ///
    /// For a segment that asks for no answer once at the most: the client would answer the backend's answer with
    /// another one.
    #[cold]
    pub(super) fn ask_backend(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        slot: Slot,
        segment: &Segment,
        otherwise: DropReason,
    ) -> Verdict {
        let session = self.table.session(slot);
        let established = session.flags().established();
        let asks = segment.len > 0 || !session.was_probed();
        let ack = (!established).then_some(segment.ack);
        let probe = probe_of(&session, Side::Backend, ack).filter(|_| asks);
        let hop = at.tables.next_hop(&session.reply().src);
        let asked = probe.zip(hop).and_then(|(probe, hop)| answer::bare(frame, &probe, &hop));
        if asked.is_none() {
            return self.drop(otherwise);
        }
        session.note_probed(at.now_ms);
        self.counters.add(Count::AnsweredProbe, 1);
        Verdict::Transmit
    }

    /// Judges a segment of an expiring session. Whatever an end says that is no answer of one at rest
    /// brings its session back, but for a reset of its own.
    #[cold]
    pub(super) fn ends(
        &mut self,
        at: &Moment<'_>,
        (slot, side): (Slot, Side),
        segment: &Segment,
    ) -> End {
        let session = self.table.session(slot);
        if segment.flags.has(TcpFlags::RST) {
            return End::Forward;
        }
        let answered = session.may_be_answered(at.now_ms);
        let rests = at_rest(&session, side).shown_by(segment) || !self.table.vetoes();
        if answered && rests {
            return if session.shows_rest(side, at.now_ms) { End::Reset } else { End::Wait };
        }
        self.counters.add(Count::ExpiriesRefuted, 1);
        session.revive();
        End::Forward
    }

    /// Turns an end's answer into its reset.
    #[cold]
    pub(super) fn reset_end(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        segment: &Segment,
        (slot, side): (Slot, Side),
    ) -> Verdict {
        let Some(hop) = at.tables.next_hop(&key.src) else {
            return self.drop(DropReason::NoRoute);
        };
        if answer::reset(frame, segment, &hop).is_none() {
            return self.drop(DropReason::Internal);
        }
        self.counters.add(
            match side {
                Side::Client => Count::ExpiredClientsReset,
                Side::Backend => Count::ExpiredBackendsReset,
            },
            1,
        );
        self.table.session(slot).note_reset(side);
        Verdict::Transmit
    }
}
