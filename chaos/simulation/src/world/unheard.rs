//! Clients of whom nothing was heard for so long that their sessions expired rightly.
//!
//! While no director announces an address, the router drops what is sent there. If that is all that became of a
//! connection's packets between two that a director took, and the time between these is the whole idle limit, the
//! session has expired as it should, however much its client had to say: unless somebody has it still.
//!
//! The same holds where the router gives the packets to a director that does not know the session, and whose links
//! to all who know it are cut: neither can hear of the other.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_schema::session::SessionRecord;

use super::World;
use super::excuses::Cause;
use super::marks::Mark;
use super::packets::source;
use super::trace::FlowId;
use crate::director::frame;
use crate::endpoint::packet::{TCP, UDP};

/// What became of a connection's packets since a director took one.
#[derive(Clone, Copy)]
struct Silence {
    since_us: u64,
    /// The router had nobody to give one to.
    unserved: bool,
    /// One was lost elsewhere, which the router might have passed on.
    lost_elsewhere: bool,
}

/// The silence of each connection.
#[derive(Default)]
pub(super) struct Unheard(BTreeMap<FlowId, Silence>);

impl Unheard {
    /// A director takes a packet of a connection that may be idle for so long. Whether all that had come since
    /// the one before was lost at the router, for the whole limit.
    pub(super) fn taken(&mut self, flow: FlowId, now_us: u64, idle_us: u64) -> bool {
        let now = Silence { since_us: now_us, unserved: false, lost_elsewhere: false };
        let before = self.0.insert(flow, now);
        before.is_some_and(|b| {
            b.unserved && !b.lost_elsewhere && now_us.saturating_sub(b.since_us) >= idle_us
        })
    }

    /// The router has nobody to give a packet to.
    pub(super) fn unserved(&mut self, flow: FlowId) {
        self.0.entry(flow).and_modify(|silence| silence.unserved = true);
    }

    /// A packet is lost on its way to the router or to a director.
    pub(super) fn lost_elsewhere(&mut self, flow: FlowId) {
        self.0.entry(flow).and_modify(|silence| silence.lost_elsewhere = true);
    }

    /// A new connection begins.
    pub(super) fn begin(&mut self, flow: FlowId) {
        self.0.remove(&flow);
    }
}

/// Whether anybody knows a connection of which a packet has come to a director that does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Knowers {
    /// Somebody who could be asked.
    Within,
    /// Only such as could not: the link to them is cut.
    Beyond,
    /// Nobody.
    Gone,
}

/// Connections whose packets come to directors that can ask nobody who knows them.
#[derive(Default)]
pub(super) struct InVain {
    since_us: BTreeMap<FlowId, u64>,
    expired: BTreeSet<FlowId>,
}

impl InVain {
    /// A packet of a connection that may be idle for so long was dropped, because it is not known there.
    pub(super) fn dropped(&mut self, flow: FlowId, now_us: u64, idle_us: u64, knowers: Knowers) {
        match knowers {
            Knowers::Beyond => drop(self.since_us.entry(flow).or_insert(now_us)),
            Knowers::Within => drop(self.since_us.remove(&flow)),
            // Who knew it has heard nothing for the whole limit, and it has expired there.
            Knowers::Gone => {
                let since_us = self.since_us.remove(&flow);
                if since_us.is_some_and(|since| now_us >= since + idle_us) {
                    self.expired.insert(flow);
                }
            }
        }
    }

    /// A packet was sent on to the backend. (What has expired is over there.)
    pub(super) fn sent_on(&mut self, flow: FlowId) {
        self.since_us.remove(&flow);
    }

    /// A new connection begins.
    pub(super) fn begin(&mut self, flow: FlowId) {
        self.since_us.remove(&flow);
        self.expired.remove(&flow);
    }

    /// Whether a session has expired so.
    pub(super) fn expired(&self, flow: FlowId) -> bool {
        self.expired.contains(&flow)
    }
}

impl World {
    /// A director drops a client's segment as one that may be of a session it does not know.
    pub(super) fn note_in_vain(&mut self, id: u32, flow: FlowId, packet: &[u8]) {
        let segment = matches!(frame::tuple(packet), Some((.., TCP)));
        if !segment || source(packet) != Some(flow) {
            return;
        }
        // Idle for too long, it may be expiring.
        let such = |record: &SessionRecord| !record.flags.closing();
        let knowers: Vec<_> =
            self.directors.iter().filter(|d| self.is_known_at(d, flow, such)).collect();
        let knowers = match knowers.iter().any(|d| self.peers.open(id, d.id)) {
            _ if knowers.is_empty() => Knowers::Gone,
            true => Knowers::Within,
            false => Knowers::Beyond,
        };
        let idle_us = u64::from(self.plan.idle_timeout_ms) * 1_000;
        self.excuses.in_vain(flow, self.queue.now_us(), idle_us, knowers);
    }

