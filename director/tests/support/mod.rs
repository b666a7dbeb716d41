//! A small cluster in memory, and packets written by etherparse, an encoder that shares nothing
//! with Holdfast. Used by the tests of the packet core, its fuzz targets and its benchmark.
#![allow(dead_code, missing_docs)] // not everybody uses everything; not an API

pub mod packet;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use holdfast_director::core::{
    Core, CoreConfig, Counters, Frame, MissAnswer, MissQuestion, SharedCounters, Verdict,
};
use holdfast_director::session::SessionTable;
use holdfast_director::tables::{ForwardingTables, NextHop, NextHops};
use holdfast_schema::bucket::{BucketKey, ShardTable};
use holdfast_schema::cluster::*;
use holdfast_schema::config::*;
use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{ForwardingMode, SessionRecord};

pub const ME: DirectorId = DirectorId(1);
pub const OTHER: DirectorId = DirectorId(2);
pub const KEY: BucketKey = BucketKey(*b"holdfast-testkey");

pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// A VIP whose only backend is unhealthy.
pub const DARK_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
pub const OWN_LIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
pub const FOREIGN_LIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const BACKENDS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)];
/// Reached over a next hop with an MTU of 1400.
pub const NARROW: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 1);
/// Reached over a next hop that is not resolved.
pub const UNRESOLVED: Ipv4Addr = Ipv4Addr::new(10, 1, 8, 1);

/// The data interface of the director.
pub const MAC_ME: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The router towards clients.
pub const MAC_ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
/// The router towards backends.
pub const MAC_BACKENDS: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// TCP, unknown sessions are reset.
pub const WEB: u16 = 80;
/// TCP, unknown sessions are dropped.
pub const QUIET: u16 = 81;
/// TCP, backends behind a narrow way.
pub const NARROW_WEB: u16 = 82;
/// TCP, a backend whose next hop is not resolved.
pub const LOST: u16 = 83;
/// UDP, new flows are scheduled.
pub const DNS: u16 = 53;
/// UDP, new flows are asked about.
pub const GAME: u16 = 5000;

pub const BACKEND_PORT: u16 = 8080;

/// The first moment of a test (ns).
pub const START: u64 = 1_000_000_000_000;
pub const MS: u64 = 1_000_000;

fn listener(name: &str, vip: Ipv4Addr, port: u16, protocol: Protocol, group: &str) -> ListenerSpec {
    ListenerSpec {
        name: name.into(),
        vip: vip.into(),
        port,
        protocol,
        mode: ForwardingMode::FullNat,
        group: group.into(),
        replicate_after: ReplicateAfter::Millis(3000),
        idle_timeout_ms: 900_000,
        unknown_session: if name == "quiet" { UnknownSession::Drop } else { UnknownSession::Reset },
        new_udp: if name == "game" { NewUdp::Ask } else { NewUdp::Schedule },
    }
}

/// The cluster that all tests use: this director and another one.
pub fn cluster() -> ClusterState {
    let mut backends = 0;
    let mut group = |id: u32, name: &str, addresses: &[Ipv4Addr]| {
        let specs: Vec<BackendSpec> = addresses
            .iter()
            .map(|address| BackendSpec {
                name: address.to_string(),
                address: (*address, BACKEND_PORT).into(),
                weight: 1,
                draining: false,
            })
            .collect();
        let numbered = specs
            .iter()
            .map(|spec| {
                backends += 1;
                (spec.name.clone(), Backend { id: BackendId(backends), spec: spec.clone() })
            })
            .collect();
        let spec = GroupSpec { name: name.into(), health: HealthSpec::default(), backends: specs };
        (name.to_owned(), Group { id: GroupId(id), spec, backends: numbered })
    };
    let groups: BTreeMap<String, Group> = [
        group(1, "web", &BACKENDS),
        group(2, "narrow", &[NARROW]),
        group(3, "lost", &[UNRESOLVED]),
        group(4, "dark", &[Ipv4Addr::new(10, 1, 0, 66)]),
    ]
    .into();
    let next = NextIds { listener: 8, group: 5, backend: backends + 1, ..NextIds::default() };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let specs = [
        listener("web", VIP, WEB, tcp, "web"),
        listener("quiet", VIP, QUIET, tcp, "web"),
        listener("narrow", VIP, NARROW_WEB, tcp, "narrow"),
        listener("lost", VIP, LOST, tcp, "lost"),
        listener("dns", VIP, DNS, udp, "web"),
        listener("game", VIP, GAME, udp, "web"),
        listener("dark", DARK_VIP, WEB, tcp, "dark"),
    ];
    let lip = |owner| LipAssignment { owner: Some(owner), quarantined: false };
    ClusterState {
        cluster_id: "0".repeat(32),
        bucket_key: KEY,
        shards: ShardTable::spread(16),
        shard_count: 16,
        revision: 1,
        membership_epoch: 1,
        members: BTreeMap::new(),
        lips: OWN_LIPS
            .iter()
            .map(|ip| ((*ip).into(), lip(ME)))
            .chain([(FOREIGN_LIP.into(), lip(OTHER))])
            .collect(),
        spec: ClusterSpec::default(),
        listeners: specs
            .into_iter()
            .zip(1..)
            .map(|(spec, id)| (spec.name.clone(), Listener { id: ListenerId(id), spec }))
            .collect(),
        groups,
        tokens: BTreeMap::new(),
        planned: Vec::new(),
        next,
        ca_certificate: String::new(),
        ca_key: String::new(),
        requests: Vec::new(),
    }
}

