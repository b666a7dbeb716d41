//! The hosts: clients and backends, and what they notice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::excuses::Loss;
use super::happening::{Happening, Place};
use super::marks::Mark;
use super::rules::Rule;
use super::wraps::Wraps;
use super::{Event, World};
use crate::director::frame;
use crate::endpoint::segment::Flags;
use crate::endpoint::{
    self, Backend, BackendConfig, Client, ClientPlan, EventKind, Setting, Target, TcpConfig,
    Transport,
};
use crate::plan::{Plan, cluster};
use crate::rng::Rng;

/// Client hosts.
const CLIENTS: u32 = 3;

/// A client or a backend, and when it is going to be woken.
struct Host<H> {
    host: H,
    wake_us: Option<u64>,
}

/// All hosts.
pub(super) struct Hosts {
    clients: Vec<Host<Client>>,
    backends: Vec<Host<Backend>>,
    /// Whose numbers wrap soon.
    pub(super) wraps: Wraps,
}

/// The sockets of the end that a client has, from what either end says.
fn client_socket(place: Place, event: &endpoint::Event) -> Option<SocketAddr> {
    matches!(place, Place::Client(_)).then_some(event.local)
}

fn number(at: SocketAddr) -> Option<u64> {
    match at {
        SocketAddr::V4(at) => Some(frame::socket_number(&at)),
        SocketAddr::V6(_) => None,
    }
}

impl Hosts {
    pub(super) fn new(plan: &Plan) -> Hosts {
        let tcp = TcpConfig {
            retransmit_most_us: 2_000_000,
            give_up_syn_us: 30_000_000,
            give_up_us: 30_000_000,
            time_wait_us: 60_000_000,
            ..TcpConfig::default()
        };
        let target = |address, transport, idle_ms: u32| Target {
            address,
            transport,
            idle_timeout_us: u64::from(idle_ms) * 1_000,
        };
        // As many TCP flows as UDP flows would be too many.
        let tcp_target = target(cluster::TCP, Transport::Tcp, plan.idle_timeout_ms);
        let udp_target = target(cluster::UDP, Transport::Udp, plan.udp_idle_timeout_ms);
        let targets = vec![tcp_target, tcp_target, tcp_target, tcp_target, udp_target];
        let mut rng = Rng::new(plan.seed, "hosts");
        let clients = (0..CLIENTS).map(|n| {
            let each = plan.connections / CLIENTS;
            let setting = Setting {
                address: IpAddr::V4(Ipv4Addr::new(198, 51, 100, n as u8 + 1)),
                targets: targets.clone(),
                connections: each,
                first_id: u64::from(1 + n * each),
                begin_us: (plan.clients_from_us, plan.heal_us),
                tcp,
                patience_us: plan.patience_us(),
            };
            let drawn = ClientPlan::draw(&setting, rng.draw());
            Host { host: Client::new(drawn, rng.draw()), wake_us: None }
        });
        let clients = clients.collect();
        let backends = (0..plan.backends).map(|n| {
            let at = cluster::backend(n);
            let config = BackendConfig {
                identity: n + 1,
                address: at.ip(),
                tcp_ports: vec![at.port()],
                udp_ports: vec![at.port()],
                tcp,
                expects_address: false,
            };
            Host { host: Backend::new(config, rng.draw()), wake_us: None }
        });
        let wraps = Wraps::new(Rng::new(plan.seed, "wraps").draw());
        Hosts { clients, backends: backends.collect(), wraps }
    }

    /// Whether no client has anything open.
    pub(super) fn all_gone(&self) -> bool {
        self.clients.iter().all(|client| client.host.open().is_empty())
    }

    /// The sockets of what clients still have open.
    pub(super) fn sockets(&self) -> BTreeSet<SocketAddr> {
        let open = self.clients.iter().flat_map(|client| client.host.open());
        open.map(|connection| connection.local).collect()
    }

    /// What clients still have open, in words.
    pub(super) fn open(&self) -> Vec<(SocketAddr, String)> {
        let open = self.clients.iter().flat_map(|client| client.host.open());
        open.map(|c| (c.local, format!("{} to {} is {}", c.local, c.remote, c.state))).collect()
    }

    /// Connections that were begun, and that were established.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.clients
            .iter()
            .map(|client| client.host.summary())
            .fold((0, 0), |sum, summary| (sum.0 + summary.opened, sum.1 + summary.connected))
    }
}

impl World {
    /// Lets all hosts begin.
    pub(super) fn wake_hosts(&mut self) {
        for n in 0..self.hosts.clients.len() as u32 {
            self.wake_client(n, 0);
        }
    }

    /// All clients say what they have to say, and end.
    pub(super) fn leave(&mut self) {
        let now_us = self.queue.now_us();
        for n in 0..self.hosts.clients.len() {
            self.hosts.clients[n].host.leave(now_us);
            self.client_did(n as u32, Vec::new(), Vec::new());
        }
    }

    pub(super) fn at_client(&mut self, n: u32, packet: &[u8]) {
        let now_us = self.queue.now_us();
        let Some(client) = self.hosts.clients.get_mut(n as usize) else { return };
        let mut out = Vec::new();
        client.host.packet(now_us, packet, &mut out);
        let events = client.host.drain_events();
        let connected = events.iter().find(|event| event.kind == EventKind::Connected);
        if let Some(flow) = connected.and_then(|event| number(event.local)) {
            self.note_taken(flow, packet);
        }
        self.client_did(n, out, events);
    }

