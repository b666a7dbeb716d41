//! The router: equal paths, hashed by flow, over the directors that announce an address best.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::rng::mix;

/// The router as its directors' BGP sessions made it.
pub struct Router {
    /// What each director announces: metric by address.
    announced: BTreeMap<u32, BTreeMap<IpAddr, u32>>,
    /// Moves only the flows that have to move.
    resilient: bool,
    hash_seed: u64,
}

impl Router {
    /// Without routes.
    pub fn new(resilient: bool, hash_seed: u64) -> Router {
        Router { announced: BTreeMap::new(), resilient, hash_seed }
    }

    /// A director announces this now, and nothing else.
    pub fn learn(&mut self, director: u32, routes: BTreeMap<IpAddr, u32>) {
        self.announced.insert(director, routes);
    }

    /// A director's session has ended.
    pub fn forget(&mut self, director: u32) {
        self.announced.remove(&director);
    }

    /// The hash changes: many flows move.
    pub fn reshuffle(&mut self) {
        self.hash_seed = mix(self.hash_seed.wrapping_add(1));
    }

    /// What the flow hash begins with.
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// Who announces an address best.
    pub fn best(&self, to: IpAddr) -> impl Iterator<Item = u32> + '_ {
        let metric = move |routes: &BTreeMap<IpAddr, u32>| routes.get(&to).copied();
        let best = self.announced.values().filter_map(metric).min();
        let is_best =
            move |routes: &BTreeMap<IpAddr, u32>| best.is_some() && metric(routes) == best;
        self.announced.iter().filter(move |(_, routes)| is_best(routes)).map(|(id, _)| *id)
    }

    /// The director that a packet goes to.
    pub fn path(&self, to: IpAddr, flow: u64) -> Option<u32> {
        if self.resilient {
            return self.best(to).max_by_key(|id| mix(flow ^ u64::from(*id) << 32));
        }
        let count = self.best(to).count() as u64;
        // The high half: how many flows move is the modulus' business, not that of a weak hash.
        let index = (flow >> 32).checked_rem(count)?;
        self.best(to).nth(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    fn router(resilient: bool, metrics: &[u32]) -> Router {
        let mut router = Router::new(resilient, 1);
        for (id, metric) in (1..).zip(metrics) {
            router.learn(id, [(VIP, *metric)].into());
        }
        router
    }

    #[test]
    fn the_best_share_and_the_others_wait() {
        for resilient in [false, true] {
            let mut router = router(resilient, &[100, 300, 100]);
            let paths = |router: &Router| {
                let mut paths: Vec<u32> =
                    (0..100).filter_map(|flow| router.path(VIP, mix(flow))).collect();
                paths.sort_unstable();
                paths.dedup();
                paths
            };
            assert_eq!(paths(&router), [1, 3]);
            router.forget(1);
            router.forget(3);
            assert_eq!(paths(&router), [2]);
            router.forget(2);
            assert!(paths(&router).is_empty());
        }
    }

    #[test]
    fn a_resilient_router_moves_only_what_it_must() {
        let moved = |resilient| {
            let (mut router, flows) = (router(resilient, &[100; 4]), 0..400);
            let before: Vec<_> = flows.clone().map(|flow| router.path(VIP, mix(flow))).collect();
            router.forget(2);
            let stayed = flows.zip(before).filter(|(flow, before)| {
                *before != Some(2) && router.path(VIP, mix(*flow)) != *before
            });
            stayed.count()
        };
        assert_eq!(moved(true), 0);
        assert!(moved(false) > 50);
    }
}
