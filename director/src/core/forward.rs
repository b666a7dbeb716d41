//! Packets of known sessions.

use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{ForwardingMode, SessionFlags};

use super::answer::{self, IcmpError};
use super::counters::Count;
use super::doubt::acknowledges_opening;
use super::frame::{Frame, Verdict};
use super::meta::{Content, Meta, Segment};
use super::nat;
use super::probe::End;
use super::reason::DropReason;
use super::{Core, Moment};
use super::{track, twin};
use crate::session::{Session, Side, Slot};
use crate::wire::TcpFlags;

/// Why a packet is not forwarded.
enum Obstacle {
    Reason(DropReason),
    /// The sender should hear of it.
    Tell(IcmpError),
    /// The segment begins a new connection in place of one that is closing or has expired.
    Reopen,
    /// The segment may belong to another session of the same opening.
    Twin,
    /// The backend has accepted another connection over the session's keys.
    Reborn,
    /// The connection has expired, and this is the answer of an end at rest.
    Over,
}

/// Whether the backend accepts another connection than the one that the session began with.
#[cold]
fn accepts_another(session: &Session<'_>, side: Side, segment: &Segment) -> bool {
    side == Side::Backend
        && segment.flags.has(TcpFlags::ACK)
        && !acknowledges_opening(session, segment.ack)
}

impl Core {
    /// Whether a backend's SYN-ACK of another opening can be an answer, and no stray one (a late copy, or made
    /// up): the session is over, or begins to be; or the backend has got such a SYN, from here, or perhaps by
    /// another director.
    #[cold]
    fn may_be_reborn(&self, now_ms: u64, found: (Slot, Side)) -> bool {
        let session = self.table.session(found.0);
        let (flags, expiring) = session.standing();
        let over = flags.ending() || expiring;
        !session.is_detached()
            && (over || session.had_foreign_syn() || self.is_hearsay(now_ms, found))
    }

    /// Judges a packet whose session is known.
    #[inline]
    pub(super) fn known(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        (slot, side): (Slot, Side),
    ) -> Verdict {
        let outcome = match &meta.content {
            Content::Transport(segment) => {
                self.forward(at, frame, key, meta, segment, (slot, side))
            }
            Content::Error => self.forward_error(at, frame, meta, (slot, side)),
        };
        match outcome {
            Ok(()) => {
                let (packets, bytes) = match side {
                    Side::Client => (Count::ToBackendPackets, Count::ToBackendBytes),
                    Side::Backend => (Count::ToClientPackets, Count::ToClientBytes),
                };
                self.counters.add(packets, 1);
                self.counters.add(bytes, frame.len() as u64);
                Verdict::Transmit
            }
            Err(obstacle) => self.hindered(at, frame, key, meta, (slot, side), obstacle),
        }
    }

    /// What becomes of a packet that is not forwarded as it is.
    #[cold]
    #[inline(never)]
    fn hindered(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        (slot, side): (Slot, Side),
        obstacle: Obstacle,
    ) -> Verdict {
        let segment = match &meta.content {
            Content::Transport(segment) => Some(segment),
            Content::Error => None,
        };
        match (obstacle, segment) {
            (Obstacle::Reason(reason), _) => self.drop(reason),
            (Obstacle::Tell(error), _) => self.tell(at, frame, key, error),
            (Obstacle::Twin, _) => self.whose(at, frame, key, meta, slot),
            (Obstacle::Reopen, Some(segment)) => {
                self.open_tcp(at, frame, key, meta, segment, Some(slot))
            }
            (Obstacle::Reborn, Some(segment)) => {
                self.begin_again(at, frame, key, meta, segment, slot)
            }
            (Obstacle::Over, Some(segment)) => {
                self.reset_end(at, frame, key, segment, (slot, side))
            }
            // Only a segment can show these.
            (Obstacle::Reopen | Obstacle::Reborn | Obstacle::Over, None) => {
                self.drop(DropReason::Internal)
            }
        }
    }