    pub(super) fn wake_client(&mut self, n: u32, wake_us: u64) {
        let now_us = self.queue.now_us();
        let client = &mut self.hosts.clients[n as usize];
        if client.wake_us.is_some_and(|at| at != wake_us) {
            return; // It was woken by a packet, and sleeps until another time.
        }
        client.wake_us = None;
        let mut out = Vec::new();
        client.host.tick(now_us, &mut out);
        let events = client.host.drain_events();
        self.client_did(n, out, events);
    }

    fn client_did(&mut self, n: u32, out: Vec<Vec<u8>>, events: Vec<endpoint::Event>) {
        let client = &mut self.hosts.clients[n as usize];
        let next_us = client.host.next_us();
        if let Some(at_us) = next_us.filter(|at| client.wake_us.is_none_or(|wake| *at < wake)) {
            client.wake_us = Some(at_us);
            self.queue.at(at_us, Event::WakeClient(n, at_us));
        }
        self.send_from_host(out);
        for event in events {
            self.noticed(Place::Client(n), event);
        }
    }

    pub(super) fn at_backend(&mut self, n: u32, packet: &[u8]) {
        let now_us = self.queue.now_us();
        let may_wrap = self.may_wrap(n, packet);
        let Some(backend) = self.hosts.backends.get_mut(n as usize) else { return };
        backend.host.let_wrap(may_wrap);
        let mut out = Vec::new();
        backend.host.packet(now_us, packet, &mut out);
        self.backend_did(n, out);
    }

    pub(super) fn wake_backend(&mut self, n: u32, wake_us: u64) {
        let now_us = self.queue.now_us();
        let backend = &mut self.hosts.backends[n as usize];
        if backend.wake_us.is_some_and(|at| at != wake_us) {
            return;
        }
        backend.wake_us = None;
        let mut out = Vec::new();
        backend.host.tick(now_us, &mut out);
        self.backend_did(n, out);
    }

    fn backend_did(&mut self, n: u32, out: Vec<Vec<u8>>) {
        let backend = &mut self.hosts.backends[n as usize];
        let events = backend.host.drain_events();
        let next_us = backend.host.next_us();
        if let Some(at_us) = next_us.filter(|at| backend.wake_us.is_none_or(|wake| *at < wake)) {
            backend.wake_us = Some(at_us);
            self.queue.at(at_us, Event::WakeBackend(n, at_us));
        }
        out.iter().for_each(|packet| self.note_answer(n, packet));
        self.send_from_host(out);
        for event in events {
            self.noticed(Place::Backend(n), event);
        }
    }

    /// A host noticed something.
    fn noticed(&mut self, place: Place, event: endpoint::Event) {
        let flow = match client_socket(place, &event) {
            Some(client) => number(client),
            // The director's socket names its last user only; what the backend has read names its client.
            None => event.connection.and_then(|id| self.excuses.flow_of(id)).or_else(|| {
                let key = number(event.remote).zip(number(event.local));
                key.and_then(|key| self.replies.get(&key).copied())
            }),
        };
        if !matches!(event.kind, EventKind::Delivered { .. }) {
            self.note(flow, Happening::Noticed(place, format!("{:?}", event.kind)));
        }
        // Two directors saw its SYN, and two backends answer: the client keeps the first. Or a backend
        // has not heard of the end of an earlier connection: it challenges.
        if matches!(event.kind, EventKind::SynOnLiving { .. }) {
            return;
        }
        if event.kind == EventKind::Opened
            && let (Place::Client(_), Some(flow)) = (place, flow)
        {
            self.excuses.begin(flow, event.connection);
            self.paths.begin(flow);
            if !self.sockets_used.insert(flow) {
                self.sockets_reused.insert(flow);
                let lingers = self.lingers(flow);
                self.marks.reach(Mark::KeyReused, u64::from(lingers));
            }
        }
        // A last segment of an earlier connection of this socket meets its successor's: TCP is made
        // for that. If it did harm, an end says so.
        let reused = flow.is_some_and(|flow| self.sockets_reused.contains(&flow));
        if reused && matches!(event.kind, EventKind::Misrouted(_)) {
            return;
        }
        // A director asks a backend for its number, which it cannot have: the SYN was lost on the way.
        if let (EventKind::Misrouted(stray), Some(flow)) = (&event.kind, flow)
            && (stray.flags, stray.data) == (Flags::ACK, 0)
            && let IpAddr::V4(address) = event.local.ip()
            && let Some(backend) = cluster::backend_at(address)
            && self.oracle.was_offered(flow, backend, stray.seq)
        {
            return;
        }
        // A flow that nobody knew began anew, where new flows go by now.
        let moves = match event.kind {
            EventKind::BackendChanged { .. } => true,
            EventKind::Misrouted(stray) => stray.flags.0 == 0,
            _ => false,
        };
        if moves && flow.is_some_and(|flow| self.oracle.has_moved(flow)) {
            return;
        }
        if !event.kind.is_fault() {
            return;
        }
        if let (Some(flow), Some(loss)) = (flow, Loss::of(&event.kind))
            && self.excused(place, flow, event.connection, loss)
        {
            return;
        }
        let rule = match event.kind {
            EventKind::Reset { .. } | EventKind::Refused => Rule::NoReset,
            EventKind::TimedOut { living: true } | EventKind::Stalled => Rule::WithoutLeader,
            EventKind::TimedOut { living: false } => Rule::Liveness,
            _ => Rule::OneBackend,
        };
        self.violate(rule, format!("{place}: {event}"), flow);
    }
}
