//! Routes, rules and next hops against a real kernel, each test in a network namespace that lives
//! as long as its thread. Needs root; says so and passes without.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use holdfast_node::guard::tun::Tun;
use holdfast_node::netlink::routes::{Announcements, Wanted};
use holdfast_node::netlink::rules::{Rules, wanted};
use holdfast_node::netlink::{Netlink, NetlinkError, watch};

fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace of its own");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        ip("link set lo up");
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().expect("ip exists");
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn announcements_become_exactly_what_is_wanted() {
    in_namespace(|| async {
        let tun = Tun::create("hf0").unwrap();
        let routes = Announcements::new(Netlink::open().unwrap(), 4242);
        let mut wanted: Wanted =
            [(address("203.0.113.10"), 100), (address("198.51.100.1"), 200)].into();
        assert_eq!(routes.apply(tun.ifindex(), &wanted).await.unwrap(), 2);
        assert_eq!(routes.apply(tun.ifindex(), &wanted).await.unwrap(), 0);
        wanted.insert(address("203.0.113.10"), 900);
        wanted.remove(&address("198.51.100.1"));
        wanted.insert(address("2001:db8::1"), 100);
        routes.apply(tun.ifindex(), &wanted).await.unwrap();
        let four = ip("-4 route show table 4242");
        assert_eq!(four.lines().count(), 1, "{four}");
        assert!(four.contains("203.0.113.10") && four.contains("metric 900"), "{four}");
        assert!(ip("-6 route show table 4242").contains("2001:db8::1"));
        // Somebody deletes one: the next look puts it back.
        ip("route del 203.0.113.10 table 4242");
        assert_eq!(routes.apply(tun.ifindex(), &wanted).await.unwrap(), 1);
        drop(tun);
        assert_eq!(ip("-4 route show table all 203.0.113.10"), "", "gone with the device");
    });
}

#[test]
fn a_thousand_routes_are_paced_and_all_there() {
    in_namespace(|| async {
        let tun = Tun::create("hf0").unwrap();
        let routes = Announcements::new(Netlink::open().unwrap(), 4242);
        let wanted: Wanted =
            (0..1000u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 100)).collect();
        let from = std::time::Instant::now();
        assert_eq!(routes.apply(tun.ifindex(), &wanted).await.unwrap(), 1000);
        assert!(from.elapsed() >= Duration::from_millis(90), "nine pauses");
        assert_eq!(ip("route show table 4242").lines().count(), 1000);
        routes.apply(tun.ifindex(), &BTreeMap::new()).await.unwrap();
        assert_eq!(ip("-4 route show table 4242"), "");
    });
}

#[test]
fn missing_rules_are_named_with_the_command_that_works() {
    in_namespace(|| async {
        ip("link add eth0 type veth peer name eth1");
        let netlink = Netlink::open().unwrap();
        let rules = Rules { interface: "eth0".to_owned(), table: 4243 };
        let needed = wanted(&[address("203.0.113.10")], [address("198.51.100.1")].into_iter());
        let missing = rules.missing(&netlink, &needed).await.unwrap();
        assert_eq!(missing.len(), 2, "{missing:?}");
        // Each sentence holds a command in backquotes; they repair what they say.
        for sentence in &missing {
            let command = sentence.split('`').nth(1).unwrap().strip_prefix("ip ").unwrap();
            ip(command);
        }
        let left = rules.missing(&netlink, &needed).await.unwrap();
        assert_eq!(left.len(), 1, "the other blackhole: {left:?}");
        rules.fill(&netlink, &needed).await.unwrap();
        assert_eq!(rules.missing(&netlink, &needed).await.unwrap(), Vec::<String>::new());
        rules.install_rule(&netlink).await.unwrap();
        rules.install_rule(&netlink).await.unwrap();
        assert_eq!(ip("-4 rule show table 4243").lines().count(), 1, "idempotent");
        // An address that is gone loses its blackhole; an operator's prefix stays.
        ip("route add blackhole 198.51.100.0/24 table 4243");
        let vip = wanted(&[address("203.0.113.10")], std::iter::empty());
        rules.fill(&netlink, &vip).await.unwrap();
        let routes = ip("route show table 4243");
        assert!(routes.contains("203.0.113.10") && routes.contains("198.51.100.0/24"), "{routes}");
        assert!(!routes.contains("198.51.100.1 "), "{routes}");
    });
}

