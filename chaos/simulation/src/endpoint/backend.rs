//! A backend host: accepts connections, serves them, and judges what arrives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::bygone::{Bygone, Sockets};
use super::datagram::Datagram;
use super::dialogue::Ending;
use super::event::{ConnectionId, Event, EventKind, OpenConnection, Stray, Summary};
use super::log::Log;
use super::packet::{self, Damage, Packet};
use super::plan::draw_isn;
use super::segment::{Flags, Segment};
use super::service::Service;
use super::tcp::{Signal, State, Tcp, TcpConfig};
use super::udp::Request;
use crate::rng::Rng;

/// What a backend host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendConfig {
    /// Tells backends apart; in every response. Not 0.
    pub identity: u32,
    /// The host's address.
    pub address: IpAddr,
    /// TCP ports it listens on.
    pub tcp_ports: Vec<u16>,
    /// UDP ports it listens on.
    pub udp_ports: Vec<u16>,
    /// Times and sizes of its TCP.
    pub tcp: TcpConfig,
    /// Whether the client's address has to come in a TCP option: in the segment that completes the
    /// handshake, and in the first one with data.
    pub expects_address: bool,
}

/// A TCP connection with its service.
struct Served {
    tcp: Tcp,
    service: Service,
    told: Option<SocketAddr>,
    address_judged: bool,
    ended: bool,
}

impl Served {
    fn id(&self) -> Option<ConnectionId> {
        self.service.dialogue().map(|dialogue| dialogue.id)
    }

    /// Whether something was still to be done that the client has not given up by its plan.
    fn living(&self) -> bool {
        // Of a connection on which nothing was said yet, the client alone knows what it wants.
        let Some(dialogue) = self.service.dialogue() else { return false };
        // Both have closed: only acknowledgements are missing. Whether the client has got everything,
        // it knows itself.
        if matches!(self.tcp.state(), State::Closing | State::LastAck | State::TimeWait) {
            return false;
        }
        match dialogue.ending {
            Ending::Vanish => !self.service.last_may_be_sent(),
            Ending::Reset | Ending::ResetInResponse => !self.service.all_received(),
            _ => !(self.service.all_answered() && self.tcp.all_acknowledged()),
        }
    }

    fn next_us(&self) -> Option<u64> {
        let service = (!self.ended).then(|| self.service.next_us()).flatten();
        self.tcp.next_us().into_iter().chain(service).min()
    }
}

/// A backend host.
pub struct Backend {
    config: BackendConfig,
    rng: Rng,
    connections: BTreeMap<Sockets, Served>,
    bygone: Bygone,
    /// From where the datagrams of a flow come.
    sources: BTreeMap<ConnectionId, SocketAddr>,
    log: Log,
    summary: Summary,
    down: bool,
    may_wrap: bool,
}

impl Backend {
    /// A host; its initial sequence numbers are drawn from `seed`.
    #[must_use]
    pub fn new(config: BackendConfig, seed: u64) -> Backend {
        let rng = Rng::new(seed ^ u64::from(config.identity), "backend");
        Backend {
            config,
            rng,
            connections: BTreeMap::new(),
            bygone: Bygone::default(),
            sources: BTreeMap::new(),
            log: Log::default(),
            summary: Summary::default(),
            down: false,
            may_wrap: true,
        }
    }

    /// Takes an IP packet. Ask [`Backend::next_us`] afterwards.
    pub fn packet(&mut self, now_us: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>) {
        if self.down {
            return;
        }
        if let Err(damage) = self.take(now_us, bytes, out) {
            let nobody = SocketAddr::new(self.config.address, 0);
            self.log.note(now_us, None, (nobody, nobody), EventKind::Damaged(damage));
        }
    }