    #[inline]
    fn forward(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        segment: &Segment,
        (slot, side): (Slot, Side),
    ) -> Result<(), Obstacle> {
        let (flags, expiring) = self.table.session(slot).standing();
        let tcp = key.protocol == Protocol::Tcp;
        let opens = tcp && segment.flags.opens();
        if expiring && !opens {
            match self.ends(at, (slot, side), segment) {
                End::Forward => {}
                End::Wait => return Err(Obstacle::Reason(DropReason::EndAtRest)),
                End::Reset => return Err(Obstacle::Over),
            }
        }
        let session = self.table.session(slot);
        // The client's number matters for what opens or may establish a connection only.
        let isn = if opens || tcp && !flags.established() { session.incarnation().isn } else { 0 };
        let over = flags.closing() || expiring;
        // Whether the segment is of another opening than the session's.
        let mut foreign = opens && side == Side::Client && segment.seq != isn;
        if foreign && over {
            return Err(Obstacle::Reopen);
        }
        if tcp && segment.flags.has(TcpFlags::SYN) && accepts_another(&session, side, segment) {
            if self.may_be_reborn(at.now_ms, (slot, side)) {
                return Err(Obstacle::Reborn);
            }
            foreign = true;
        }
        let half_open = tcp && !flags.established();
        if half_open
            && side == Side::Client
            && self.table.expects_twins()
            && twin::is_in_question(&session, at.now_ms, segment)
        {
            return Err(Obstacle::Twin);
        }
        let undecided = half_open && session.has_twin();
        if session.mode() != ForwardingMode::FullNat {
            return Err(Obstacle::Reason(DropReason::UnsupportedMode));
        }
        let other = match side {
            Side::Client => session.reply(),
            Side::Backend => session.key(),
        };
        let ends = nat::endpoints(&other).ok_or(Obstacle::Reason(DropReason::UnsupportedMode))?;
        if meta.ttl <= 1 {
            return Err(Obstacle::Tell(IcmpError::TtlExceeded));
        }
        let hop = self.hops.get(at, &other.src, ends.dst);
        let hop = hop.ok_or(Obstacle::Reason(DropReason::NoRoute))?;
        if meta.total_len > hop.mtu {
            return Err(match meta.dont_fragment {
                true => Obstacle::Tell(IcmpError::TooBig(hop.mtu)),
                false => Obstacle::Reason(DropReason::TooBig),
            });
        }
        if !nat::translate(frame.packet_mut(), meta, key.protocol, &ends, &hop) {
            return Err(Obstacle::Reason(DropReason::Internal));
        }
        if tcp
            && segment.flags.has(TcpFlags::RST)
            && !track::reset_is_believed(flags, side, segment, isn, |of| session.numbers(of))
        {
            if track::denies_agreement(flags, side, segment) {
                if !flags.has(SessionFlags::DENIED) {
                    // Those hear of it who carry the client's side on: the answer came here.
                    session.set_flags(SessionFlags::DENIED);
                    self.note_young(slot);
                }
                return Err(Obstacle::Reason(DropReason::OtherBackend));
            }
            // Nothing is noted of it: its number would pass for the sender's at the next one.
            self.counters.add(Count::ResetsUnbelieved, 1);
            return Ok(());
        }
        let completes = || twin::completes(&session, segment.ack);
        if foreign {
            // What comes of it, its backend says. Nothing else is noted of numbers that anybody can make up.
            if side == Side::Client {
                session.note_foreign_syn();
            }
            return Ok(());
        }
        let after = track::after(flags, key.protocol, side, segment, isn, completes);
        let reset = segment.flags.has(TcpFlags::RST);
        if half_open && side == Side::Backend && !reset && !twin::is_of_opening(after, isn, segment)
        {
            return Ok(()); // Its numbers are an earlier connection's, and would pass for this one's.
        }
        session.touch(side, at.now_ms, segment.seq.wrapping_add(segment.len), segment.ack);
        if after != flags {
            session.set_flags(after);
            let newly = |flag| after.has(flag) && !flags.has(flag);
            if tcp && newly(SessionFlags::BACKEND_ANSWERED) && !after.established() {
                // Whoever carries it on can tell its packets from a twin's by the backend's number.
                self.note_young(slot);
            }
            if newly(SessionFlags::ESTABLISHED) {
                // Its homes should know that it is no half-open one: whoever carries it on sees no
                // handshake.
                self.note_young(slot);
                if undecided {
                    self.table.twin_won(slot);
                }
            }
        }
        Ok(())
    }

    /// An ICMP error neither refreshes nor ends its session (RFC 5508 REQ-7): anybody can send one.
    fn forward_error(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        meta: &Meta,
        (slot, side): (Slot, Side),
    ) -> Result<(), Obstacle> {
        let session = self.table.session(slot);
        if session.mode() != ForwardingMode::FullNat {
            return Err(Obstacle::Reason(DropReason::UnsupportedMode));
        }
        let other = match side {
            Side::Client => session.reply(),
            Side::Backend => session.key(),
        };
        let ends = nat::endpoints(&other).ok_or(Obstacle::Reason(DropReason::UnsupportedMode))?;
        // No ICMP error is ever sent about an ICMP error (RFC 1122 section 3.2.2).
        if meta.ttl <= 1 {
            return Err(Obstacle::Reason(DropReason::TtlExpired));
        }
        let hop = self.hops.get(at, &other.src, ends.dst);
        let hop = hop.ok_or(Obstacle::Reason(DropReason::NoRoute))?;
        if meta.total_len > hop.mtu {
            return Err(Obstacle::Reason(DropReason::TooBig));
        }
        if !nat::translate_error(frame.packet_mut(), meta, &ends, &hop) {
            return Err(Obstacle::Reason(DropReason::Internal));
        }
        self.counters.add(Count::IcmpTranslated, 1);
        Ok(())
    }

    /// Answers a packet with an ICMP error, if the budget for those allows it.
    #[cold]
    pub(super) fn tell(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        error: IcmpError,
    ) -> Verdict {
        let (count, reason) = match error {
            IcmpError::TooBig(_) => (Count::AnsweredTooBig, DropReason::TooBig),
            IcmpError::TtlExceeded => (Count::AnsweredTtl, DropReason::TtlExpired),
        };
        let Some(hop) = at.tables.next_hop(&key.src) else { return self.drop(reason) };
        if !self.icmp_bucket.take(&self.icmp_rate, at.now_ns)
            || answer::icmp_error(frame, error, &hop).is_none()
        {
            return self.drop(reason);
        }
        self.counters.add(count, 1);
        Verdict::Transmit
    }
}
