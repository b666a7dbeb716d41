//! `to_toml` and `parse_cluster` are each other's inverse, and no text makes the readers panic.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthCheck, HealthSpec, ListenerSpec, NewUdp,
    ReplicateAfter, UnknownSession, keys, parse_cluster, parse_node, reference, validate,
};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::ForwardingMode;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn health() -> impl Strategy<Value = HealthSpec> {
    let port = || option::of(1u16..);
    let check = prop_oneof![
        Just(HealthCheck::None),
        port().prop_map(|port| HealthCheck::Tcp { port }),
        (1u16.., "/[!-~]{0,12}", option::of("[!-~]{1,12}"), option::of(100u16..600)).prop_map(
            |(port, path, host, status)| HealthCheck::Http { port: Some(port), path, host, status }
        ),
    ];
    (check, 50u32..3_600_000, 10u32..60_000, 1u8..=100, 1u8..=100).prop_map(
        |(check, interval_ms, timeout_ms, rise, fall)| HealthSpec {
            check,
            interval_ms,
            timeout_ms: timeout_ms.min(interval_ms),
            rise,
            fall,
        },
    )
}

fn group() -> impl Strategy<Value = (HealthSpec, Vec<(u16, u16, bool)>)> {
    (health(), vec((1u16.., 0u16..=1000, any::<bool>()), 0..4))
}

type ListenerSeed = (u8, u16, bool, usize, Option<u32>, u32, bool);

fn listener() -> impl Strategy<Value = ListenerSeed> {
    let after = option::of(0u32..=3_600_000);
    (any::<u8>(), 1u16.., any::<bool>(), any::<usize>(), after, 100u32..=604_800_000, any::<bool>())
}

prop_compose! {
    fn cluster()(
        groups in vec(group(), 1..4),
        listeners in vec(listener(), 0..5),
        lips_per_director in 1u16..=16,
    ) -> ClusterSpec {
        let groups: Vec<GroupSpec> = groups
            .into_iter()
            .enumerate()
            .map(|(g, (health, backends))| GroupSpec {
                name: format!("g{g}"),
                health,
                backends: backends
                    .into_iter()
                    .enumerate()
                    .map(|(b, (port, weight, draining))| BackendSpec {
                        name: format!("b{b}"),
                        address: SocketAddr::from(([10, 0, g as u8, b as u8], port)),
                        weight,
                        draining,
                    })
                    .collect(),
            })
            .collect();
        let listeners = listeners
            .into_iter()
            .enumerate()
            .map(|(l, (host, port, udp, group, after, idle_timeout_ms, policy))| ListenerSpec {
                name: format!("l{l}.x_y-z"),
                vip: IpAddr::V4(Ipv4Addr::new(203, 0, l as u8, host)),
                port,
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                mode: ForwardingMode::FullNat,
                group: format!("g{}", group % groups.len()),
                replicate_after: after.map_or(ReplicateAfter::Never, ReplicateAfter::Millis),
                idle_timeout_ms,
                unknown_session: if udp || policy { UnknownSession::Drop } else { UnknownSession::Reset },
                new_udp: if udp && policy { NewUdp::Ask } else { NewUdp::Schedule },
            })
            .collect();
        let lip_pool = vec!["198.51.100.0/28".parse().unwrap(), "198.18.0.7/32".parse().unwrap()];
        ClusterSpec { lip_pool, lips_per_director, listeners, groups }
    }
}

/// Every key that exists, to make texts that come near to being right.
fn words() -> Vec<&'static str> {
    let sections = [
        &keys::NODE,
        &keys::ANNOUNCE,
        &keys::CLUSTER,
        &keys::LISTENER,
        &keys::GROUP,
        &keys::HEALTH,
        &keys::BACKEND,
    ];
    let mut words: Vec<&str> =
        sections.iter().flat_map(|s| s.keys.iter().map(|k| k.name)).collect();
    words.extend([
        "[[listener]]",
        "[[group]]",
        "[[group.backend]]",
        "[announce]",
        "[group.health]",
    ]);
    words.extend([
        " = ", "\n", "\"", "'", "{", "}", "[", "]", ",", ".", "#", "0", "-1", "1e3", "3s",
    ]);
    words.extend(["\"tcp\"", "\"cluster\"", "\"node\"", "true", "é", "\t", "\u{7f}", "\"\"\""]);
    words
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(spec in cluster()) {
        prop_assert_eq!(validate(&spec), vec![]);
        let text = spec.to_toml();
        match parse_cluster(&text, "round.toml") {
            Ok(read) => prop_assert_eq!(read, spec),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, text),
        }
    }

    #[test]
    fn nothing_makes_the_readers_panic(
        picks in vec(proptest::sample::select(words()), 0..40),
        cut in 0usize..700,
        insert in "\\PC{0,4}",
    ) {
        let soup: String = picks.concat();
        let mut texts = vec![soup.clone(), format!("kind = \"cluster\"\n{soup}"), format!("kind = \"node\"\n{soup}")];
        for example in [reference::EXAMPLE_CLUSTER, reference::EXAMPLE_NODE] {
            let at = (0..=cut.min(example.len())).rev().find(|at| example.is_char_boundary(*at)).unwrap_or(0);
            texts.push(format!("{}{insert}{}", &example[..at], &example[at..]));
            texts.push(example[..at].to_owned());
        }
        for text in texts {
            if let Err(errors) = parse_cluster(&text, "x") {
                prop_assert!(!errors.0.is_empty());
                let _ = errors.to_string();
            }
            if let Err(errors) = parse_node(&text, "x") {
                prop_assert!(!errors.0.is_empty());
                let _ = errors.to_string();
            }
        }
    }
}

#[test]
fn the_examples_of_the_reference_are_right() {
    parse_cluster(reference::EXAMPLE_CLUSTER, "cluster.toml").unwrap();
    parse_node(reference::EXAMPLE_NODE, "node.toml").unwrap();
}