    fn take(&mut self, now_us: u64, bytes: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), Damage> {
        if bytes.len() > usize::from(self.config.tcp.mtu) {
            return Err(Damage::TooBig);
        }
        let ip = Packet::parse(bytes)?;
        match ip.protocol {
            packet::TCP => self.segment(now_us, &Segment::parse(&ip)?, out),
            packet::UDP => self.datagram(now_us, &Datagram::parse(&ip)?, out),
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
        let listens = self.config.tcp_ports.contains(&segment.dst.port());
        if segment.dst.ip() != self.config.address || !listens {
            self.log.note(now_us, None, sockets, EventKind::NotMine);
            out.extend(segment.refusal().map(|reset| reset.encode(&[])));
            return;
        }
        if let Some(served) = self.connections.get(&sockets)
            && served.tcp.reopens(segment)
        {
            self.log.note(now_us, served.id(), sockets, EventKind::TimeWaitReused);
            self.forget(sockets);
        }
        let Some(served) = self.connections.get_mut(&sockets) else {
            if Flags(segment.flags.0 & 0x17) == Flags::SYN {
                self.accept(now_us, segment, out);
            } else {
                let (id, kind) = self.bygone.judge(segment);
                self.log.note(now_us, id, sockets, kind);
                out.extend(segment.refusal().map(|reset| reset.encode(&[])));
            }
            return;
        };
        let half_open = served.tcp.state() == State::SynReceived;
        let was_living = served.living();
        served.tcp.receive(now_us, segment, out);
        let completes = half_open && served.tcp.state() != State::SynReceived;
        if self.config.expects_address {
            self.judge_address(now_us, segment, completes);
        }
        self.work(now_us, sockets, was_living, out);
    }

    fn accept(&mut self, now_us: u64, syn: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let sockets = (syn.dst, syn.src);
        // Beyond the numbers of the connection before, as Linux does it: its late segments lie outside
        // the window.
        let isn = match self.bygone.sequence_end(&sockets) {
            Some(end) => end.wrapping_add(self.rng.between(100_000, 400_000) as u32),
            None => self.draw_isn(syn),
        };
        let served = Served {
            tcp: Tcp::accept(&self.config.tcp, syn, isn, now_us, out),
            service: Service::new(self.config.identity),
            told: None,
            address_judged: false,
            ended: false,
        };
        self.connections.insert(sockets, served);
        self.summary.opened += 1;
        self.log.note(now_us, None, sockets, EventKind::Opened);
    }

    /// An initial sequence number: if it may, mostly one so near to 2^32 that it wraps. Else one that looks like
    /// the hash of the addresses that it is in reality (RFC 6528).
    fn draw_isn(&mut self, syn: &Segment<'_>) -> u32 {
        let place = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => u32::from(ip.octets()[3]),
            IpAddr::V6(ip) => u32::from(ip.octets()[15]),
        };
        let (place, drawn) = (place(syn.dst) % 8 + 8 * place(syn.src), draw_isn(&mut self.rng));
        if self.may_wrap {
            return drawn;
        }
        let of_opening = syn.seq.wrapping_add(place.wrapping_mul(0x51ed_270b));
        drawn.wrapping_mul(0x9e37_79b1) ^ of_opening.wrapping_mul(0x85eb_ca6b)
    }

    /// Whether a connection that begins now may have numbers that wrap soon. Directors tell connections by
    /// their numbers: of those that are to be told apart, only one may begin near 2^32.
    pub fn let_wrap(&mut self, may: bool) {
        self.may_wrap = may;
    }

    /// The client's address has to be in what completes the handshake, and in the first data. (Others
    /// may overtake these; they need not carry it.)
    fn judge_address(&mut self, now_us: u64, segment: &Segment<'_>, completes: bool) {
        let sockets = (segment.dst, segment.src);
        let Some(served) = self.connections.get_mut(&sockets) else { return };
        let first = segment.seq == served.tcp.peer_isn().wrapping_add(1)
            && segment.flags.has(Flags::ACK)
            && !segment.flags.has(Flags::SYN.with(Flags::RST));
        let must = first && (completes || !segment.payload.is_empty());
        let differs = |told: SocketAddr| segment.toa.is_some_and(|toa| toa != told);
        if must && segment.toa.is_none() && !served.address_judged {
            served.address_judged = true;
            self.log.note(now_us, served.id(), sockets, EventKind::AddressMissing);
        } else if served.told.is_some_and(differs)
            && !served.address_judged
            && let (Some(is), Some(told)) = (served.told, segment.toa)
        {
            served.address_judged = true;
            let kind = EventKind::AddressWrong { told, is };
            self.log.note(now_us, served.id(), sockets, kind);
        }
        served.told = served.told.or(segment.toa);
    }