    /// A director has taken a packet of a connection.
    pub(super) fn note_heard(&mut self, flow: u64, packet: &[u8]) {
        let idle_ms = match frame::tuple(packet) {
            Some((.., UDP)) => self.plan.udp_idle_timeout_ms,
            _ => self.plan.idle_timeout_ms,
        };
        let unheard = self.excuses.taken(flow, self.queue.now_us(), u64::from(idle_ms) * 1_000);
        // Somebody may have it still: then it is to go on.
        if unheard && !self.is_known(flow) {
            let first = self.excuses.grant_first(flow, Cause::Unserved);
            self.marks.reach(Mark::ExpiredUnheard, u64::from(first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    const IDLE_US: u64 = 4_000_000;

    #[test]
    fn only_a_whole_idle_limit_in_which_the_router_lost_everything_counts() {
        let at = |us, happens: fn(&mut Unheard)| {
            let mut unheard = Unheard::default();
            assert!(!unheard.taken(7, 1_000_000, IDLE_US), "the first one");
            happens(&mut unheard);
            unheard.taken(7, us, IDLE_US)
        };
        assert!(at(5_000_000, |unheard| unheard.unserved(7)));
        assert!(!at(4_999_999, |unheard| unheard.unserved(7)), "too soon");
        assert!(!at(9_000_000, |_| {}), "it had nothing to say");
        assert!(!at(9_000_000, |unheard| unheard.unserved(8)), "somebody else had");
        assert!(!at(9_000_000, |unheard| unheard.lost_elsewhere(7)));
        let both = |unheard: &mut Unheard| {
            unheard.unserved(7);
            unheard.lost_elsewhere(7);
        };
        assert!(!at(9_000_000, both), "the router might have passed it on");
        let heard = |unheard: &mut Unheard| {
            unheard.unserved(7);
            assert!(!unheard.taken(7, 3_000_000, IDLE_US));
            unheard.unserved(7);
        };
        assert!(!at(6_000_000, heard), "it was heard between");
        assert!(!at(9_000_000, |unheard| unheard.begin(7)), "another connection");
    }

    #[test]
    fn what_comes_in_vain_for_a_whole_idle_limit_has_expired_when_nobody_knows_it_any_more() {
        let at = |told: &[(u64, Knowers)], sent_on_us: Option<u64>| {
            let mut in_vain = InVain::default();
            for (us, knowers) in told {
                if sent_on_us.is_some_and(|at| at < *us) {
                    in_vain.sent_on(7);
                }
                in_vain.dropped(7, *us, IDLE_US, *knowers);
            }
            in_vain.expired(7)
        };
        use Knowers::{Beyond, Gone, Within};
        assert!(at(&[(1_000_000, Beyond), (4_000_000, Beyond), (5_000_000, Gone)], None));
        assert!(!at(&[(1_000_000, Beyond), (4_999_999, Gone)], None), "too soon");
        assert!(!at(&[(1_000_000, Beyond), (9_000_000, Beyond)], None), "somebody knows it");
        assert!(
            !at(&[(1_000_000, Beyond), (2_000_000, Within), (9_000_000, Gone)], None),
            "was asked"
        );
        assert!(!at(&[(1_000_000, Gone), (9_000_000, Gone)], None), "nobody knew it");
        assert!(!at(&[(1_000_000, Beyond), (9_000_000, Gone)], Some(2_000_000)), "it went on");
    }

    #[test]
    fn who_was_not_heard_for_the_idle_limit_is_excused_only_if_nobody_knows_the_session() {
        let mut world = World::new(Plan::fair(1));
        world.begin();
        while world.step(12_000_000) {}
        let idle_us = u64::from(world.plan.idle_timeout_ms) * 1_000;
        let flow = world.sockets_used.iter().copied().find(|flow| world.is_known(*flow));
        let flow = flow.expect("somebody has a session");
        let unheard = |world: &mut World, flow| {
            let now_us = world.queue.now_us();
            world.excuses.begin(flow, None);
            world.excuses.taken(flow, now_us - idle_us, idle_us);
            world.excuses.unserved(flow, now_us - 1);
            world.note_heard(flow, &[]);
            world.excuses.has(flow)
        };
        assert!(!unheard(&mut world, flow), "it has not expired");
        assert_eq!(world.marks.count(Mark::ExpiredUnheard), 0);
        assert!(unheard(&mut world, 7), "nobody knows it");
        assert_eq!(world.marks.count(Mark::ExpiredUnheard), 1);
    }
}
