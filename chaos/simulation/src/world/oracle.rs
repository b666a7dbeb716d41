//! Where packets have to go, judged where they leave a director, whether or not an end would notice.
//!
//! Of every opening of a client (its socket and initial sequence number) it is known which backends got
//! the SYN and whose answer the client took; of every UDP flow, where it went. Packets that wait at a
//! director are known as well ([`Waiting`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use holdfast_director::core::DropReason;
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::SessionRecord;

use super::World;
use super::marks::Mark;
use super::paths::Meeting;
use super::rules::Rule;
use super::trace::FlowId;
use super::waiting::Waiting;
use crate::director::frame;
use crate::director::packets::Sent;
use crate::endpoint::packet::{Packet, TCP, UDP};
use crate::endpoint::segment::Flags;
use crate::plan::cluster;

/// Sequence numbers of an opening lie within this beyond its first one.
const REACH: u32 = 1 << 20;

/// One opening of a client.
#[derive(Debug)]
struct Opening {
    isn: u32,
    /// Backends that got its SYN.
    tried: BTreeSet<u32>,
    /// The one whose answer the client took; several, if their numbers do not tell.
    taken: BTreeSet<u32>,
    /// The first number of that answer, and to which of the directors' sockets it went.
    answer: Option<u32>,
    locals: BTreeSet<u64>,
}

impl Opening {
    fn of(isn: u32) -> Opening {
        let (tried, taken, locals) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Opening { isn, tried, taken, answer: None, locals }
    }
}

/// What is known of all clients.
#[derive(Default)]
pub(super) struct Oracle {
    openings: BTreeMap<FlowId, Vec<Opening>>,
    /// Who has answered an opening with which number, and to which of the directors' sockets.
    answers: BTreeMap<(FlowId, u32, u32), BTreeSet<(u32, u64)>>,
    /// Where each UDP flow goes, and those that went elsewhere with good reason.
    flows: BTreeMap<FlowId, u32>,
    moved: BTreeSet<FlowId>,
    /// What waits at each director.
    pub(super) waiting: Waiting,
}

/// What tells a packet from others, on both legs.
#[derive(PartialEq, Eq)]
pub(super) enum Token<'a> {
    Segment(u32, u32, u8, &'a [u8]),
    Datagram(&'a [u8]),
    Other,
}

/// What tells this packet.
pub(super) fn token(packet: &[u8]) -> Token<'_> {
    let Ok(ip) = Packet::parse(packet) else { return Token::Other };
    match ip.protocol {
        TCP if ip.payload.len() >= 20 => {
            let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| ip.payload[at + i]));
            let data = ip.payload.get(usize::from(ip.payload[12] >> 4) * 4..).unwrap_or(&[]);
            Token::Segment(word(4), word(8), ip.payload[13], data)
        }
        UDP => Token::Datagram(ip.payload.get(8..).unwrap_or(&[])),
        _ => Token::Other,
    }
}

impl Oracle {
    /// The opening that a number of a client belongs to: the one it is nearest behind.
    fn opening(&self, flow: FlowId, seq: u32) -> Option<(usize, &Opening)> {
        let openings = self.openings.get(&flow)?.iter().enumerate();
        let near = openings.filter(|(_, opening)| seq.wrapping_sub(opening.isn) < REACH);
        near.min_by_key(|(_, opening)| seq.wrapping_sub(opening.isn))
    }

    /// Whether a record is of this client's connection, and not of an earlier use of its port.
    pub(super) fn is_of_latest(&self, flow: FlowId, record: &SessionRecord) -> bool {
        let latest = self.openings.get(&flow).and_then(|openings| openings.last());
        record.key.protocol == Protocol::Udp
            || latest.is_none_or(|latest| latest.isn == record.incarnation.isn)
    }

    /// Whether a record may be of the connection that this client has agreed on: not of another one of the same
    /// opening.
    pub(super) fn may_be_agreed(&self, flow: FlowId, record: &SessionRecord) -> bool {
        let latest = self.openings.get(&flow).and_then(|openings| openings.last());
        let SocketAddr::V4(local) = record.reply.destination() else { return true };
        let local = frame::socket_number(&local);
        self.is_of_latest(flow, record)
            && latest.is_none_or(|o| o.locals.is_empty() || o.locals.contains(&local))
    }

