//! Meaning out of BIRD's replies: which sessions stand, and what is exported over them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use holdfast_schema::prefix::Prefix;

use super::reply::Reply;

/// What BIRD announces now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// BGP sessions that are established.
    pub established: Vec<String>,
    /// All BGP sessions.
    pub sessions: usize,
    /// Host routes exported over at least one established session, with the best metric (MED).
    pub routes: BTreeMap<IpAddr, u32>,
}

impl Exported {
    /// Whether every address is announced, each with a metric of at most `worst`.
    pub fn has_all(&self, addresses: impl IntoIterator<Item = IpAddr>, worst: u32) -> bool {
        addresses.into_iter().all(|a| self.routes.get(&a).is_some_and(|m| *m <= worst))
    }

    /// Whether no address is announced with a metric below `best`.
    pub fn none_better(&self, addresses: impl IntoIterator<Item = IpAddr>, best: u32) -> bool {
        addresses.into_iter().all(|a| self.routes.get(&a).is_none_or(|m| *m >= best))
    }

    /// Adds what one session exports.
    pub fn add(&mut self, reply: &Reply) {
        let mut current: Option<IpAddr> = None;
        let (mut med, mut metric) = (None, None);
        let mut close = |current: Option<IpAddr>, med: Option<u32>, metric: Option<u32>| {
            if let Some(address) = current {
                let value = med.or(metric).unwrap_or(0);
                let slot = self.routes.entry(address).or_insert(value);
                *slot = value.min(*slot);
            }
        };
        for (_, text) in &reply.lines {
            let text = text.trim();
            let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            if let Ok(prefix) = first.parse::<Prefix>()
                && first.contains('/')
            {
                close(current, med, metric);
                (med, metric) = (None, None);
                let host = prefix == Prefix::host(prefix.address());
                current = host.then(|| prefix.address());
            } else if first == "BGP.med:" {
                med = med.or(rest.trim().parse().ok());
            } else if first == "Kernel.metric:" {
                metric = metric.or(rest.trim().parse().ok());
            }
        }
        close(current, med, metric);
    }
}

/// The BGP sessions in a reply to `show protocols`, and whether each is established.
pub fn bgp_sessions(reply: &Reply) -> Vec<(String, bool)> {
    let rows = reply.lines.iter().filter(|(code, _)| *code == 1002);
    rows.filter_map(|(_, text)| {
        let mut words = text.split_whitespace();
        let (name, kind) = (words.next()?, words.next()?);
        let state = words.nth(1)?;
        let established = state == "up" && words.any(|w| w == "Established");
        (kind == "BGP").then(|| (name.to_owned(), established))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::reply::Parser;
    use super::*;

    fn reply(text: &str) -> Reply {
        let mut parser = Parser::default();
        text.lines().find_map(|l| parser.line(l).unwrap()).unwrap()
    }

    #[test]
    fn sessions_and_their_state() {
        let reply = reply(
            "2002-Name       Proto      Table      State  Since         Info\n\
             1002-device1    Device     ---        up     10:00:00.000  \n \
             served4    Kernel     served4    up     10:00:00.000  \n \
             r1         BGP        ---        up     10:00:01.000  Established   \n \
             r2         BGP        ---        start  10:00:01.000  Active        Socket: refused\n\
             0000 \n",
        );
        assert_eq!(bgp_sessions(&reply), [("r1".to_owned(), true), ("r2".to_owned(), false)]);
    }

    #[test]
    fn exported_routes_have_the_med_they_leave_with() {
        let mut exported = Exported::default();
        exported.add(&reply(
            "1007-Table master4:\n \
             203.0.113.10/32      unicast [served4 10:00:00.000] * (10)\n \
             \tdev hf0\n\
             1008-\tType: inherit univ\n\
             1012-\tKernel.metric: 100\n \
             \tBGP.med: 300\n\
             1007-10.0.0.0/8           unicast [served4 10:00:00.000] * (10)\n \
             \tdev hf0\n \
             198.51.100.1/32      unicast [served4 10:00:00.000] * (10)\n\
             1012-\tKernel.metric: 200\n\
             0000 \n",
        ));
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(
            exported.routes,
            [(ip("203.0.113.10"), 300), (ip("198.51.100.1"), 200)].into_iter().collect()
        );
        assert!(exported.has_all([ip("203.0.113.10")], 300));
        assert!(!exported.has_all([ip("203.0.113.10")], 299));
        assert!(!exported.has_all([ip("203.0.113.11")], 900));
        assert!(exported.none_better([ip("203.0.113.10"), ip("203.0.113.11")], 300));
    }
}
