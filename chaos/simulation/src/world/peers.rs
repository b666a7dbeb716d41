//! The network between directors: connections that keep order, stall while a link is cut, and break
//! when that takes too long.

use std::collections::{BTreeMap, BTreeSet};

use crate::director::message::Message;
use crate::rng::Rng;

/// A connection that gets nothing through for this long (us) is broken, and what waited on it lost.
const PATIENCE_US: u64 = 2_000_000;

/// Messages that wait on a link that is cut.
const WAITING: usize = 512;

/// A link in one direction.
#[derive(Default)]
struct Link {
    /// When the last message arrives: the next one does not overtake it.
    last_us: u64,
    /// Since when it is stalled, and what waits.
    stalled: Option<(u64, Vec<Message>)>,
}

/// All links.
pub struct Peers {
    rng: Rng,
    delay_us: (u64, u64),
    /// Partitions, by the number of the fault: pairs between which nothing passes, in this direction.
    cuts: BTreeMap<u64, BTreeSet<(u32, u32)>>,
    links: BTreeMap<(u32, u32, u8), Link>,
}

impl Peers {
    /// Links with this shortest and longest delay.
    pub fn new(rng: Rng, delay_us: (u64, u64)) -> Peers {
        Peers { rng, delay_us, cuts: BTreeMap::new(), links: BTreeMap::new() }
    }

    /// Cuts pairs, as the fault with this number.
    pub fn cut(&mut self, fault: u64, pairs: BTreeSet<(u32, u32)>) {
        self.cuts.insert(fault, pairs);
    }

    /// The fault is over. Messages that waited, and when they arrive.
    pub fn mend(&mut self, fault: u64, now_us: u64) -> Vec<(u64, u32, u32, Message)> {
        self.cuts.remove(&fault);
        let mut freed = Vec::new();
        let whole: Vec<(u32, u32, u8)> =
            self.links.keys().copied().filter(|(a, b, _)| self.open(*a, *b)).collect();
        for (from, to, lane) in whole {
            let link = self.links.get_mut(&(from, to, lane));
            let stalled = link.and_then(|link| link.stalled.take());
            let Some((since_us, messages)) = stalled else { continue };
            if now_us < since_us + PATIENCE_US {
                for message in messages {
                    freed.extend(self.send(now_us, from, to, message));
                }
            }
        }
        freed
    }

    /// Whether every message gets through.
    pub fn whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Whether a message gets from one to the other.
    pub fn passes(&self, from: u32, to: u32) -> bool {
        !self.cuts.values().any(|pairs| pairs.contains(&(from, to)))
    }

    /// Whether a connection between them works: nothing is delivered that is not acknowledged.
    pub fn open(&self, a: u32, b: u32) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    /// Sends a message; tells when it arrives, if it is on its way.
    pub fn send(
        &mut self,
        now_us: u64,
        from: u32,
        to: u32,
        message: Message,
    ) -> Option<(u64, u32, u32, Message)> {
        let delay = self.rng.between(self.delay_us.0, self.delay_us.1);
        if message.alone() {
            return self.passes(from, to).then_some((now_us + delay, from, to, message));
        }
        let open = self.open(from, to);
        let link = self.links.entry((from, to, message.lane())).or_default();
        if !open {
            let (since_us, waiting) = link.stalled.get_or_insert((now_us, Vec::new()));
            if now_us < *since_us + PATIENCE_US && waiting.len() < WAITING {
                waiting.push(message);
            }
            return None;
        }
        link.last_us = link.last_us.max(now_us + delay);
        Some((link.last_us, from, to, message))
    }

    /// A process has ended: its connections are gone.
    pub fn gone(&mut self, director: u32) {
        self.links.retain(|(from, to, _), _| *from != director && *to != director);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::new(Rng::new(1, "peers"), (10, 500))
    }

    #[test]
    fn order_is_kept_and_a_short_cut_only_delays() {
        let mut peers = peers();
        let send = |peers: &mut Peers, now| peers.send(now, 1, 2, Message::Applied);
        let arrivals: Vec<u64> =
            (0..20).filter_map(|now| send(&mut peers, now).map(|m| m.0)).collect();
        assert!(arrivals.is_sorted() && arrivals.len() == 20);
        // One way is enough: nothing is acknowledged any more.
        peers.cut(7, [(2, 1)].into());
        assert!(send(&mut peers, 1_000).is_none());
        assert_eq!(peers.mend(7, 500_000).len(), 1);
        peers.cut(8, [(1, 2)].into());
        assert!(send(&mut peers, 1_000_000).is_none());
        assert!(peers.mend(8, 9_000_000).is_empty(), "the connection broke");
        assert!(send(&mut peers, 9_000_001).is_some());
    }

    #[test]
    fn heartbeats_pass_one_way() {
        let mut peers = peers();
        let beat = Message::Heartbeat { incarnation: 1, sequence: 1, views: Vec::new() };
        peers.cut(1, [(2, 1)].into());
        assert!(peers.send(0, 1, 2, beat.clone()).is_some());
        assert!(peers.send(0, 2, 1, beat).is_none());
    }
}
