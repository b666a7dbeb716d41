//! Packets whose session this director does not know (PROTOCOLS, "A packet that nobody here knows").

use holdfast_schema::config::{NewUdp, UnknownSession};
use holdfast_schema::flow::{Addr, FlowKey, Protocol};

use super::answer;
use super::budget::Refused;
use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::{Content, Meta, Segment};
use super::miss::MissKind;
use super::reason::DropReason;
use super::waiting::WaitFor;
use super::{Core, Moment, Standing};
use crate::tables::{ForwardingTables, ListenerEntry};
use crate::wire::TcpFlags;

/// Whether packets from this address may begin something: it is unicast, and none of ours.
pub(super) fn may_be_client(tables: &ForwardingTables, src: &Addr) -> bool {
    let unicast = match src.v4_octets() {
        // This network, loopback, multicast and the reserved rest (RFC 6890).
        Some([first, ..]) => first != 0 && first != 127 && first < 224,
        None => false,
    };
    unicast && !tables.is_vip(src) && !tables.is_lip(src)
}

impl Core {
    /// Whether a session was denied a moment ago, and nobody has said since then that there is one.
    fn remembers_denial(&self, at: &Moment<'_>, key: &FlowKey) -> bool {
        self.denials.last_ns(key).is_some_and(|denied_ns| {
            at.now_ns.saturating_sub(denied_ns) < self.config.remember_denial_ns
                && !self.table.heard_since(key, denied_ns / 1_000_000)
        })
    }

    /// Judges a packet whose session is neither in L1 nor in L2.
    pub(super) fn unknown(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        standing: Standing,
    ) -> Verdict {
        let denied = standing == Standing::Denied || self.remembers_denial(at, key);
        if at.tables.is_vip(&key.dst) {
            let Some(listener) = at.tables.listener(&key.dst, key.dst_port, key.protocol) else {
                return self.drop(DropReason::NoListener);
            };
            match (&meta.content, key.protocol) {
                (Content::Error, _) if denied => self.drop(DropReason::IcmpDenied),
                (Content::Error, _) => self.ask(at, frame, key, meta),
                (Content::Transport(segment), Protocol::Tcp) => {
                    self.unknown_tcp(at, frame, key, meta, segment, denied, listener)
                }
                (Content::Transport(_), Protocol::Udp) => {
                    let asks = self.udp_ask || listener.new_udp == NewUdp::Ask;
                    if denied || !asks {
                        self.open_udp(at, frame, key, meta, listener)
                    } else {
                        self.ask_udp(at, frame, key, meta, listener)
                    }
                }
            }
        } else if at.tables.is_lip(&key.dst) {
            match &meta.content {
                Content::Transport(segment) if segment.flags.opens() => {
                    self.drop(DropReason::SynToLip)
                }
                Content::Transport(_) if denied => self.drop(DropReason::ReplyDenied),
                Content::Error if denied => self.drop(DropReason::IcmpDenied),
                _ => self.ask(at, frame, key, meta),
            }
        } else {
            self.drop(DropReason::NotOurs)
        }
    }

    #[allow(clippy::too_many_arguments)] // all of it is what is known of one packet
    fn unknown_tcp(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        segment: &Segment,
        denied: bool,
        listener: &ListenerEntry,
    ) -> Verdict {
        if segment.flags.opens() {
            return self.open_tcp(at, frame, key, meta, segment, None);
        }
        if segment.flags.has(TcpFlags::SYN) && !segment.flags.has(TcpFlags::ACK) {
            return self.drop(DropReason::TcpFlags); // SYN with RST or FIN
        }
        if !denied {
            return self.ask(at, frame, key, meta);
        }
        if listener.unknown_session == UnknownSession::Drop || segment.flags.has(TcpFlags::RST) {
            return self.drop(DropReason::SessionDenied);
        }
        // The news of it may be on their way to its homes, and its client will say this again.
        let numbers = (segment.seq, segment.ack);
        if !self.denials.confirm(key, numbers, at.now_ns, self.config.confirm_denial_ns) {
            return self.drop(DropReason::DeniedOnce);
        }
        let Some(hop) = at.tables.next_hop(&key.src) else {
            return self.drop(DropReason::NoRoute);
        };
        match answer::reset(frame, segment, &hop) {
            Some(()) => {
                self.counters.add(Count::AnsweredReset, 1);
                Verdict::Transmit
            }
            None => self.drop(DropReason::SessionDenied),
        }
    }

    /// Asks the others, within the budget.
    pub(super) fn ask(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
    ) -> Verdict {
        match self.charge(at, key) {
            Ok(()) => self.park(at, frame, key, meta, WaitFor::Answer),
            Err(Refused::Overall) => self.drop(DropReason::AskBudget),
            Err(Refused::Prefix) => self.drop(DropReason::AskBudgetPrefix),
        }
    }

    /// Asks the others, if the budget and the room allow it.
    pub(super) fn try_ask(
        &mut self,
        at: &Moment<'_>,
        frame: &Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
    ) -> Result<(), ()> {
        self.charge(at, key).map_err(|_| ())?;
        self.try_park(at, frame, key, meta, WaitFor::Answer).map_err(|_| ())
    }

    /// Asks the others about a UDP flow; schedules it when the budget is used up, or when its datagram
    /// cannot wait.
    fn ask_udp(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        listener: &ListenerEntry,
    ) -> Verdict {
        if self.charge(at, key).is_ok() {
            match self.try_park(at, frame, key, meta, WaitFor::Answer) {
                Ok(()) => return Verdict::Parked,
                // The question is on its way; a session of ours might be a second one.
                Err(reason) if self.room.holds(key) => return self.drop(reason),
                Err(_) => {}
            }
        }
        self.counters.add(Count::UdpScheduledUnasked, 1);
        self.open_udp(at, frame, key, meta, listener)
    }

    pub(super) fn charge(&mut self, at: &Moment<'_>, key: &FlowKey) -> Result<(), Refused> {
        if self.room.holds(key) {
            return Ok(()); // the question is on its way
        }
        let client = if at.tables.is_vip(&key.dst) { key.src.v4_octets() } else { None };
        self.budget.take(client, at.now_ns)
    }

    /// Puts a packet into the waiting room.
    pub(super) fn park(
        &mut self,
        at: &Moment<'_>,
        frame: &Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        wait_for: WaitFor,
    ) -> Verdict {
        match self.try_park(at, frame, key, meta, wait_for) {
            Ok(()) => Verdict::Parked,
            Err(reason) => self.drop(reason),
        }
    }

    /// Puts a packet into the waiting room if there is room for it.
    pub(super) fn try_park(
        &mut self,
        at: &Moment<'_>,
        frame: &Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        wait_for: WaitFor,
    ) -> Result<(), DropReason> {
        let kind = match meta.content {
            Content::Error => MissKind::IcmpError,
            Content::Transport(_) if at.tables.is_lip(&key.dst) => MissKind::LipReply,
            Content::Transport(_) => match key.protocol {
                Protocol::Tcp => MissKind::Tcp,
                Protocol::Udp => MissKind::Udp,
            },
        };
        let since_ns = self.waited_since_ns.unwrap_or(at.now_ns);
        self.room.park(key, kind, wait_for, since_ns, frame.packet())?;
        self.counters.add(Count::Parked, 1);
        Ok(())
    }
}
