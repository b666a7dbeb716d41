//! The rule and the blackholes that keep the kernel from touching VIP and LIP packets which the
//! daemon did not take.
//!
//! They outlive the daemon: that is when they are needed. The rule is installed by the system
//! (deploy/, or `holdfastd --install-rules`); the daemon refuses to be ready without it. The
//! blackholes follow the configuration, so the daemon keeps them itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use holdfast_schema::prefix::Prefix;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{Netlink, NetlinkError, errno, host_route, request};

/// The most blackholes kept for one LIP pool; larger pools are written as their prefixes.
const MOST_HOSTS: usize = 4096;

/// Where the rule and the blackholes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The data interface.
    pub interface: String,
    /// The table with the blackholes.
    pub table: u32,
}

/// What a rule has to say to be ours.
fn is_ours(rule: &RuleMessage, interface: &str, table: u32) -> bool {
    let mut found_table = u32::from(rule.header.table);
    let mut found_interface = None;
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Table(t) => found_table = *t,
            RuleAttribute::Iifname(name) => found_interface = Some(name.as_str()),
            // A rule that matches less than "everything that comes in there" is not enough.
            RuleAttribute::Source(_)
            | RuleAttribute::Destination(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return false,
            _ => {}
        }
    }
    rule.header.action == RuleAction::ToTable
        && found_table == table
        && found_interface == Some(interface)
}

/// The addresses that need a blackhole.
pub fn wanted(vips: &[IpAddr], lips: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    vips.iter().copied().chain(lips).take(MOST_HOSTS).collect()
}

impl Rules {
    /// What is missing, as sentences with the commands that repair it; empty: all is in place.
    pub async fn missing(
        &self,
        netlink: &Netlink,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Vec<String>, NetlinkError> {
        let Rules { interface, table } = self;
        let mut missing = Vec::new();
        for (version, is_v4, flag) in [(IpVersion::V4, true, ""), (IpVersion::V6, false, " -6")] {
            let needed = addresses.iter().any(|a| a.is_ipv4() == is_v4) || is_v4;
            if needed && !self.has_rule(netlink, version).await? {
                missing.push(format!(
                    "the rule that keeps the kernel away from VIP and LIP packets is missing: run \
                     `ip{flag} rule add iif {interface} lookup {table}` (or holdfastd --install-rules)"
                ));
            }
        }
        let there = self.blackholes(netlink).await?;
        let lacking: Vec<&IpAddr> =
            addresses.iter().filter(|a| !there.iter().any(|p| p.contains(**a))).collect();
        if let Some(first) = lacking.first() {
            let more = match lacking.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            missing.push(format!(
                "no blackhole for {first}{more}: run `ip route add blackhole {} table {table}`",
                Prefix::host(**first)
            ));
        }
        Ok(missing)
    }

    async fn has_rule(&self, netlink: &Netlink, version: IpVersion) -> Result<bool, NetlinkError> {
        let _turn = netlink.dumping.lock().await;
        let mut dump = netlink.handle.rule().get(version).execute();
        let mut found = false;
        while let Some(rule) = dump.try_next().await.map_err(request("list rules"))? {
            found |= is_ours(&rule, &self.interface, self.table);
        }
        Ok(found)
    }

    async fn blackholes(&self, netlink: &Netlink) -> Result<Vec<Prefix>, NetlinkError> {
        let routes = netlink.routes(Some(self.table)).await?;
        Ok(routes.into_iter().filter(|r| r.blackhole).map(|r| r.entry.prefix).collect())
    }

    /// Adds the rule where it is missing. For `holdfastd --install-rules`.
    pub async fn install_rule(&self, netlink: &Netlink) -> Result<(), NetlinkError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let v4 = version == IpVersion::V4;
            match self.has_rule(netlink, version).await {
                Ok(true) => continue,
                Ok(false) => {}
                // A kernel without IPv6 has no IPv6 rules and needs none.
                Err(NetlinkError::Request { source, .. })
                    if !v4 && errno(&source) == Some(libc::EAFNOSUPPORT) =>
                {
                    continue;
                }
                Err(e) => return Err(e),
            }
            let rule = netlink
                .handle
                .rule()
                .add()
                .input_interface(self.interface.clone())
                .table_id(self.table)
                .action(RuleAction::ToTable);
            let what = request(format!("add rule iif {}", self.interface));
            let done = match v4 {
                true => rule.v4().execute().await,
                false => rule.v6().execute().await,
            };
            match done {
                Err(e) if errno(&e) == Some(libc::EEXIST) => {}
                Err(e) if !v4 && errno(&e) == Some(libc::EAFNOSUPPORT) => {}
                result => result.map_err(what)?,
            }
        }
        Ok(())
    }

    /// Adds blackholes that are missing, and removes host blackholes of addresses that are gone.
    pub async fn fill(
        &self,
        netlink: &Netlink,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let routes = netlink.routes(Some(self.table)).await?;
        let there: Vec<_> = routes.into_iter().filter(|r| r.blackhole).collect();
        for address in addresses {
            if !there.iter().any(|r| r.entry.prefix.contains(*address)) {
                netlink.add_route(host_route(*address, self.table, None)).await?;
            }
        }
        for route in there {
            let prefix = route.entry.prefix;
            let host = prefix == Prefix::host(prefix.address());
            // Wider prefixes were written by an operator, who will know why.
            if host && !addresses.contains(&prefix.address()) {
                netlink.delete_route(route.message).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.action = RuleAction::ToTable;
        rule.attributes = attributes;
        rule
    }

    #[test]
    fn only_a_rule_for_everything_on_the_interface_counts() {
        use RuleAttribute as A;
        let iif = || A::Iifname("eth0".to_owned());
        assert!(is_ours(&rule(vec![iif(), A::Table(4243)]), "eth0", 4243));
        assert!(!is_ours(&rule(vec![iif(), A::Table(4244)]), "eth0", 4243));
        assert!(!is_ours(&rule(vec![A::Table(4243)]), "eth0", 4243));
        assert!(!is_ours(&rule(vec![iif(), A::Table(4243), A::FwMark(1)]), "eth0", 4243));
    }
}
