//! VIP and LIP routes on the guard's device, in the table that BIRD learns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{Netlink, NetlinkError, host_route};

/// How many routes are changed before a pause: BIRD's netlink buffer overflows when a thousand
/// change at once, and catching up costs it seconds.
const BATCH: usize = 100;

/// The pause between batches.
const PAUSE: Duration = Duration::from_millis(10);

/// The routes that shall be there: address to metric.
pub type Wanted = BTreeMap<IpAddr, u32>;

/// Keeps the routes on one device in one table as wanted.
pub struct Announcements {
    netlink: Netlink,
    table: u32,
}

/// One step towards the wanted routes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Add(IpAddr, u32),
    Delete(IpAddr, u32),
}

/// The steps from what is there to what is wanted. An address whose metric changes has its new
/// route added before the old one goes, so it is never without one.
fn steps(there: &BTreeSet<(IpAddr, u32)>, wanted: &Wanted) -> Vec<Step> {
    let mut steps = Vec::new();
    for (address, metric) in wanted {
        if !there.contains(&(*address, *metric)) {
            steps.push(Step::Add(*address, *metric));
        }
        let old = there.range((*address, 0)..=(*address, u32::MAX));
        steps.extend(old.filter(|(_, m)| m != metric).map(|(a, m)| Step::Delete(*a, *m)));
    }
    let gone = there.iter().filter(|(a, _)| !wanted.contains_key(a));
    steps.extend(gone.map(|(a, m)| Step::Delete(*a, *m)));
    steps
}

impl Announcements {
    /// For this table.
    pub fn new(netlink: Netlink, table: u32) -> Announcements {
        Announcements { netlink, table }
    }

    /// Makes the routes on the device `ifindex` what is wanted; tells how many changed.
    ///
    /// What is there is read from the kernel each time, so it does not matter who removed the
    /// device or a route meanwhile.
    pub async fn apply(&self, ifindex: u32, wanted: &Wanted) -> Result<usize, NetlinkError> {
        let there: BTreeSet<(IpAddr, u32)> = self
            .netlink
            .routes(Some(self.table))
            .await?
            .into_iter()
            .filter(|r| r.entry.via.iter().any(|v| v.ifindex == ifindex))
            // The kernel adds ff00::/8 and fe80::/64 of its own; host routes are ours.
            .filter(|r| {
                r.entry.prefix == holdfast_schema::prefix::Prefix::host(r.entry.prefix.address())
            })
            .map(|r| (r.entry.prefix.address(), r.entry.metric))
            .collect();
        let steps = steps(&there, wanted);
        for (n, step) in steps.iter().enumerate() {
            if n > 0 && n % BATCH == 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match *step {
                Step::Add(address, metric) => {
                    let route = host_route(address, self.table, (ifindex, metric));
                    self.netlink.add_route(route).await?;
                }
                Step::Delete(address, metric) => {
                    let route = host_route(address, self.table, (ifindex, metric));
                    self.netlink.delete_route(route).await?;
                }
            }
        }
        Ok(steps.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_change_of_metric_adds_before_it_deletes() {
        let there = [(ip(1), 100), (ip(2), 100)].into();
        let wanted = [(ip(1), 900)].into();
        assert_eq!(
            steps(&there, &wanted),
            [Step::Add(ip(1), 900), Step::Delete(ip(1), 100), Step::Delete(ip(2), 100)]
        );
    }

    proptest! {
        /// The steps lead to exactly what is wanted, and an address that stays is never without a route.
        #[test]
        fn steps_lead_there_without_a_gap(
            there in proptest::collection::btree_set((0u8..6, 0u32..4), 0..12),
            wanted in proptest::collection::btree_map(0u8..6, 0u32..4, 0..6),
        ) {
            let mut now: BTreeSet<(IpAddr, u32)> = there.iter().map(|(a, m)| (ip(*a), *m)).collect();
            let wanted: Wanted = wanted.into_iter().map(|(a, m)| (ip(a), m)).collect();
            let stays: Vec<IpAddr> = now.iter().map(|(a, _)| *a).filter(|a| wanted.contains_key(a)).collect();
            for step in steps(&now.clone(), &wanted) {
                match step {
                    Step::Add(a, m) => prop_assert!(now.insert((a, m))),
                    Step::Delete(a, m) => prop_assert!(now.remove(&(a, m))),
                }
                for a in &stays {
                    prop_assert!(now.iter().any(|(b, _)| a == b));
                }
            }
            prop_assert_eq!(now, wanted.into_iter().collect::<BTreeSet<_>>());
        }
    }
}