    fn datagram(&mut self, now_us: u64, datagram: &Datagram<'_>, out: &mut Vec<Vec<u8>>) {
        let sockets = (datagram.dst, datagram.src);
        let listens = self.config.udp_ports.contains(&datagram.dst.port());
        if datagram.dst.ip() != self.config.address || !listens {
            self.log.note(now_us, None, sockets, EventKind::NotMine);
            return;
        }
        let request = match Request::parse(datagram.payload) {
            Ok(request) => request,
            Err(kind) => return self.log.note(now_us, None, sockets, kind),
        };
        let id = request.dialogue.id;
        if request.served_by != 0 && request.served_by != self.config.identity {
            let (flags, data) = (Flags::default(), datagram.payload.len() as u32);
            let stray = Stray { flags, seq: request.number, ack: 0, data };
            self.log.note(now_us, Some(id), sockets, EventKind::Misrouted(stray));
        }
        match self.sources.insert(id, datagram.src) {
            None => self.log.note(now_us, Some(id), sockets, EventKind::Opened),
            Some(before) if before != datagram.src => {
                self.log.note(now_us, Some(id), sockets, EventKind::SourceChanged);
            }
            Some(_) => {}
        }
        let payload = request.response(self.config.identity);
        out.push(Datagram { src: datagram.dst, dst: datagram.src, payload: &payload }.encode());
    }

    /// Does what is due, and tells when something will be next.
    pub fn tick(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) -> Option<u64> {
        if self.down {
            return None;
        }
        let due: Vec<Sockets> = self
            .connections
            .iter()
            .filter(|(_, served)| served.next_us().is_some_and(|at_us| at_us <= now_us))
            .map(|(sockets, _)| *sockets)
            .collect();
        for sockets in due {
            let Some(served) = self.connections.get_mut(&sockets) else { continue };
            let was_living = served.living();
            served.tcp.tick(now_us, out);
            self.work(now_us, sockets, was_living, out);
        }
        self.next_us()
    }