    /// Whether a SYN with this number was sent to this backend.
    pub(super) fn was_offered(&self, flow: FlowId, backend: u32, isn: u32) -> bool {
        let of_it = |opening: &Opening| opening.isn == isn && opening.tried.contains(&backend);
        self.openings.get(&flow).is_some_and(|openings| openings.iter().any(of_it))
    }

    /// A backend answers a SYN.
    fn answered(&mut self, flow: FlowId, from: (u32, u64), client_isn: u32, isn: u32) {
        self.answers.entry((flow, client_isn, isn)).or_default().insert(from);
    }

    /// A client takes the answer with these numbers.
    fn taken(&mut self, flow: FlowId, client_isn: u32, isn: u32) {
        let from = self.answers.get(&(flow, client_isn, isn)).cloned().unwrap_or_default();
        let openings = self.openings.get_mut(&flow).into_iter().flatten();
        for opening in openings.filter(|o| o.isn == client_isn) {
            opening.taken = from.iter().map(|(backend, _)| *backend).collect();
            opening.locals = from.iter().map(|(_, local)| *local).collect();
            opening.answer = Some(isn);
        }
    }

    /// The first number of a client's latest opening.
    pub(super) fn latest(&self, flow: FlowId) -> Option<u32> {
        self.openings.get(&flow)?.last().map(|opening| opening.isn)
    }

    /// Whether of two openings of a client the second came after the first.
    pub(super) fn follow(&self, flow: FlowId, (first, second): (u32, u32)) -> bool {
        let at = |isn: u32| self.openings.get(&flow)?.iter().position(|opening| opening.isn == isn);
        at(first).zip(at(second)).is_some_and(|(first, second)| first < second)
    }

    /// What a client's segment has to do with a record that a director knows, if it has anything.
    pub(super) fn meets(
        &self,
        flow: FlowId,
        known: &SessionRecord,
        seq: u32,
        ack: u32,
    ) -> Option<Meeting> {
        let (_, opening) = self.opening(flow, seq)?;
        let local = match known.reply.destination() {
            SocketAddr::V4(local) => frame::socket_number(&local),
            SocketAddr::V6(_) => return None,
        };
        if opening.isn != known.incarnation.isn {
            let later = self.follow(flow, (known.incarnation.isn, opening.isn));
            return later.then_some(Meeting::EarlierUse);
        }
        let beyond = |answer: u32| (2..REACH).contains(&ack.wrapping_sub(answer));
        match opening.locals.contains(&local) {
            true => Some(Meeting::Own { further_on: opening.answer.is_some_and(beyond) }),
            false => (!opening.locals.is_empty()).then_some(Meeting::OtherTwin),
        }
    }

    /// A segment of a client goes to a backend. What is wrong with that.
    fn segment(&mut self, flow: FlowId, backend: u32, seq: u32, flags: Flags) -> Option<String> {
        if flags.has(Flags::SYN) {
            let openings = self.openings.entry(flow).or_default();
            if openings.last().is_none_or(|last| last.isn != seq) {
                let again = openings.iter().position(|opening| opening.isn == seq);
                if let Some(at) = again {
                    openings[at].tried.insert(backend); // A late one of an earlier opening.
                    return None;
                }
                openings.push(Opening::of(seq));
            }
            openings.last_mut()?.tried.insert(backend);
            return None;
        }
        let latest = self.openings.get(&flow)?.len() - 1;
        let (at, opening) = self.opening(flow, seq)?;
        // A bare reset answers a segment of somebody the client has nothing to do with.
        let answers = flags.has(Flags::RST) && !flags.has(Flags::ACK);
        if answers || opening.taken.is_empty() || opening.taken.contains(&backend) {
            return None;
        }
        // A late segment of an earlier opening meets its successor: TCP is made for that.
        if at < latest && self.openings[&flow][latest].tried.contains(&backend) {
            return None;
        }
        let (taken, isn) = (&opening.taken, opening.isn);
        Some(format!("a segment of opening {isn} goes to backend {backend} instead of {taken:?}"))
    }

