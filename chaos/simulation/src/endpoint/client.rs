//! A client host: opens the connections of its plan, and judges what comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::bygone::{Bygone, Sockets};
use super::datagram::Datagram;
use super::dialogue::Ending;
use super::event::{ConnectionId, Event, EventKind, OpenConnection, Summary};
use super::exchange::Exchange;
use super::log::Log;
use super::packet::{self, Damage, Packet};
use super::plan::{ClientPlan, ConnectionPlan, Kind};
use super::segment::Segment;
use super::tcp::{Signal, State, Tcp};
use super::udp::{Fate, Flow};
use crate::rng::Rng;

/// A TCP connection with what is said on it.
struct Connection {
    plan: ConnectionPlan,
    tcp: Tcp,
    exchange: Exchange,
    /// When the next request is sent.
    ask_at_us: Option<u64>,
    /// When the own direction ends, if it ends by time.
    close_at_us: Option<u64>,
    /// When it counts as stalled.
    deadline_us: u64,
    ended: bool,
    silent: bool,
}

impl Connection {
    fn next_us(&self) -> Option<u64> {
        if self.silent {
            return None;
        }
        let stalls = (!self.ended).then_some(self.deadline_us);
        [self.tcp.next_us(), self.ask_at_us, self.close_at_us, stalls].into_iter().flatten().min()
    }
}

/// How a connection ended, for the summary.
#[derive(Clone, Copy)]
enum End {
    Closed,
    Intended,
    Reset,
    TimedOut,
}

/// A client host.
pub struct Client {
    plan: ClientPlan,
    rng: Rng,
    /// Connections to open, by the time.
    waiting: Vec<ConnectionPlan>,
    connections: BTreeMap<Sockets, Connection>,
    flows: BTreeMap<Sockets, Flow>,
    bygone: Bygone,
    log: Log,
    summary: Summary,
    leaving: bool,
}

impl Client {
    /// A host that follows `plan`; `seed` is for what the plan leaves open.
    #[must_use]
    pub fn new(plan: ClientPlan, seed: u64) -> Client {
        Client {
            waiting: plan.connections.clone(),
            rng: Rng::new(seed, "client"),
            plan,
            connections: BTreeMap::new(),
            flows: BTreeMap::new(),
            bygone: Bygone::default(),
            log: Log::default(),
            summary: Summary::default(),
            leaving: false,
        }
    }

    /// Takes an IP packet. Ask [`Client::next_us`] afterwards.
    pub fn packet(&mut self, now_us: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>) {
        if let Err(damage) = self.take(now_us, bytes, out) {
            let nobody = SocketAddr::new(self.plan.address, 0);
            self.log.note(now_us, None, (nobody, nobody), EventKind::Damaged(damage));
        }
    }

    fn take(&mut self, now_us: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), Damage> {
        if bytes.len() > usize::from(self.plan.tcp.mtu) {
            return Err(Damage::TooBig);
        }
        let ip = Packet::parse(bytes)?;
        match ip.protocol {
            packet::TCP => self.segment(now_us, &Segment::parse(&ip)?, out),
            packet::UDP => self.datagram(now_us, &Datagram::parse(&ip)?),
            packet::ICMP | packet::ICMP6 => {
                let [icmp_type, code, ..] = *ip.payload else { return Err(Damage::Length) };
                let sockets = (SocketAddr::new(ip.dst, 0), SocketAddr::new(ip.src, 0));
                self.log.note(now_us, None, sockets, EventKind::Icmp { icmp_type, code });
            }
            _ => return Err(Damage::Protocol),
        }
        Ok(())
    }

    fn segment(&mut self, now_us: u64, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let sockets = (segment.dst, segment.src);
        if segment.dst.ip() != self.plan.address {
            self.log.note(now_us, None, sockets, EventKind::NotMine);
            return;
        }
        let Some(connection) = self.connections.get_mut(&sockets) else {
            let (id, kind) = self.bygone.judge(segment);
            self.log.note(now_us, id, sockets, kind);
            out.extend(segment.refusal().map(|reset| reset.encode(&[])));
            return;
        };
        if !connection.silent {
            connection.tcp.receive(now_us, segment, out);
            self.work(now_us, sockets, out);
        }
    }

