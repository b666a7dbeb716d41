//! Rare paths that packets take through directors: noted where they are taken, for the marks. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use holdfast_director::core::DropReason;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{Incarnation, SessionFlags, SessionRecord, SessionSink};

use super::World;
use super::marks::Mark;
use super::oracle::{Token, token};
use super::trace::FlowId;
use crate::director::packets::Sent;
use crate::director::process::Process;
use crate::director::{Director, frame};
use crate::endpoint::segment::Flags;

/// What was seen this recently (ms) was never doubted once.
const JUST_MS: u32 = 200;

/// What is remembered of packets and deaths, until it has come to something.
#[derive(Default)]
pub(super) struct Paths {
    /// Sessions whose owner has died with the last news of them: which opening, and until when (us) they would
    /// have lived by what the others had heard.
    last_news: BTreeMap<FlowId, (u32, u64)>,
    /// Connections of which an end has answered a probe, at rest.
    rested: BTreeSet<FlowId>,
    /// Connections whose client was refused because everybody denied them.
    denied: BTreeSet<FlowId>,
    /// Half-open sessions that a director has kept beyond their limit.
    kept: BTreeSet<(u32, Incarnation)>,
}

impl Paths {
    /// A new connection begins.
    pub(super) fn begin(&mut self, flow: FlowId) {
        self.last_news.remove(&flow);
        self.rested.remove(&flow);
        self.denied.remove(&flow);
    }
}

fn key_of(packet: &[u8]) -> Option<FlowKey> {
    let (src, dst, protocol) = frame::tuple(packet)?;
    Some(FlowKey::new(Protocol::from_number(protocol)?, src.into(), dst.into()))
}

/// Whether a director has made a record in an earlier life than this.
fn is_of_earlier_life(record: &SessionRecord, id: u32, process: &Process) -> bool {
    let made = record.incarnation;
    made.creator == DirectorId(id) && made.counter >> 32 < process.incarnation
}

impl World {
    fn process(&self, id: u32) -> Option<&Process> {
        self.directors[id as usize - 1].process.as_deref()
    }

    /// A packet arrives at a director.
    pub(super) fn note_arrival(&mut self, id: u32, flow: FlowId, packet: &[u8]) {
        let now_us = self.queue.now_us();
        if let Some((isn, until_us)) = self.paths.last_news.remove(&flow)
            && self.oracle.latest(flow) == Some(isn)
        {
            self.marks.reach(Mark::LastNewsDied, u64::from(now_us > until_us));
        }
        let Token::Segment(_, ack, flags, _) = token(packet) else { return };
        if Flags(flags).0 & 0x17 != Flags::SYN.with(Flags::ACK).0 {
            return;
        }
        let known = key_of(packet).and_then(|key| self.process(id)?.table.find(&key).session());
        let Some(known) = known else { return };
        let openings = (known.incarnation.isn, ack.wrapping_sub(1));
        if self.oracle.follow(flow, openings) {
            let over = known.flags.closing();
            let mark = if over { Mark::BegunOverClosed } else { Mark::BegunOverOpen };
            self.marks.reach(mark, 1);
        }
    }

    /// A director has sent a packet on.
    pub(super) fn note_passed(&mut self, id: u32, flow: FlowId, sent: &Sent, packet: &[u8]) {
        let Token::Segment(seq, _, flags, data) = token(packet) else { return };
        if !data.is_empty() && self.paths.rested.remove(&flow) {
            self.marks.reach(Mark::WentOnAfterRest, 1);
        }
        if !data.is_empty() && self.paths.denied.remove(&flow) {
            self.marks.reach(Mark::WentOnAfterDenial, 1);
        }
        let Some(before) = sent.before.as_deref() else { return };
        if Flags(flags).0 & 0x17 != Flags::SYN.0 {
            return;
        }
        let director = &self.directors[id as usize - 1];
        let Some(process) = director.process.as_deref() else { return };
        let known = key_of(before).and_then(|key| process.table.find(&key).session());
        let Some(known) = known else { return };
        let earlier = self.oracle.follow(flow, (known.incarnation.isn, seq));
        let made = known.incarnation.counter >> 32 == process.incarnation
            && known.incarnation.creator == DirectorId(id);
        let unannounced = made && !earlier && director.life > 1 && !process.share.announced();
        self.marks.reach(Mark::SynByEarlierUse, u64::from(earlier));
        self.marks.reach(Mark::OpenedUnannounced, u64::from(unannounced));
    }

