//! Clients of whom nothing was heard for so long that their sessions expired rightly.
//!
//! While no director announces an address, the router drops what is sent there. If that is all that became of a
//! connection's packets between two that a director took, and the time between these is the whole idle limit, the
//! session has expired as it should, however much its client had to say: unless somebody has it still.

use std::collections::BTreeMap;

use super::World;
use super::excuses::Cause;
use super::marks::Mark;
use super::trace::FlowId;
use crate::director::frame;
use crate::endpoint::packet::UDP;

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

impl World {
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