    fn datagram(&mut self, now_us: u64, datagram: &Datagram<'_>) {
        let sockets = (datagram.dst, datagram.src);
        let Some(flow) = self.flows.get_mut(&sockets) else {
            // Flows are not forgotten when they end; this one was never here.
            self.log.note(now_us, None, sockets, EventKind::NotMine);
            return;
        };
        let id = flow.id();
        if flow.finished {
            return;
        }
        let pause_us = match self.leaving {
            true => 0,
            false => self.rng.between(flow.plan.pause_us.0, flow.plan.pause_us.1),
        };
        let (log, summary) = (&mut self.log, &mut self.summary);
        let first = !flow.answered();
        let fate = flow.receive(now_us, datagram.payload, pause_us, &mut |kind| {
            summary.delivered += u64::from(matches!(kind, EventKind::Delivered { .. }));
            log.note(now_us, Some(id), sockets, kind);
        });
        if first && flow.answered() {
            summary.connected += 1;
            log.note(now_us, Some(id), sockets, EventKind::Connected);
        }
        self.end_flow(now_us, sockets, fate);
    }

    fn end_flow(&mut self, now_us: u64, sockets: Sockets, fate: Fate) {
        let Some(flow) = self.flows.get_mut(&sockets) else { return };
        let (count, kind) = match fate {
            Fate::Lives => return,
            Fate::Closed => (&mut self.summary.closed, EventKind::Closed),
            Fate::TimedOut => (&mut self.summary.timed_out, EventKind::TimedOut { living: true }),
        };
        *count += 1;
        flow.finished = true;
        self.log.note(now_us, Some(flow.id()), sockets, kind);
    }