/// Next hops; the router towards backends has this MAC address.
pub fn next_hops_with(backends: [u8; 6]) -> Arc<NextHops> {
    let hop = |dst_mac, mtu| Some(NextHop { src_mac: MAC_ME, dst_mac, mtu });
    Arc::new(NextHops::new(vec![
        ("0.0.0.0/0".parse().unwrap(), hop(MAC_ROUTER, 1500)),
        ("10.1.0.0/24".parse().unwrap(), hop(backends, 1500)),
        ("10.1.9.0/24".parse().unwrap(), hop(backends, 1400)),
        ("10.1.8.0/24".parse().unwrap(), None),
        ("192.0.2.0/24".parse().unwrap(), None),
    ]))
}

pub fn next_hops() -> Arc<NextHops> {
    next_hops_with(MAC_BACKENDS)
}

/// All backends are healthy but the one of `dark` (the last number given).
pub fn tables_of(cluster: &ClusterState) -> ForwardingTables {
    ForwardingTables::build(cluster, ME, &|id| id != BackendId(6), next_hops(), None)
}

/// Looks a session up as operators would.
pub trait SessionOf {
    fn session_of(&self, src: SocketAddrV4, dst: SocketAddrV4) -> SessionRecord;
}

impl SessionOf for SessionTable {
    #[track_caller]
    fn session_of(&self, src: SocketAddrV4, dst: SocketAddrV4) -> SessionRecord {
        use holdfast_schema::session::SessionSink;
        let key = |protocol| FlowKey::new(protocol, src.into(), dst.into());
        let found = self
            .find(&key(Protocol::Tcp))
            .session()
            .or_else(|| self.find(&key(Protocol::Udp)).session());
        found.expect("the session is known")
    }
}

/// A director without anything around it.
pub struct Lab {
    pub core: Core,
    pub table: Arc<SessionTable>,
    pub tables: ForwardingTables,
    pub shared: Arc<SharedCounters>,
    pub now_ns: u64,
}

impl Lab {
    pub fn new() -> Lab {
        // A smaller waiting room than in production: it is made anew for each of many cases.
        let config = CoreConfig { waiting_packets: 256, ..CoreConfig::for_workers(10_000, 1) };
        Lab::with(10_000, config)
    }

    pub fn with(max_sessions: u32, config: CoreConfig) -> Lab {
        let table = Arc::new(SessionTable::new(max_sessions, max_sessions / 2, ME, 1));
        Lab::on(table, tables_of(&cluster()), config)
    }

    pub fn on(table: Arc<SessionTable>, tables: ForwardingTables, config: CoreConfig) -> Lab {
        let shared = Arc::new(SharedCounters::default());
        let worker = table.register_worker();
        let core = Core::new(table.clone(), worker, config, 0x5eed, shared.clone());
        Lab { core, table, tables, shared, now_ns: START }
    }

    /// One packet in; what becomes of it.
    pub fn one(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut all = self.batch(&[packet.to_vec()]);
        all.remove(0)
    }

    /// One packet in, which must be sent on.
    #[track_caller]
    pub fn sent(&mut self, packet: &[u8]) -> Vec<u8> {
        let (verdict, bytes) = self.one(packet);
        assert_eq!(verdict, Verdict::Transmit);
        bytes
    }

    /// Packets in, in one batch. Each lies in a chunk with room around it.
    pub fn batch(&mut self, packets: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>)> {
        const HEADROOM: usize = 100;
        let mut chunks: Vec<Vec<u8>> = packets
            .iter()
            .map(|packet| {
                let mut chunk = vec![0xee; HEADROOM + packet.len() + 700];
                chunk[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
                chunk
            })
            .collect();
        let mut frames: Vec<Frame<'_>> = chunks
            .iter_mut()
            .zip(packets)
            .map(|(chunk, packet)| Frame::new(chunk, HEADROOM, packet.len()))
            .collect();
        let mut verdicts = vec![Verdict::Parked; frames.len()];
        self.core.process(&self.tables, self.now_ns, &mut frames, &mut verdicts);
        self.check_counters();
        verdicts.into_iter().zip(frames.iter().map(|frame| frame.packet().to_vec())).collect()
    }

    /// Goes over to new tables, as the director does.
    pub fn install(&mut self, cluster: &ClusterState) {
        self.tables = tables_of(cluster);
        self.table.configure(self.tables.configured());
    }

    pub fn questions(&mut self) -> Vec<MissQuestion> {
        let mut out = Vec::new();
        self.core.take_questions(self.now_ns, &mut out);
        out
    }

    pub fn answer(&mut self, answer: MissAnswer) -> Vec<(Verdict, Vec<u8>)> {
        let mut released = Vec::new();
        self.core.answer(&self.tables, self.now_ns, &answer, &mut |frame, verdict| {
            released.push((verdict, frame.packet().to_vec()));
        });
        self.check_counters();
        released
    }

    pub fn poll(&mut self) -> Vec<(Verdict, Vec<u8>)> {
        let mut released = Vec::new();
        self.core.poll(&self.tables, self.now_ns, &mut |frame, verdict| {
            released.push((verdict, frame.packet().to_vec()));
        });
        self.check_counters();
        released
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ns += ms * MS;
    }

    pub fn counters(&self) -> &Counters {
        self.core.counters()
    }

    /// Every packet is accounted for, and readers see the same.
    #[track_caller]
    pub fn check_counters(&self) {
        let counters = self.core.counters();
        assert_eq!(counters.unaccounted(), 0, "{counters:?}");
        assert_eq!(counters.parked(), u64::from(self.core.parked()));
        assert_eq!(self.shared.read(), *counters);
    }
}
