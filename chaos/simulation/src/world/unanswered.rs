//! First datagrams of a flow that are dropped because somebody who may know it cannot be asked.

use super::World;
use super::trace::FlowId;
use crate::director::Director;
use crate::endpoint::packet::{Packet, UDP};

/// What a quorum may take to declare a director down that is gone (us), an election included.
const DECLARED_US: u64 = 5_000_000;

/// Whether a director that does not run may count as living still: it is gone, and the quorum there that has
/// to say so, for so long (us).
fn may_count_as_living(gone_us: u64, quorum_us: u64) -> bool {
    gone_us.min(quorum_us) < DECLARED_US
}

impl World {
    /// A director drops a client's datagram as of a flow that may be known or not. If no backend has had
    /// anything of it yet, that is right as long as one cannot answer who counts as living.
    pub(super) fn note_unknown(&mut self, id: u32, flow: FlowId, packet: &[u8]) {
        let datagram = Packet::parse(packet).is_ok_and(|ip| ip.protocol == UDP);
        if !datagram || self.oracle.has_gone(flow) {
            return;
        }
        let Some(process) = self.directors[id as usize - 1].process.as_deref() else { return };
        let now_us = self.queue.now_us();
        let quorum_us = self.quorum_since_us.map_or(0, |since| now_us - since);
        let silent = |member: u32| {
            let gone = self.directors.iter().find(|d| d.id == member && !d.runs());
            let missed = |d: &Director| may_count_as_living(now_us - d.gone_since(), quorum_us);
            gone.is_some_and(missed) || !self.peers.open(id, member)
        };
        let members = process.cluster().members.values();
        let mut others = members.filter(|m| !m.down && m.id.0 != id);
        let all_could_answer = !others.any(|member| silent(member.id.0));
        self.excuses.unknown(flow, now_us, all_could_answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_counts_as_living_until_a_quorum_has_had_time_to_say_otherwise() {
        assert!(may_count_as_living(4_999_999, 20_000_000));
        assert!(may_count_as_living(20_000_000, 4_999_999), "nobody could declare it down");
        assert!(!may_count_as_living(5_000_000, 5_000_000));
    }
}