    /// Does what is due, and tells when something will be next.
    pub fn tick(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) -> Option<u64> {
        self.open_due(now_us, out);
        let due: Vec<Sockets> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.next_us().is_some_and(|at_us| at_us <= now_us))
            .map(|(sockets, _)| *sockets)
            .collect();
        for sockets in due {
            self.connection_due(now_us, sockets, out);
        }
        let mut fates = Vec::new();
        for (sockets, flow) in &mut self.flows {
            if flow.next_us().is_some_and(|at_us| at_us <= now_us) {
                let (log, id) = (&mut self.log, flow.id());
                let mut note = |kind| log.note(now_us, Some(id), *sockets, kind);
                fates.push((*sockets, flow.tick(now_us, out, &mut note)));
            }
        }
        for (sockets, fate) in fates {
            self.end_flow(now_us, sockets, fate);
        }
        self.next_us()
    }

    /// When [`Client::tick`] has something to do.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        let waiting =
            self.waiting.iter().filter(|plan| plan.after.is_none()).map(|plan| plan.start_us);
        let connections = self.connections.values().filter_map(Connection::next_us);
        let flows = self.flows.values().filter_map(Flow::next_us);
        waiting.chain(connections).chain(flows).min()
    }

    fn open_due(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) {
        let due = |plan: &mut ConnectionPlan| plan.after.is_none() && plan.start_us <= now_us;
        let due: Vec<ConnectionPlan> = self.waiting.extract_if(.., due).collect();
        for plan in due {
            let (id, sockets) = (plan.dialogue.id, (plan.dialogue.client, plan.target));
            self.summary.opened += 1;
            self.log.note(now_us, Some(id), sockets, EventKind::Opened);
            if plan.kind == Kind::Udp {
                let mut flow = Flow::new(plan, &self.plan.tcp, now_us);
                let _ = flow.tick(now_us, out, &mut |_| {});
                self.flows.insert(sockets, flow);
                continue;
            }
            let mut tcp = Tcp::connect(&self.plan.tcp, sockets, plan.isn, now_us, out);
            for _ in 1..plan.syn_copies {
                tcp.repeat_syn(out);
            }
            if plan.forges_address {
                tcp.forge(SocketAddr::new(self.plan.address, plan.dialogue.client.port() ^ 1));
            }
            let half_open = plan.kind == Kind::HalfOpen;
            let connection = Connection {
                exchange: Exchange::new(plan.dialogue),
                tcp,
                ask_at_us: None,
                close_at_us: None,
                deadline_us: now_us + self.plan.patience_us + self.plan.tcp.give_up_syn_us,
                ended: half_open,
                silent: half_open,
                plan,
            };
            self.connections.insert(sockets, connection);
            if half_open {
                self.summary.intended += 1;
                self.log.note(now_us, Some(id), sockets, EventKind::Vanished);
            }
        }
    }

    fn connection_due(&mut self, now_us: u64, sockets: Sockets, out: &mut Vec<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&sockets) else { return };
        connection.tcp.tick(now_us, out);
        if connection.ask_at_us.is_some_and(|at_us| at_us <= now_us) {
            connection.ask_at_us = None;
            connection.deadline_us = now_us + self.plan.patience_us;
            let request = connection.exchange.ask();
            connection.tcp.write(&request);
            if connection.exchange.all_asked() {
                match connection.plan.dialogue.ending {
                    Ending::HalfClose => connection.close_at_us = Some(now_us),
                    Ending::Simultaneous => {
                        connection.close_at_us = Some(now_us + self.rng.below(3_000));
                    }
                    _ => {}
                }
            }
        }
        if connection.close_at_us.is_some_and(|at_us| at_us <= now_us) {
            connection.close_at_us = None;
            connection.tcp.close();
        }
        if connection.deadline_us <= now_us && !connection.ended {
            let id = connection.plan.dialogue.id;
            self.log.note(now_us, Some(id), sockets, EventKind::Stalled);
            connection.tcp.abort(out);
            self.end(now_us, sockets, End::TimedOut);
        }
        self.work(now_us, sockets, out);
    }

    /// Takes what TCP has to say about a connection, and goes on with the dialogue.
    fn work(&mut self, now_us: u64, sockets: Sockets, out: &mut Vec<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&sockets) else { return };
        let id = connection.plan.dialogue.id;
        let dialogue = connection.plan.dialogue;
        let (log, summary) = (&mut self.log, &mut self.summary);
        let mut note = |kind| {
            summary.delivered += u64::from(matches!(kind, EventKind::Delivered { .. }));
            summary.connected += u64::from(kind == EventKind::Connected);
            log.note(now_us, Some(id), sockets, kind);
        };
        let mut end = None;
        let before = connection.exchange.answered();
        let bytes = connection.tcp.read();
        if !bytes.is_empty() {
            connection.deadline_us = now_us + self.plan.patience_us;
            if !connection.exchange.take(&bytes, &mut note) {
                connection.tcp.abort(out);
                end = Some(End::Intended);
            }
        }
        let answered = connection.exchange.answered() > before;
        let complete = connection.exchange.complete();
        let mut next = answered && !complete;
        let mut peer_closed = false;
        while let Some(signal) = connection.tcp.signal() {
            match signal {
                Signal::Connected => {
                    note(EventKind::Connected);
                    next = true;
                }
                Signal::PeerClosed => peer_closed = true,
                Signal::Closed => {
                    if complete {
                        note(EventKind::Closed);
                        end = end.or(Some(End::Closed));
                    }
                }
                Signal::Refused => {
                    note(EventKind::Refused);
                    end = Some(End::Reset);
                }
                Signal::Reset if connection.ended => {} // TIME_WAIT
                Signal::Reset => {
                    note(EventKind::Reset { living: !complete });
                    end = Some(if complete { End::Closed } else { End::Reset });
                }
                Signal::TimedOut(_) => {
                    note(EventKind::TimedOut { living: true });
                    end = Some(End::TimedOut);
                }
                Signal::ResetIgnored => note(EventKind::ResetIgnored),
                Signal::WrongAck(..) => {} // A client has no SYN-RECEIVED.
                Signal::SynOnLiving(_) => note(EventKind::SynOnLiving { living: !complete }),
            }
        }
        if end.is_none() && !connection.ended {
            let resets = match dialogue.ending {
                Ending::Reset => complete,
                Ending::ResetInResponse => connection.exchange.within_last(),
                _ => false,
            };
            if resets {
                connection.tcp.abort(out);
                note(EventKind::Aborted);
                end = Some(End::Intended);
            } else if peer_closed && !complete {
                note(EventKind::Stalled); // an end in the middle
                connection.tcp.abort(out);
                end = Some(End::TimedOut);
            } else if peer_closed || answered && complete && !dialogue.ending.backend_closes() {
                connection.tcp.close();
            } else if next {
                let (low, high) = connection.plan.pause_us;
                let pause_us = if self.leaving { 0 } else { self.rng.between(low, high) };
                connection.ask_at_us = Some(now_us + pause_us);
                connection.deadline_us = now_us + pause_us + self.plan.patience_us;
            }
        }
        connection.tcp.flush(now_us, out);
        let vanishes = dialogue.ending == Ending::Vanish && connection.exchange.all_asked();
        if end.is_none() && vanishes && !connection.ended {
            self.log.note(now_us, Some(id), sockets, EventKind::Vanished);
            connection.silent = true;
            end = Some(End::Intended);
        }
        if let Some(end) = end {
            self.end(now_us, sockets, end);
        }
        self.forget_closed(sockets);
    }

    /// Counts how a connection ended, once, and lets its successor begin.
    fn end(&mut self, now_us: u64, sockets: Sockets, end: End) {
        let Some(connection) = self.connections.get_mut(&sockets) else { return };
        if std::mem::replace(&mut connection.ended, true) {
            return;
        }
        connection.ask_at_us = None;
        connection.close_at_us = None;
        match end {
            End::Closed => self.summary.closed += 1,
            End::Intended => self.summary.intended += 1,
            End::Reset => self.summary.reset += 1,
            End::TimedOut => self.summary.timed_out += 1,
        }
        let id = connection.plan.dialogue.id;
        let sequence_end = connection.tcp.sequence_end();
        for plan in self.waiting.iter_mut().filter(|plan| plan.after == Some(id)) {
            plan.after = None;
            plan.start_us = plan.start_us.saturating_add(now_us);
            plan.isn = plan.isn.wrapping_add(sequence_end);
        }
    }

    fn forget_closed(&mut self, sockets: Sockets) {
        let closed = |connection: &Connection| {
            connection.ended && !connection.silent && connection.tcp.state() == State::Closed
        };
        if self.connections.get(&sockets).is_some_and(closed)
            && let Some(connection) = self.connections.remove(&sockets)
        {
            self.bygone.add(Some(connection.plan.dialogue.id), &connection.tcp);
        }
    }

    /// Opens nothing any more, and ends all pauses: what is open says what it has to say and ends.
    pub fn leave(&mut self, now_us: u64) {
        self.leaving = true;
        self.waiting.clear();
        for connection in self.connections.values_mut() {
            connection.ask_at_us = connection.ask_at_us.map(|at_us| at_us.min(now_us));
        }
        self.flows.values_mut().for_each(|flow| flow.hurry(now_us));
    }

    /// What was noticed since it was asked last.
    pub fn drain_events(&mut self) -> Vec<Event> {
        self.log.drain()
    }

    /// What has become of all connections and flows.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// What is open. TIME_WAIT is not.
    #[must_use]
    pub fn open(&self) -> Vec<OpenConnection> {
        let open = |id: ConnectionId, sockets: &Sockets, state| OpenConnection {
            id: Some(id),
            local: sockets.0,
            remote: sockets.1,
            state,
        };
        let connections = self
            .connections
            .iter()
            .filter(|(_, c)| !c.ended)
            .map(|(sockets, c)| open(c.plan.dialogue.id, sockets, c.tcp.state().name()));
        let flows = self.flows.iter().filter(|(_, flow)| !flow.finished);
        connections.chain(flows.map(|(sockets, flow)| open(flow.id(), sockets, "UDP"))).collect()
    }
}