    /// When [`Backend::tick`] has something to do.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        let next = || self.connections.values().filter_map(Served::next_us).min();
        if self.down { None } else { next() }
    }

    /// Takes what TCP has to say about a connection, and goes on serving it. `living` is whether it
    /// was that before what has just happened.
    fn work(&mut self, now_us: u64, sockets: Sockets, living: bool, out: &mut Vec<Vec<u8>>) {
        let Some(served) = self.connections.get_mut(&sockets) else { return };
        let (log, summary) = (&mut self.log, &mut self.summary);
        let known = served.id();
        let bytes = served.tcp.read();
        let mut kinds = Vec::new();
        if !served.ended && !served.service.take(now_us, &bytes, &mut |kind| kinds.push(kind)) {
            served.tcp.abort(out);
            served.ended = true;
            summary.intended += 1;
        }
        let id = served.id();
        let mut note = |kind| log.note(now_us, id, sockets, kind);
        if known.is_none()
            && self.config.expects_address
            && let Some(dialogue) = served.service.dialogue()
            && !std::mem::replace(&mut served.address_judged, true)
        {
            match served.told {
                None => note(EventKind::AddressMissing),
                Some(told) if told != dialogue.client => {
                    note(EventKind::AddressWrong { told, is: dialogue.client });
                }
                Some(_) => served.address_judged = false,
            }
        }
        for kind in kinds {
            summary.delivered += u64::from(matches!(kind, EventKind::Delivered { .. }));
            note(kind);
        }
        while let Some(signal) = served.tcp.signal() {
            let counted = std::mem::replace(&mut served.ended, true);
            let count = match signal {
                Signal::Connected => {
                    note(EventKind::Connected);
                    summary.connected += 1;
                    None
                }
                Signal::PeerClosed => {
                    // Nobody who means well closes before all is said, except one that says nothing.
                    if served.service.dialogue().is_some() && !served.service.all_received() {
                        note(EventKind::Stalled);
                    }
                    None
                }
                Signal::Closed => {
                    note(EventKind::Closed);
                    Some(&mut summary.closed)
                }
                Signal::Reset | Signal::Refused if counted => None, // TIME_WAIT
                Signal::Reset | Signal::Refused => {
                    note(match id.is_none() {
                        true => EventKind::HalfOpenEnded,
                        false => EventKind::Reset { living },
                    });
                    Some(if living { &mut summary.reset } else { &mut summary.intended })
                }
                Signal::TimedOut(State::SynReceived) => {
                    note(EventKind::HalfOpenEnded);
                    Some(&mut summary.intended)
                }
                Signal::TimedOut(_) => {
                    note(EventKind::TimedOut { living });
                    Some(if living { &mut summary.timed_out } else { &mut summary.intended })
                }
                Signal::ResetIgnored => {
                    note(EventKind::ResetIgnored);
                    None
                }
                Signal::WrongAck(seq, ack) => {
                    let stray = Stray { flags: Flags::ACK, seq, ack, data: 0 };
                    note(match self.bygone.is_near(&sockets, &stray) {
                        true => EventKind::Late(stray),
                        false => EventKind::Misrouted(stray),
                    });
                    None
                }
                Signal::SynOnLiving(seq) => {
                    // The network may have kept one of the connection before.
                    let living = living && !self.bygone.began(&sockets, seq);
                    note(EventKind::SynOnLiving { living });
                    None
                }
            };
            match count {
                Some(count) => *count += u64::from(!counted),
                None => served.ended = counted,
            }
        }
        self.serve(now_us, sockets, out);
    }

    fn serve(&mut self, now_us: u64, sockets: Sockets, out: &mut Vec<Vec<u8>>) {
        let Some(served) = self.connections.get_mut(&sockets) else { return };
        if !served.ended {
            while let Some(response) = served.service.respond(now_us) {
                served.tcp.write(&response);
            }
            let closes =
                served.service.dialogue().is_some_and(|dialogue| dialogue.ending.backend_closes());
            let peer_closed = served.tcp.peer_closed();
            if closes && served.service.all_answered() || peer_closed && served.service.idle() {
                served.tcp.close();
            }
        }
        served.tcp.flush(now_us, out);
        if served.tcp.state() == State::Closed {
            self.forget(sockets);
        }
    }

    fn forget(&mut self, sockets: Sockets) {
        if let Some(served) = self.connections.remove(&sockets) {
            self.bygone.add(served.id(), &served.tcp);
        }
    }

    /// The host loses its power: it takes nothing and says nothing, and forgets everything.
    pub fn shut_down(&mut self) {
        self.down = true;
        for sockets in self.connections.keys().copied().collect::<Vec<_>>() {
            let counts = self.connections.get(&sockets).is_some_and(|served| !served.ended);
            self.summary.forgotten += u64::from(counts);
            self.forget(sockets);
        }
        self.sources.clear();
    }

    /// The host starts again.
    pub fn start(&mut self) {
        self.down = false;
    }

    /// What was noticed since it was asked last.
    pub fn drain_events(&mut self) -> Vec<Event> {
        self.log.drain()
    }

    /// What has become of all TCP connections.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// What is open. TIME_WAIT is not; UDP flows have no end here and are not either.
    #[must_use]
    pub fn open(&self) -> Vec<OpenConnection> {
        let open = self.connections.iter().filter(|(_, served)| !served.ended);
        open.map(|(sockets, served)| OpenConnection {
            id: served.id(),
            local: sockets.0,
            remote: sockets.1,
            state: served.tcp.state().name(),
        })
        .collect()
    }

    /// Connections in TIME_WAIT.
    #[must_use]
    pub fn time_waits(&self) -> usize {
        self.connections.values().filter(|served| served.tcp.state() == State::TimeWait).count()
    }
}
