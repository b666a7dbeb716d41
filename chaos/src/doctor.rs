//! What the lab needs of a machine, and what to do where it is missing.

use std::time::Duration;

use anyhow::Result;

use crate::command::{SOON, find, finish, run, run_in};
use crate::lab::down;

/// Something that is missing: one sentence, with the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding(pub String);

/// Programs, and the Debian package that brings each.
const PROGRAMS: [(&str, &str, &str); 9] = [
    ("ip", "iproute2", "makes namespaces and links"),
    ("ss", "iproute2", "shows who listens"),
    ("bird", "bird2", "speaks BGP and BFD"),
    ("birdc", "bird2", "asks BIRD"),
    ("nft", "nftables", "drops frames"),
    ("ethtool", "ethtool", "switches offloads"),
    ("nginx", "nginx-light", "serves downloads"),
    ("sysctl", "procps", "sets kernel parameters"),
    ("setsid", "util-linux", "detaches processes"),
];

/// Looks for everything; an empty list is a clean bill of health.
pub async fn examine() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |text: String| findings.push(Finding(text));
    for (program, package, what) in PROGRAMS {
        if find(program).is_none() {
            say(format!(
                "{program} ({what}) is not installed: apt-get install {package}, or run `make packages`."
            ));
        }
    }
    if !nix::unistd::geteuid().is_root() {
        say("The lab makes network namespaces, which needs root: run it as root or through sudo."
            .into());
        return findings;
    }
    let capabilities = effective_capabilities();
    for (bit, name, what) in [
        (12, "CAP_NET_ADMIN", "makes links and routes"),
        (21, "CAP_SYS_ADMIN", "makes namespaces and loads BPF programs"),
        (13, "CAP_NET_RAW", "opens AF_XDP sockets"),
    ] {
        if capabilities & (1 << bit) == 0 {
            say(format!(
                "root lacks {name} here ({what}): run outside the container, or start it with --privileged."
            ));
        }
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        say("/dev/net/tun is missing (guards hold a TUN device): load the module `tun`, or give the \
             container that device."
            .into());
    }
    let protocols = std::fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    if !protocols.lines().any(|l| l.starts_with("XDP ")) {
        say("This kernel has no AF_XDP sockets: use one with CONFIG_XDP_SOCKETS=y (Debian's has it).".into());
    }
    if findings.is_empty() {
        findings.extend(try_in_namespaces().await);
    }
    findings
}

/// Makes the smallest lab there is and tries in it what the big one needs.
async fn try_in_namespaces() -> Vec<Finding> {
    let mounted = down::netns_is_mounted();
    let [a, b] = netns_names();
    let found = try_all(&a, &b).await;
    clean_up(mounted).await;
    found
}

fn netns_names() -> [String; 2] {
    let me = std::process::id();
    ["a", "b"].map(|end| format!("hf-doctor-{me}-{end}"))
}

/// Removes what an examination tries things in, also one that was cut off; `mounted`: whether the
/// folder of namespaces was a mount point before. Asking once more than needed does no harm.
pub async fn clean_up(mounted: bool) {
    // More than once: an `ip` that was under way when it was cut off may add one behind us.
    for round in 0..3 {
        if round > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for netns in netns_names().iter().filter(|n| down::netns_is_there(n)) {
            finish(&["ip", "netns", "del", netns], None, SOON).await.ok();
        }
    }
    if !mounted {
        down::unmount_netns().await.ok();
    }
}

async fn try_all(a: &str, b: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |result: Result<String>, what: &str, remedy: &str| {
        let bad = result.err();
        if let Some(error) = &bad {
            findings.push(Finding(format!("{what}: {remedy}. ({error:#})")));
        }
        bad.is_none()
    };
    for netns in [a, b] {
        let made = run(&["ip", "netns", "add", netns]).await;
        if !note(
            made,
            "Network namespaces cannot be made",
            "use a kernel with CONFIG_NET_NS=y, outside an unprivileged container",
        ) {
            return findings;
        }
    }
    let link =
        ["ip", "link", "add", "v0", "netns", a, "type", "veth", "peer", "name", "v1", "netns", b];
    if !note(
        run(&link).await,
        "veth links cannot be made",
        "use a kernel with CONFIG_VETH, or load the module `veth`",
    ) {
        return findings;
    }
    let policy = [
        "sysctl",
        "-qw",
        "net.ipv4.fib_multipath_hash_policy=3",
        "net.ipv4.fib_multipath_hash_fields=0x37",
    ];
    note(
        run_in(a, &policy).await,
        "The kernel cannot choose among equal routes by ports",
        "use Linux 5.14 or newer with CONFIG_IP_ROUTE_MULTIPATH=y",
    );
    let rules = "add table netdev t; \
                 add chain netdev t i { type filter hook ingress device \"v0\" priority 0; policy drop; }; \
                 add chain netdev t e { type filter hook egress device \"v0\" priority 0; policy drop; }";
    note(
        run_in(a, &["nft", rules]).await,
        "nftables cannot drop frames at both ends of a link",
        "use Linux 5.16 or newer with CONFIG_NETFILTER_INGRESS and CONFIG_NETFILTER_EGRESS",
    );
    note(
        run_in(a, &["ip", "tuntap", "add", "t0", "mode", "tun"]).await,
        "TUN devices cannot be made",
        "load the module `tun`, or give the container /dev/net/tun",
    );
    note(
        run_in(a, &["ip", "rule", "add", "iif", "v0", "lookup", "4243"]).await,
        "Routing rules cannot be made",
        "use a kernel with CONFIG_IP_MULTIPLE_TABLES=y",
    );
    note(
        run_in(b, &["ethtool", "-K", "v1", "tx", "off", "gro", "on"]).await,
        "Offloads of veth links cannot be switched",
        "use Linux 5.13 or newer",
    );
    findings
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0)
}
