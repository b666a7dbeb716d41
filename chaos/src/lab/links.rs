//! Namespaces and the links between them.

use anyhow::{Context, Result};

use super::plan::{DATA_INTERFACE, Kind, Plan, Site};
use crate::command::{ip_batch, run, run_in};

/// What holds in every namespace: no IPv6 noise, and no reverse-path filter. A takeover director sends
/// with another one's LIP, and a strict filter on the way would drop that.
const EVERYWHERE: [&str; 4] = [
    "net.ipv6.conf.all.disable_ipv6=1",
    "net.ipv6.conf.default.disable_ipv6=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
];

/// The router: forwards, and spreads flows over equal paths by addresses, protocol and ports.
///
/// Not by policy 1: on veth links it follows the hash that the sending socket drew at random and
/// carries along (and draws anew at each timeout), not the 4-tuple. Policy 3 reads the packet.
const ROUTER: [&str; 4] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.fib_multipath_hash_policy=3",
    "net.ipv4.fib_multipath_hash_fields=0x37",
    "net.ipv4.conf.all.send_redirects=0",
];

/// A client: opens thousands of connections within a minute, and the ports of those that are over rest.
const CLIENT: [&str; 1] = ["net.ipv4.ip_local_port_range=10000 65000"];

/// Makes the router's namespace.
pub async fn raise_router(plan: &Plan) -> Result<()> {
    let router = plan.router();
    run(&["ip", "netns", "add", &router]).await?;
    sysctl(&router, EVERYWHERE.iter().chain(&ROUTER)).await?;
    ip_batch(Some(&router), "link set lo up\n").await?;
    Ok(())
}

/// Makes a machine's namespace and its link to the router.
pub async fn attach(plan: &Plan, site: Site) -> Result<()> {
    let (router, netns, name) = (plan.router(), plan.netns(site), site.name());
    let (addr, gateway, data) = (site.addr(), site.gateway(), DATA_INTERFACE);
    run(&["ip", "netns", "add", &netns]).await?;
    let own: &[&str] = if site.kind == Kind::Client { &CLIENT } else { &[] };
    sysctl(&netns, EVERYWHERE.iter().chain(&["net.ipv4.ip_forward=0"]).chain(own)).await?;
    ip_batch(
        None,
        &format!("link add {data} netns {netns} type veth peer name {name} netns {router}\n"),
    )
    .await?;
    offloads(plan, site).await.with_context(|| format!("offloads of the link to {name}"))?;
    ip_batch(Some(&router), &format!("addr add {gateway}/24 dev {name}\nlink set {name} up\n"))
        .await?;
    ip_batch(
        Some(&netns),
        &format!(
            "link set lo up\naddr add {addr}/24 dev {data}\nlink set {data} up\n\
             route add default via {gateway}\n"
        ),
    )
    .await?;
    Ok(())
}

/// AF_XDP sees frames as the sender's stack left them, so whoever sends towards a director has to
/// finish its checksums (`rx off` at the receiver would do nothing). Frames that a director sends
/// by XDP_TX need NAPI at the router's end, which `gro on` switches on.
async fn offloads(plan: &Plan, site: Site) -> Result<()> {
    let (router, netns) = (plan.router(), plan.netns(site));
    run_in(&netns, &["ethtool", "-K", DATA_INTERFACE, "tx", "off"]).await?;
    if site.kind == Kind::Director {
        run_in(&router, &["ethtool", "-K", &site.name(), "tx", "off", "gro", "on"]).await?;
    }
    Ok(())
}

async fn sysctl<'a>(netns: &str, settings: impl Iterator<Item = &'a &'a str>) -> Result<()> {
    let mut argv = vec!["sysctl", "-qw"];
    argv.extend(settings);
    run_in(netns, &argv).await.map(|_| ())
}

/// Drops every frame between the router and a director, both ways, while the links stay up.
pub async fn cut(plan: &Plan, site: Site) -> Result<()> {
    let name = site.name();
    let chain = |direction: &str, hook: &str| {
        format!(
            "add chain netdev cut-{name} {direction} {{ type filter hook {hook} \
             device \"{name}\" priority -500; policy drop; }}\n"
        )
    };
    let rules = format!(
        "add table netdev cut-{name}\n{}{}",
        chain("from-director", "ingress"),
        chain("to-director", "egress")
    );
    run_in(&plan.router(), &["nft", &rules]).await.map(|_| ())
}

/// Takes [`cut`] back.
pub async fn mend(plan: &Plan, site: Site) -> Result<()> {
    let table = format!("cut-{}", site.name());
    run_in(&plan.router(), &["nft", "delete", "table", "netdev", &table]).await.map(|_| ())
}

/// The table that [`block`] makes in the router.
const BLOCKED: &str = "blocked";

/// Drops, on their way through the router, packets that match any of these rules (nft expressions);
/// counts what it drops.
pub async fn block(plan: &Plan, rules: &[String]) -> Result<()> {
    let rules: String = rules
        .iter()
        .map(|rule| format!("add rule inet {BLOCKED} forward {rule} counter drop\n"))
        .collect();
    let table = format!(
        "add table inet {BLOCKED}\n\
         add chain inet {BLOCKED} forward {{ type filter hook forward priority 0; }}\n{rules}"
    );
    run_in(&plan.router(), &["nft", &table]).await.map(|_| ())
}

/// How many packets each rule of [`block`] has dropped so far.
pub async fn blocked(plan: &Plan) -> Result<Vec<u64>> {
    let shown = run_in(&plan.router(), &["nft", "list", "table", "inet", BLOCKED]).await?;
    Ok(counters(&shown))
}

/// Takes [`block`] back.
pub async fn pass(plan: &Plan) -> Result<()> {
    run_in(&plan.router(), &["nft", "delete", "table", "inet", BLOCKED]).await.map(|_| ())
}

/// How many packets each counter of a table has seen, as `nft` shows it.
pub fn counters(table: &str) -> Vec<u64> {
    let lines = table.lines().filter_map(|line| line.split_once("counter packets "));
    lines.filter_map(|(_, rest)| rest.split(' ').next()?.parse().ok()).collect()
}

/// What the router hashes by to choose among equal paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashFields {
    /// Addresses, protocol, ports.
    All,
    /// Addresses and ports: every hash is another one.
    WithoutProtocol,
}

/// Tells the router what to hash by from now on.
pub async fn hash_by(plan: &Plan, fields: HashFields) -> Result<()> {
    let setting = match fields {
        HashFields::All => ROUTER[2],
        HashFields::WithoutProtocol => "net.ipv4.fib_multipath_hash_fields=0x33",
    };
    sysctl(&plan.router(), [&setting].into_iter()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_has_counted() {
        let table = "table inet blocked {\n\tchain forward {\n\t\ttype filter hook forward priority filter; \
            policy accept;\n\t\tip saddr 10.71.1.2 udp dport 7400 counter packets 17 bytes 900 drop\n\
            \t\tip daddr 10.71.1.2 udp dport 7400 counter packets 0 bytes 0 drop\n\t}\n}\n";
        assert_eq!(counters(table), [17, 0]);
    }
}
