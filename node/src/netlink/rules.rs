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
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::cover::{cover, covered};
use super::{KernelRoute, Netlink, NetlinkError, blackhole, errno, request};

/// The rule must come before the one that leads to the main table, which knows where to send
/// everything.
const MAIN_TABLE_RULE: u32 = 32_766;

/// Marks the routes that are ours (`rtm_protocol`), so that an operator's are left alone.
const OURS: RouteProtocol = RouteProtocol::Other(72);

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
            RuleAttribute::Priority(p) if *p >= MAIN_TABLE_RULE => return false,
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => return false,
            // A rule that matches less than "everything that comes in there" is not enough.
            RuleAttribute::Source(_)
            | RuleAttribute::Destination(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return false,
            _ => {}
        }
    }
    rule.header.action == RuleAction::ToTable
        && rule.header.tos == 0
        && !rule.header.flags.contains(RuleFlags::Invert)
        && found_table == table
        && found_interface == Some(interface)
}

/// The blackholes that are needed: as few as hold these addresses and no others.
pub fn wanted(vips: &[IpAddr], lips: impl Iterator<Item = IpAddr>) -> BTreeSet<Prefix> {
    cover(&vips.iter().copied().chain(lips).collect())
}

impl Rules {
    /// What is missing, as sentences with the commands that repair it; empty: all is in place.
    pub async fn missing(
        &self,
        netlink: &Netlink,
        blackholes: &BTreeSet<Prefix>,
    ) -> Result<Vec<String>, NetlinkError> {
        let Rules { interface, table } = self;
        let mut missing = Vec::new();
        for (version, is_v4, flag) in [(IpVersion::V4, true, ""), (IpVersion::V6, false, " -6")] {
            let needed = is_v4 || blackholes.iter().any(|p| p.address().is_ipv6());
            if needed && !self.has_rule(netlink, version).await? {
                missing.push(format!(
                    "the rule that keeps the kernel away from VIP and LIP packets is missing: run \
                     `ip{flag} rule add iif {interface} lookup {table}` (or holdfastd --install-rules)"
                ));
            }
        }
        let there = self.blackholes(netlink).await?.iter().map(|r| r.entry.prefix).collect();
        let lacking: Vec<&Prefix> = blackholes.iter().filter(|p| !covered(&there, p)).collect();
        if let Some(first) = lacking.first() {
            let more = match lacking.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            missing.push(format!(
                "no blackhole for {first}{more}: run `ip route add blackhole {first} table {table}`"
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

    async fn blackholes(&self, netlink: &Netlink) -> Result<Vec<KernelRoute>, NetlinkError> {
        let routes = netlink.routes(Some(self.table)).await?;
        Ok(routes.into_iter().filter(|r| r.blackhole).collect())
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

    /// Adds blackholes that are missing, then removes those that nothing needs any more: ours, and
    /// host routes. Wider ones of others were written by an operator, who will know why.
    pub async fn fill(
        &self,
        netlink: &Netlink,
        blackholes: &BTreeSet<Prefix>,
    ) -> Result<(), NetlinkError> {
        let (gone, stay): (Vec<_>, Vec<_>) =
            self.blackholes(netlink).await?.into_iter().partition(|route| {
                let prefix = route.entry.prefix;
                let host = prefix == Prefix::host(prefix.address());
                (host || route.protocol() == OURS) && !blackholes.contains(&prefix)
            });
        let stay = stay.iter().map(|r| r.entry.prefix).collect();
        for prefix in blackholes.iter().filter(|p| !covered(&stay, p)) {
            netlink.add_route(blackhole(*prefix, self.table, OURS)).await?;
        }
        for route in gone {
            netlink.delete_route(route.message).await?;
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
        let limited = A::SuppressPrefixLen(0);
        assert!(!is_ours(&rule(vec![iif(), A::Table(4243), limited]), "eth0", 4243));
        let unlimited = A::SuppressPrefixLen(u32::MAX);
        assert!(is_ours(&rule(vec![iif(), A::Table(4243), unlimited]), "eth0", 4243));
    }

    #[test]
    fn a_rule_that_never_gets_its_turn_or_means_the_opposite_does_not_count() {
        let at = |priority| {
            let iif = RuleAttribute::Iifname("eth0".to_owned());
            rule(vec![iif, RuleAttribute::Table(4243), RuleAttribute::Priority(priority)])
        };
        assert!(is_ours(&at(32_765), "eth0", 4243));
        assert!(!is_ours(&at(32_766), "eth0", 4243), "beside the main table's");
        assert!(!is_ours(&at(40_000), "eth0", 4243), "behind the main table's");
        let mut inverted = at(100);
        inverted.header.flags |= RuleFlags::Invert;
        assert!(!is_ours(&inverted, "eth0", 4243));
    }
}
