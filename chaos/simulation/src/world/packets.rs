//! The way of packets: clients, router, directors, backends.

use std::net::{IpAddr, SocketAddrV4};

use holdfast_director::core::DropReason;

use super::happening::{Glance, Happening, Place};
use super::marks::Mark;
use super::rules::Rule;
use super::trace::FlowId;
use super::{Event, World};
use crate::director::frame;
use crate::director::packets::Sent;
use crate::director::process::Effects;
use crate::plan::cluster;

/// How long a worker may be busy with other things before it looks at its queue (us).
const POLL_US: u64 = 60;

/// The socket, as a number, that a packet comes from; a client's, if it goes to a VIP.
pub(super) fn source(packet: &[u8]) -> Option<FlowId> {
    frame::tuple(packet).map(|(src, ..)| frame::socket_number(&src))
}

impl World {
    /// The client socket that a packet is of, as a number.
    pub(super) fn flow_of(&self, packet: &[u8]) -> Option<u64> {
        let (src, dst, _) = frame::tuple(packet)?;
        let client = |at: &SocketAddrV4| at.ip().octets()[0] == 198;
        match (client(&src), client(&dst)) {
            (true, _) => Some(frame::socket_number(&src)),
            (_, true) => Some(frame::socket_number(&dst)),
            _ => {
                let (lip, backend) =
                    if src.ip().octets()[1] == 9 { (src, dst) } else { (dst, src) };
                let key = (frame::socket_number(&lip), frame::socket_number(&backend));
                self.replies.get(&key).copied()
            }
        }
    }

    /// A packet sets out; the weather decides.
    fn travel(&mut self, to: Place, packet: Vec<u8>, event: impl Fn(Vec<u8>) -> Event) {
        let weather = self.weather;
        let lost = self.net.chance(weather.lost.into(), 1_000_000);
        let dark = matches!(to, Place::Director(id) if self.is_dark(id));
        if lost || dark {
            let flow = self.flow_of(&packet);
            if let (Place::Router | Place::Director(_), Some(flow)) = (to, flow) {
                self.excuses.lost_elsewhere(flow);
            }
            if let Some(glance) = Glance::at(&packet) {
                self.note(flow, Happening::Lost(to, glance));
            }
            return;
        }
        let mut delay = || self.net.between(weather.least_us, weather.most_us);
        let (first, second) = (delay(), delay());
        if self.net.chance(weather.twice.into(), 1_000_000) {
            self.queue.after(second, event(packet.clone()));
        }
        self.queue.after(first, event(packet));
    }

    /// A host sends packets.
    pub(super) fn send_from_host(&mut self, packets: Vec<Vec<u8>>) {
        for packet in packets {
            self.travel(Place::Router, packet, Event::AtRouter);
        }
    }

    /// A packet for a VIP or a LIP at the router.
    pub(super) fn at_router(&mut self, packet: Vec<u8>) {
        let Some((src, dst, _)) = frame::tuple(&packet) else { return };
        let hash = frame::flow_hash(&packet, self.router.hash_seed());
        let Some(id) = self.router.path(IpAddr::V4(*dst.ip()), hash) else {
            let flow = self.flow_of(&packet);
            if let Some(glance) = Glance::at(&packet) {
                self.note(flow, Happening::Lost(Place::Router, glance));
            }
            // Nobody serves: what its client says is heard by none. (What a backend says to an address that nobody
            // announces is no word of a client, and no reason that it was not served.)
            if let Some(flow) = flow.filter(|_| cluster::backend_at(*src.ip()).is_none()) {
                self.excuses.unserved(flow, self.queue.now_us());
            }
            return;
        };
        self.travel(Place::Director(id), packet, move |packet| Event::AtDirector(id, packet));
    }

