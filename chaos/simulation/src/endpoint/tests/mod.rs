//! Hosts on a bad network.

mod encoding;
mod hostile;
mod lossy;
mod nat;
mod noticing;
mod segments;

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::packet::Packet;
use super::plan::{ConnectionPlan, Kind};
use super::{Backend, BackendConfig, Client, ClientPlan, Event, TcpConfig};
use super::{ConnectionId, EventKind};
use crate::endpoint::dialogue::{Dialogue, Ending, Volume};
use crate::rng::Rng;

enum Host {
    Client(Client),
    Backend(Backend),
}

/// What becomes of a packet on its way: the packets that go on.
type OnPath = Box<dyn FnMut(u64, Vec<u8>) -> Vec<Vec<u8>>>;

/// A network that loses, doubles, delays and so reorders.
struct Network {
    now_us: u64,
    count: u64,
    rng: Rng,
    loss: u64,
    doubles: u64,
    delay_us: (u64, u64),
    packets: BTreeMap<(u64, u64), Vec<u8>>,
    hosts: BTreeMap<IpAddr, Host>,
    on_path: OnPath,
    events: Vec<Event>,
}

impl Network {
    fn new(seed: u64) -> Network {
        Network {
            now_us: 0,
            count: 0,
            rng: Rng::new(seed, "network"),
            loss: 0,
            doubles: 0,
            delay_us: (100, 100),
            packets: BTreeMap::new(),
            hosts: BTreeMap::new(),
            on_path: Box::new(|_, packet| vec![packet]),
            events: Vec::new(),
        }
    }

    /// One that loses and doubles so many packets of a thousand.
    fn bad(seed: u64) -> Network {
        let mut rng = Rng::new(seed, "badness");
        let mut network = Network::new(seed);
        network.loss = rng.below(150);
        network.doubles = rng.below(100);
        network.delay_us = (rng.between(10, 500), rng.between(500, 60_000));
        network
    }

    fn add_client(&mut self, plan: ClientPlan, seed: u64) {
        self.hosts.insert(plan.address, Host::Client(Client::new(plan, seed)));
    }

    fn add_backend(&mut self, config: BackendConfig, seed: u64) {
        self.hosts.insert(config.address, Host::Backend(Backend::new(config, seed)));
    }

    fn client(&mut self, address: &str) -> &mut Client {
        match self.hosts.get_mut(&address.parse::<IpAddr>().unwrap()) {
            Some(Host::Client(client)) => client,
            _ => panic!("no client {address}"),
        }
    }

    fn backend(&mut self, address: &str) -> &mut Backend {
        match self.hosts.get_mut(&address.parse::<IpAddr>().unwrap()) {
            Some(Host::Backend(backend)) => backend,
            _ => panic!("no backend {address}"),
        }
    }

    fn send(&mut self, packets: Vec<Vec<u8>>) {
        for packet in packets {
            for packet in (self.on_path)(self.now_us, packet) {
                if self.rng.chance(self.loss, 1_000) {
                    continue;
                }
                let copies = if self.rng.chance(self.doubles, 1_000) { 2 } else { 1 };
                for _ in 0..copies {
                    let delay_us = self.rng.between(self.delay_us.0, self.delay_us.1);
                    self.count += 1;
                    self.packets.insert((self.now_us + delay_us, self.count), packet.clone());
                }
            }
        }
    }

    /// Runs until nothing is left to do, or the time is over.
    fn run(&mut self, until_us: u64) {
        loop {
            let hosts = self.hosts.values().filter_map(|host| match host {
                Host::Client(client) => client.next_us(),
                Host::Backend(backend) => backend.next_us(),
            });
            let packet_us = self.packets.keys().next().map(|(at_us, _)| *at_us);
            let Some(next_us) = hosts.chain(packet_us).min().filter(|at| *at <= until_us) else {
                return;
            };
            assert!(next_us >= self.now_us, "something was due and was not done");
            self.now_us = next_us;
            let mut out = Vec::new();
            if packet_us == Some(next_us) {
                let (_, packet) = self.packets.pop_first().unwrap();
                let to = Packet::parse(&packet).map(|ip| ip.dst);
                match to.ok().and_then(|to| self.hosts.get_mut(&to)) {
                    Some(Host::Client(client)) => client.packet(next_us, &packet, &mut out),
                    Some(Host::Backend(backend)) => backend.packet(next_us, &packet, &mut out),
                    None => {}
                }
            }
            for host in self.hosts.values_mut() {
                let (next, events) = match host {
                    Host::Client(client) => (client.tick(next_us, &mut out), client.drain_events()),
                    Host::Backend(backend) => {
                        (backend.tick(next_us, &mut out), backend.drain_events())
                    }
                };
                assert!(next.is_none_or(|at| at > next_us), "due work was left undone");
                self.events.extend(events);
            }
            self.send(out);
        }
    }

    fn faults(&self) -> Vec<String> {
        let faults = self.events.iter().filter(|event| event.kind.is_fault());
        faults.map(|event| event.to_string()).collect()
    }

    fn has(&self, is: impl Fn(&EventKind) -> bool) -> bool {
        self.events.iter().any(|event| is(&event.kind))
    }

    /// All that was noticed, for messages.
    fn story(&self) -> String {
        self.events.iter().map(|event| format!("{event}\n")).collect()
    }
}

const CLIENT: &str = "192.0.2.10";
const BACKEND: &str = "198.51.100.1";

fn backend_config(identity: u32, address: &str) -> BackendConfig {
    BackendConfig {
        identity,
        address: address.parse().unwrap(),
        tcp_ports: vec![80],
        udp_ports: vec![53],
        tcp: TcpConfig::default(),
        expects_address: false,
    }
}

/// A connection of [`CLIENT`] to [`BACKEND`].
fn connection(id: u64, requests: u16, ending: Ending) -> ConnectionPlan {
    ConnectionPlan {
        kind: Kind::Short,
        dialogue: Dialogue {
            id: ConnectionId(id),
            client: format!("{CLIENT}:4000").parse().unwrap(),
            requests,
            volume: Volume::Small,
            ending,
        },
        target: format!("{BACKEND}:80").parse().unwrap(),
        start_us: 1_000,
        after: None,
        pause_us: (0, 0),
        isn: 0xffff_fff0,
        syn_copies: 1,
        forges_address: false,
    }
}

fn client_plan(connections: Vec<ConnectionPlan>) -> ClientPlan {
    ClientPlan {
        address: CLIENT.parse().unwrap(),
        connections,
        tcp: TcpConfig::default(),
        patience_us: 200_000_000,
    }
}

/// One client with these connections, one backend, a good network.
fn simple(connections: Vec<ConnectionPlan>) -> Network {
    let mut network = Network::new(1);
    network.add_client(client_plan(connections), 1);
    network.add_backend(backend_config(1, BACKEND), 1);
    network
}

const HOUR_US: u64 = 3_600_000_000;