    /// A director keeps a packet until it knows more, or drops it.
    pub(super) fn note_unsent(&mut self, id: u32, flow: FlowId, sent: &Sent, before: &[u8]) {
        if sent.dropped == Some(DropReason::EndAtRest) {
            self.paths.rested.insert(flow);
        }
        if sent.dropped == Some(DropReason::DeniedOnce) {
            self.paths.denied.insert(flow);
        }
        let (Some(known), Token::Segment(seq, ack, flags, _)) = (&sent.known, token(before)) else {
            return;
        };
        let of_client =
            frame::tuple(before).is_some_and(|(src, ..)| known.key.source() == src.into());
        let Some(process) = self.process(id) else { return };
        if !of_client || Flags(flags).has(Flags::SYN) {
            return;
        }
        let Some(met) = self.oracle.meets(flow, known, seq, ack) else { return };
        let (own, over) = (is_of_earlier_life(known, id, process), known.flags.closing());
        let parked = sent.dropped.is_none();
        let refused = sent.dropped.is_some_and(super::oracle::is_of_unknown);
        let half_open = !known.flags.established();
        let half_over = known.flags.ending() && !over;
        let mut reach = |mark, reached: bool| self.marks.reach(mark, u64::from(reached));
        match met {
            Meeting::EarlierUse => {
                reach(Mark::EarlierUse, parked && !over);
                reach(Mark::EarlierUseOver, parked && over);
                reach(Mark::JustOver, parked && over && known.idle_ms() < JUST_MS);
                reach(Mark::JustHalfOver, half_over && parked && known.idle_ms() < JUST_MS);
                reach(Mark::OwnEarlierLife, parked && own);
                reach(Mark::Refuted, refused);
            }
            Meeting::OtherTwin => {
                let other = sent.dropped == Some(DropReason::OtherBackend);
                reach(Mark::OtherTwin, parked || refused || other);
            }
            Meeting::Own { further_on } => {
                reach(Mark::FurtherOn, parked && half_open && further_on)
            }
        }
    }

    /// A director has died and takes along what it had not told yet.
    pub(super) fn note_last_news(&mut self, id: u32, known: &[(SessionRecord, bool)]) {
        let now_us = self.queue.now_us();
        let mut own: BTreeMap<FlowKey, (&SessionRecord, Option<u32>)> = BTreeMap::new();
        for (record, acknowledged) in known {
            if *acknowledged && record.owner == DirectorId(id) && record.flags.established() {
                own.insert(record.key, (record, None));
            }
        }
        for other in self.directors.iter().filter(|d| d.id != id) {
            let Some(process) = other.process.as_deref() else { continue };
            process.table.for_each(other.clock.local_us(now_us) / 1_000, |same, _| {
                let Some((record, heard_ms)) = own.get_mut(&same.key) else { return };
                if same.incarnation == record.incarnation {
                    let idle_ms = same.idle_ms();
                    *heard_ms = Some(heard_ms.map_or(idle_ms, |before| before.min(idle_ms)));
                }
            });
        }
        for (record, heard_ms) in own.into_values() {
            let SocketAddr::V4(client) = record.key.source() else { continue };
            // Others have heard something, and not the last.
            let Some(idle_ms) = heard_ms.filter(|idle| *idle > record.idle_ms()) else { continue };
            let until_us =
                now_us + u64::from(record.idle_limit_ms().saturating_sub(idle_ms)) * 1_000;
            let flow = frame::socket_number(&client);
            self.paths.last_news.insert(flow, (record.incarnation.isn, until_us));
        }
    }

    /// A director has not heard the quorum for a while, or was stopped.
    pub(super) fn note_half_open(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let local_ms = |d: &Director| d.clock.local_us(now_us) / 1_000;
        let director = &self.directors[id as usize - 1];
        let Some(process) = director.process.as_deref() else { return };
        let mut kept = Vec::new();
        process.table.for_each(local_ms(director), |record, acknowledged| {
            let unsettled = !record.flags.established() && !record.flags.closing();
            if acknowledged && unsettled && record.idle_ms() >= record.idle_limit_ms() {
                kept.push(record.clone());
            }
        });
        let established = |record: &&SessionRecord| {
            let others = self.directors.iter().filter(|d| d.id != id && d.runs());
            let mut found =
                others.filter_map(|d| d.process.as_ref()?.table.find(&record.key).session());
            let same = |other: SessionRecord| {
                other.incarnation == record.incarnation
                    && other.flags.has(SessionFlags::ESTABLISHED)
            };
            found.any(same)
        };
        let established: Vec<_> = kept.iter().filter(established).map(|r| r.incarnation).collect();
        for incarnation in established {
            let first = self.paths.kept.insert((id, incarnation));
            self.marks.reach(Mark::HalfOpenKept, u64::from(first));
        }
    }
}

/// What a client's segment has to do with the record that it meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meeting {
    /// The record is of an earlier use of the client's port.
    EarlierUse,
    /// It is of the same opening, and of another connection to a backend than the client has taken.
    OtherTwin,
    /// It is that connection's.
    Own {
        /// The client has acknowledged more than its backend's SYN.
        further_on: bool,
    },
}