#[test]
fn every_address_of_a_large_pool_has_a_blackhole_and_a_few_routes_are_enough() {
    in_namespace(|| async {
        let netlink = Netlink::open().unwrap();
        let rules = Rules { interface: "lo".to_owned(), table: 4243 };
        rules.install_rule(&netlink).await.unwrap();
        let pool = |n: u32| {
            let lips = (0..n).map(|i| IpAddr::from((0xc612_0000 + i).to_be_bytes()));
            wanted(&[address("203.0.113.10")], lips)
        };
        rules.fill(&netlink, &pool(6_000)).await.unwrap();
        let lines = ip("-4 route show table 4243").lines().count();
        assert!(lines < 20, "{lines} routes");
        assert_eq!(rules.missing(&netlink, &pool(6_000)).await.unwrap(), Vec::<String>::new());
        let last = ip("-4 route show table 4243 match 198.18.23.111");
        assert!(!last.is_empty(), "the last address of the pool");
        // One that is not there is noticed, however many are.
        ip("route del blackhole 198.18.0.0/20 table 4243");
        let missing = rules.missing(&netlink, &pool(6_000)).await.unwrap();
        assert!(missing.len() == 1 && missing[0].contains("198.18.0.0/20"), "{missing:?}");
        // The pool shrinks and grows: what is not needed goes, nothing that is needed lacks.
        for n in [3, 4_096, 5_000] {
            rules.fill(&netlink, &pool(n)).await.unwrap();
            assert_eq!(rules.missing(&netlink, &pool(n)).await.unwrap(), Vec::<String>::new());
            let there = ip("-4 route show table 4243");
            assert_eq!(there.lines().count(), pool(n).len(), "{there}");
        }
    });
}

#[test]
fn a_rule_behind_the_main_table_is_none() {
    in_namespace(|| async {
        let netlink = Netlink::open().unwrap();
        let rules = Rules { interface: "lo".to_owned(), table: 4243 };
        let nothing = Default::default();
        let lacks = || async { rules.missing(&netlink, &nothing).await.unwrap().len() };
        for useless in ["iif lo lookup 4243 pref 40000", "not iif lo lookup 4243 pref 100"] {
            ip(&format!("rule add {useless}"));
            assert_eq!(lacks().await, 1, "{useless}");
        }
        rules.install_rule(&netlink).await.unwrap();
        assert_eq!(lacks().await, 0);
    });
}

#[test]
fn the_gateway_is_resolved_and_changes_are_followed() {
    in_namespace(|| async {
        // A pair of interfaces, the router's end in a namespace of its own.
        let name = format!("hf-node-nl-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let outcome = std::panic::AssertUnwindSafe(follow_gateway(&name));
        let result = futures_util::FutureExt::catch_unwind(outcome).await;
        ip(&format!("netns del {name}"));
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

async fn follow_gateway(router: &str) {
    ip(&format!("link add eth0 type veth peer name eth0 netns {router}"));
    ip("addr add 10.7.0.2/24 dev eth0");
    ip("link set eth0 up");
    ip(&format!("-n {router} addr add 10.7.0.1/24 dev eth0"));
    ip(&format!("-n {router} link set eth0 up"));
    ip("route add default via 10.7.0.1");
    let netlink = Netlink::open().unwrap();
    assert!(matches!(netlink.link("eth9").await, Err(NetlinkError::NoInterface(_))));
    let mut network = watch::start(netlink.clone(), "eth0".to_owned()).await.unwrap();
    let limit = Duration::from_secs(10);
    // Nobody has sent anything: the watcher itself gets the gateway resolved.
    let resolved = network.wait_for(|n| n.problems("eth0").is_empty());
    let seen =
        tokio::time::timeout(limit, resolved).await.expect("the gateway in time").unwrap().clone();
    let hop = |n: &watch::Network, ip: &str| {
        let ip = address(ip);
        n.hops.table.iter().find(|(p, _)| p.contains(ip)).and_then(|(_, h)| *h)
    };
    let to_world = hop(&seen, "192.0.2.1").expect("a next hop");
    assert_eq!((to_world.mtu, to_world.src_mac), (1500, seen.link.mac));
    assert_eq!(hop(&seen, "10.7.0.1").unwrap().dst_mac, to_world.dst_mac);
    assert_eq!(netlink.connected(&[]).await.unwrap(), ["10.7.0.0/24".parse().unwrap()]);
    // A new MAC at the router, and a smaller MTU here, are followed.
    ip("link set eth0 mtu 1400");
    let smaller = network.wait_for(|n| hop(n, "192.0.2.1").is_some_and(|h| h.mtu == 1400));
    tokio::time::timeout(limit, smaller).await.expect("the MTU in time").unwrap();
    ip("neigh replace 10.7.0.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0");
    let moved = network
        .wait_for(|n| hop(n, "192.0.2.1").is_some_and(|h| h.dst_mac == [2, 0, 0, 0, 0, 0x99]));
    tokio::time::timeout(limit, moved).await.expect("the new MAC in time").unwrap();
    ip("route del default");
    let lost = network.wait_for(|n| n.problems("eth0").iter().any(|p| p.contains("gateway")));
    tokio::time::timeout(limit, lost).await.expect("the loss of the route in time").unwrap();
}