    /// A datagram of a client goes to a backend. What is wrong with that; `free` is whether a flow that
    /// nobody knows may be scheduled anew, from one backend to the other.
    fn datagram(
        &mut self,
        flow: FlowId,
        backend: u32,
        free: impl Fn(u32, u32) -> bool,
    ) -> Option<String> {
        let before = self.flows.insert(flow, backend).filter(|before| *before != backend)?;
        if free(before, backend) {
            self.moved.insert(flow);
            return None;
        }
        Some(format!("a UDP flow goes to backend {backend} instead of {before}"))
    }

    /// Whether anything of this UDP flow went to a backend.
    pub(super) fn has_gone(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Whether this UDP flow went elsewhere with good reason: its ends notice that.
    pub(super) fn has_moved(&self, flow: FlowId) -> bool {
        self.moved.contains(&flow)
    }
}

/// Reasons that a packet of a session has that the director does not know.
pub(super) fn is_of_unknown(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::AskBudget
            | DropReason::AskBudgetPrefix
            | DropReason::WaitingRoomFull
            | DropReason::WaitingFlowFull
            | DropReason::ParkTooLarge
            | DropReason::MissTimeout
            | DropReason::MissUnknown
            | DropReason::SessionDenied
            | DropReason::DeniedOnce
            | DropReason::ReplyDenied
            | DropReason::Contended
    )
}

impl World {
    /// A backend sends a packet.
    pub(super) fn note_answer(&mut self, backend: u32, packet: &[u8]) {
        let Token::Segment(seq, ack, flags, _) = token(packet) else { return };
        if Flags(flags).has(Flags::SYN)
            && let Some(flow) = self.flow_of(packet)
        {
            let local = frame::tuple(packet).map_or(0, |(_, dst, _)| frame::socket_number(&dst));
            self.oracle.answered(flow, (backend, local), ack.wrapping_sub(1), seq);
        }
    }

    /// The packet that a client has just been given has connected it.
    pub(super) fn note_taken(&mut self, flow: FlowId, packet: &[u8]) {
        if let Token::Segment(seq, ack, flags, _) = token(packet)
            && Flags(flags).has(Flags::SYN)
        {
            self.oracle.taken(flow, ack.wrapping_sub(1), seq);
        }
    }

    /// What a director makes of a packet. Gives back what had come in, if it had waited.
    pub(super) fn judge_sent(&mut self, id: u32, sent: &Sent) -> Option<Vec<u8>> {
        let now = sent.packet.as_deref().or(sent.before.as_deref());
        let waited = match sent.waited {
            true => now.and_then(|now| self.oracle.waiting.waited(id, now)),
            false => None,
        };
        if let (true, None, Some(packet)) = (sent.waited, &waited, &sent.packet)
            && let Some(flow) = self.flow_of(packet)
        {
            let backend = self.oracle.waiting.answered_in_place(id, flow, packet);
            self.marks.reach(Mark::BackendResetInPlace, u64::from(backend));
        }
        let before = waited.as_deref().or(sent.before.as_deref().filter(|_| !sent.waited));
        if let (Some(reason), Some(before), Some(known)) = (sent.dropped, before, &sent.known)
            && is_of_unknown(reason)
        {
            self.judge_dropped(id, reason, before, known);
        }
        let Some(packet) = &sent.packet else {
            if let (None, Some(before), false) = (sent.dropped, before, sent.waited) {
                self.oracle.waiting.waits(id, before.to_vec());
            }
            return waited;
        };
        let Some(before) = before else {
            // Probes, resets and what else a director says by itself carry nothing.
            let says = match token(packet) {
                Token::Segment(_, _, flags, data) => {
                    !data.is_empty() || Flags(flags).has(Flags::SYN) || Flags(flags).has(Flags::FIN)
                }
                Token::Datagram(_) => true,
                Token::Other => false,
            };
            if says {
                let flow = self.flow_of(packet);
                self.violate(
                    Rule::OneBackend,
                    format!("director {id} sends a packet that has not come, or was sent before"),
                    flow,
                );
            }
            return waited;
        };
        let (Some((_, dst, _)), Some(flow)) = (frame::tuple(packet), self.flow_of(before)) else {
            return waited;
        };
        let Some(backend) = cluster::backend_at(*dst.ip()) else { return waited };
        let wrong = match token(packet) {
            Token::Segment(seq, _, flags, _) => {
                self.oracle.segment(flow, backend, seq, Flags(flags))
            }
            Token::Datagram(_) => {
                let draining = &self.draining;
                let free = |a: u32, b: u32| draining.contains(&a) || draining.contains(&b);
                self.oracle.datagram(flow, backend, free)
            }
            Token::Other => None,
        };
        if let Some(wrong) = wrong {
            self.violate(Rule::OneBackend, format!("director {id}: {wrong}"), Some(flow));
        }
        waited
    }