    /// A packet at a director's interface.
    pub(super) fn at_director(&mut self, id: u32, packet: Vec<u8>) {
        let flow = self.flow_of(&packet);
        let Some(glance) = Glance::at(&packet) else { return };
        let director = self.director(id);
        let taken = match &mut director.process {
            Some(process) if !director.dead => process.arrive(frame::framed(id, &packet)),
            _ => false,
        };
        let place = Place::Director(id);
        if !taken {
            flow.iter().for_each(|flow| self.excuses.lost_elsewhere(*flow));
            return self.note(flow, Happening::Lost(place, glance));
        }
        if let Some(flow) = flow {
            self.note_heard(flow, &packet);
            self.note_arrival(id, flow, &packet);
        }
        self.note(flow, Happening::Packet(place, glance));
        if self.director(id).runs() && self.working.insert(id) {
            let wait = self.net.below(POLL_US);
            self.queue.after(wait, Event::Work(id));
        }
    }

    /// A director's workers look at their queues.
    pub(super) fn work(&mut self, id: u32) {
        self.working.remove(&id);
        let now_us = self.queue.now_us();
        let director = self.director(id);
        if !director.runs() {
            return;
        }
        let local_us = director.clock.local_us(now_us);
        let Some(process) = &mut director.process else { return };
        let mut effects = Effects::default();
        process.work(local_us, &mut effects);
        let (counters, busy) = (process.counters(), process.parked() > 0);
        if counters.unaccounted() != 0 {
            let what = format!("director {id}: {} packets unaccounted for", counters.unaccounted());
            self.violate(Rule::Counted, what, None);
        }
        self.carry_out(id, effects);
        if busy {
            self.hurry(id);
        }
    }

    /// What became of a packet at a director.
    pub(super) fn sent(&mut self, id: u32, sent: Sent) {
        let waited = self.judge_sent(id, &sent);
        let before = waited.as_deref().or(sent.before.as_deref());
        let flow = before.and_then(|before| self.flow_of(before));
        match (&sent.packet, flow, before) {
            (Some(packet), Some(flow), _) => self.note_passed(id, flow, &sent, packet),
            (None, Some(flow), Some(before)) => self.note_unsent(id, flow, &sent, before),
            _ => {}
        }
        let Some(packet) = sent.packet else {
            let glance = before.and_then(Glance::at);
            match (sent.dropped, glance) {
                (Some(reason), glance) => {
                    if let (DropReason::MissUnknown, Some(flow), Some(before)) =
                        (reason, flow, before)
                    {
                        self.note_unknown(id, flow, before);
                        self.note_in_vain(id, flow, before);
                    }
                    self.note(flow, Happening::Dropped(id, reason, glance));
                }
                (None, Some(glance)) => {
                    self.marks.reach(Mark::Doubted, u64::from(sent.known.is_some()));
                    self.note(flow, Happening::Parked(id, glance));
                }
                (None, None) => {}
            }
            return;
        };
        let Some((src, dst, _)) = frame::tuple(&packet) else { return };
        let to_backend = cluster::backend_at(*dst.ip());
        if to_backend.is_some()
            && let Some(flow) = flow
        {
            let key = (frame::socket_number(&src), frame::socket_number(&dst));
            self.replies.insert(key, flow);
            // (A backend may be answered, or probed.)
            if before.is_some_and(|before| source(before) == Some(flow)) {
                self.excuses.sent_on(flow);
            }
            let owner = self.owners.get(src.ip()).copied();
            self.marks.reach(Mark::Takeover, u64::from(owner.is_some_and(|owner| owner != id)));
        }
        let flow = flow.or_else(|| self.flow_of(&packet));
        if let Some(glance) = Glance::at(&packet) {
            self.note(flow, Happening::Released(id, glance));
        }
        if self.is_dark(id) {
            return;
        }
        match to_backend {
            Some(n) => {
                self.travel(Place::Backend(n), packet, move |packet| Event::AtBackend(n, packet))
            }
            None => {
                let n = u32::from(dst.ip().octets()[3]) - 1;
                self.travel(Place::Client(n), packet, move |packet| Event::AtClient(n, packet));
            }
        }
    }
}
