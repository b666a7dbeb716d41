//! Sessions with a twin at another director ([`crate::session`], twins): the client's next segment
//! decides which one stays, and the backend of the other is told.

use holdfast_schema::flow::FlowKey;

use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::{Meta, Segment};
use super::waiting::WaitFor;
use super::{Core, Moment, Release};
use crate::session::{HalfOpenReset, Session, Side, Slot, TwinVerdict};
use crate::tables::ForwardingTables;
use crate::wire::TcpFlags;
use crate::wire::emit::{BARE_FRAME, BareSegment, bare_frame};

/// Backends' connections that are reset in one turn.
const RESETS: usize = 16;

/// Whether a segment of the client shows that it has agreed with another backend than this session's.
#[inline]
pub(super) fn is_of_the_other(session: &Session<'_>, segment: &Segment) -> bool {
    let speaks = segment.flags.has(TcpFlags::ACK) && !segment.flags.has(TcpFlags::SYN);
    let answered = session.numbers(Side::Backend).map(|(end, _)| end);
    speaks && answered != Some(segment.ack)
}

impl Core {
    /// A packet of the client belongs to the twin of its session, which takes its place.
    #[cold]
    pub(super) fn first_twin(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        slot: Slot,
    ) -> Verdict {
        match self.table.resolve_twin(slot, at.now_ms) {
            TwinVerdict::First(first) => self.known(at, frame, key, meta, (first, Side::Client)),
            TwinVerdict::Own => self.known(at, frame, key, meta, (slot, Side::Client)),
            TwinVerdict::Contended => self.park(at, frame, key, meta, WaitFor::Lock),
        }
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