    /// A director drops a packet as one of a session it does not know; its table knew one with that key.
    fn judge_dropped(&mut self, id: u32, reason: DropReason, before: &[u8], known: &SessionRecord) {
        let open = known.flags.established()
            && !known.flags.closing()
            && known.idle_ms() < known.idle_limit_ms();
        let Some(flow) = self.flow_of(before) else { return };
        let of_client = matches!(known.key.source(), SocketAddr::V4(at) if {
            frame::tuple(before).is_some_and(|(src, ..)| src == at)
        });
        let SocketAddr::V4(backend) = known.reply.source() else { return };
        let Some(backend) = cluster::backend_at(*backend.ip()) else { return };
        let same = match token(before) {
            Token::Segment(seq, ack, flags, _) => {
                let seq = if of_client { seq } else { ack };
                let of = self.oracle.opening(flow, seq).map(|(_, opening)| opening);
                let is = of
                    .is_some_and(|o| o.isn == known.incarnation.isn && o.taken.contains(&backend));
                is && !Flags(flags).has(Flags::SYN) && !Flags(flags).has(Flags::RST)
            }
            Token::Datagram(_) => self.oracle.flows.get(&flow) == Some(&backend),
            Token::Other => false,
        };
        if open && same {
            let what = format!("director {id} drops ({reason:?}) a packet of a session it knows");
            self.violate(Rule::WithoutLeader, what, Some(flow));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Flags = Flags::SYN;
    const ACK: Flags = Flags::ACK;

    /// A client that has agreed with backend 1; its SYN came to backend 2 as well.
    fn agreed(isn: u32) -> Oracle {
        let mut oracle = Oracle::default();
        for backend in [1, 2] {
            assert_eq!(oracle.segment(7, backend, isn, SYN), None);
        }
        oracle.answered(7, (1, 11), isn, 500);
        oracle.answered(7, (2, 12), isn, 900);
        oracle.taken(7, isn, 500);
        oracle
    }

    #[test]
    fn only_the_backend_that_the_client_took_gets_its_segments() {
        let mut oracle = agreed(u32::MAX);
        assert_eq!(oracle.segment(7, 1, 0, ACK), None);
        assert!(oracle.segment(7, 2, 0, ACK).is_some(), "its twin");
        assert!(oracle.segment(7, 3, 4_000, ACK).is_some(), "anybody");
        assert_eq!(oracle.segment(7, 2, 0, Flags::RST), None, "who is not meant is told so");
    }

    #[test]
    fn late_segments_may_meet_the_next_opening_only() {
        let mut oracle = agreed(1_000);
        assert_eq!(oracle.segment(7, 3, 500_000, SYN), None);
        assert_eq!(oracle.segment(7, 3, 1_001, ACK), None);
        assert!(oracle.segment(7, 2, 1_001, ACK).is_some());
        oracle.answered(7, (3, 13), 500_000, 1);
        oracle.taken(7, 500_000, 1);
        assert!(oracle.segment(7, 1, 500_001, ACK).is_some(), "the new one at the old backend");
    }

    #[test]
    fn a_udp_flow_moves_for_a_reason_only() {
        let mut oracle = Oracle::default();
        assert_eq!(oracle.datagram(7, 1, |_, _| false), None);
        assert_eq!(oracle.datagram(7, 1, |_, _| false), None);
        assert!(oracle.datagram(7, 2, |_, _| false).is_some() && !oracle.has_moved(7));
        assert_eq!(oracle.datagram(7, 1, |from, to| (from, to) == (2, 1)), None);
        assert!(oracle.has_moved(7));
    }
}
