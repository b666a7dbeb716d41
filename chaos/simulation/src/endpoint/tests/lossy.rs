//! Whatever the network does, everything arrives, ends, and nothing is noticed that is not so.

use super::*;
use crate::endpoint::{Setting, Target, Transport};

fn target(address: &str, port: u16, transport: Transport) -> Target {
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
    Target { address, transport, idle_timeout_us: 5_000_000 }
}

/// The network, and the client's ports whose connections end by a reset, or silence: if it is lost, or
/// came before the last request, the backend waits for ever. (In a cluster, until the idle timeout.)
fn world(seed: u64) -> (Network, Vec<u16>) {
    let v6 = seed % 2 == 1;
    let (client, first, second) = match v6 {
        true => ("2001:db8::10", "2001:db8:1::1", "2001:db8:1::2"),
        false => (CLIENT, BACKEND, "198.51.100.2"),
    };
    let mut network = Network::bad(seed);
    let setting = Setting {
        address: client.parse().unwrap(),
        targets: vec![
            target(first, 80, Transport::Tcp),
            target(second, 80, Transport::Tcp),
            target(second, 53, Transport::Udp),
        ],
        connections: 12,
        first_id: seed << 16,
        begin_us: (0, 3_000_000),
        tcp: TcpConfig { retransmit_most_us: 5_000_000, ..TcpConfig::default() },
        patience_us: 300_000_000,
    };
    let plan = ClientPlan::draw(&setting, seed);
    let ports = plan.connections.iter().filter_map(|plan| {
        let ending = plan.dialogue.ending;
        let gives_up = ending.client_resets() || ending == Ending::Vanish;
        gives_up.then_some(plan.dialogue.client.port())
    });
    let give_up = ports.collect();
    network.add_client(plan, seed);
    for (identity, address) in [(1, first), (2, second)] {
        network.add_backend(backend_config(identity, address), seed);
    }
    (network, give_up)
}

#[test]
fn all_data_arrive_and_every_connection_ends() {
    let mut marks: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..200 {
        let (mut network, give_up) = world(seed);
        network.run(HOUR_US);
        assert_eq!(network.faults(), [""; 0], "seed {seed}:\n{}", network.story());
        let mut closed = 0;
        for host in network.hosts.values() {
            let (summary, open) = match host {
                Host::Client(client) => (client.summary(), client.open()),
                Host::Backend(backend) => (backend.summary(), backend.open()),
            };
            assert_eq!(summary.opened, summary.ended() + open.len() as u64, "seed {seed}");
            assert!(open.iter().all(|open| give_up.contains(&open.remote.port())), "{open:?}");
            assert_eq!(summary.reset + summary.timed_out + summary.forgotten, 0);
            if matches!(host, Host::Client(_)) {
                assert_eq!((summary.opened, open.len()), (12, 0), "seed {seed}");
                closed = summary.closed;
            }
        }
        // What was closed clean has had every request answered, once and in order.
        let mut delivered: BTreeMap<ConnectionId, Vec<u32>> = BTreeMap::new();
        let (mut ended, mut responses) = (0, 0);
        let clients = network.hosts.keys().next().copied().unwrap();
        for event in network.events.iter().filter(|event| event.local.ip() == clients) {
            let name = format!("{:?}", event.kind);
            let name = name.split([' ', '(']).next().unwrap_or("").to_owned();
            *marks.entry(name).or_default() += 1;
            let Some(id) = event.connection else { continue };
            match event.kind {
                EventKind::Delivered { number, .. } => {
                    delivered.entry(id).or_default().push(number);
                    responses += 1;
                }
                EventKind::Closed => ended += 1,
                _ => {}
            }
        }
        assert_eq!(ended, closed);
        assert!(responses > 0);
        for numbers in delivered.values() {
            assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "{numbers:?}");
        }
        for event in &network.events {
            if event.local.ip() != clients {
                let name = format!("backend {:?}", event.kind);
                let name = name.split(['{', '(']).next().unwrap_or("").trim().to_owned();
                *marks.entry(name).or_default() += 1;
            }
        }
    }
    // That the rare things were met at all.
    for name in [
        "Closed",
        "Aborted",
        "Vanished",
        "Late",
        "DatagramRepeated",
        "backend Closed",
        "backend Reset",
        "backend TimedOut",
        "backend HalfOpenEnded",
        "backend TimeWaitReused",
        "backend Late",
        "backend SynOnLiving",
    ] {
        assert!(marks.contains_key(name), "{name} never happened: {marks:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_story() {
    for seed in [3, 4] {
        let stories = [(); 2].map(|()| {
            let (mut network, _) = world(seed);
            network.run(HOUR_US);
            network.story()
        });
        assert_eq!(stories[0], stories[1]);
    }
}

#[test]
fn who_leaves_says_what_is_to_be_said_and_ends() {
    let (mut network, give_up) = world(6);
    network.run(2_000_000);
    let now_us = network.now_us;
    network.client(CLIENT).leave(now_us);
    network.run(HOUR_US);
    assert_eq!(network.faults(), [""; 0], "{}", network.story());
    let summary = network.client(CLIENT).summary();
    assert!(summary.opened > 3 && summary.opened == summary.ended(), "{summary:?}");
    assert!(network.client(CLIENT).open().is_empty());
    let open = network.backend(BACKEND).open();
    assert!(open.iter().all(|open| give_up.contains(&open.remote.port())), "{open:?}");
}
