//! The waiting room: packets of unknown sessions wait here until somebody tells their session.
//!
//! Bounded in packets, flows, packets a flow, bytes a packet and (by its caller) time; everything is
//! allocated at the start. Packets of one flow form a chain and leave in the order they came.

use ahash::RandomState;
use holdfast_schema::flow::FlowKey;

use super::doubt::Doubt;
use super::miss::{MissKind, MissQuestion};
use super::reason::DropReason;
use crate::session::Slot;

/// No packet, no flow.
const NONE: u32 = u32::MAX;

/// What a waiting flow waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitFor {
    /// An answer to a question.
    Answer,
    /// A lock of the session table.
    Lock,
}

struct Packet {
    data: Box<[u8]>,
    len: u32,
    next: u32,
}

/// A flow some packets of which wait.
struct Flow {
    key: FlowKey,
    kind: MissKind,
    wait_for: WaitFor,
    id: u64,
    since_ns: u64,
    /// When its question is due, or when its lock is to be tried again.
    next_ns: u64,
    asked: bool,
    /// What its packets would go by, if nobody knows better.
    doubt: Option<Doubt>,
    first: u32,
    last: u32,
    packets: u32,
    /// Chain of the hash bucket; for an unused record, the free list.
    hash_next: u32,
    /// The flows in the order in which they began to wait.
    older: u32,
    newer: u32,
}

/// A waiting flow, as it is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) key: FlowKey,
    pub(super) wait_for: WaitFor,
    pub(super) since_ns: u64,
    pub(super) next_ns: u64,
    /// The session that its packets do not fit.
    pub(super) doubted: Option<Slot>,
}

/// A flow that was taken out of the room, with the first of its packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) since_ns: u64,
    first: u32,
}

/// A packet that was taken out of the room. Its buffer has to be given back.
pub(super) struct Parcel {
    pub(super) data: Box<[u8]>,
    pub(super) len: usize,
    at: u32,
}

/// How large the room is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RoomSize {
    pub(super) packets: u32,
    pub(super) flows: u32,
    pub(super) packets_a_flow: u32,
    pub(super) bytes_a_packet: u32,
}

pub(super) struct WaitingRoom {
    packets: Vec<Packet>,
    flows: Vec<Flow>,
    heads: Vec<u32>,
    hasher: RandomState,
    free_packet: u32,
    free_flow: u32,
    oldest: u32,
    newest: u32,
    used_packets: u32,
    used_flows: u32,
    packets_a_flow: u32,
    next_id: u64,
    /// How many flows wait for a lock.
    locked_flows: u32,
    /// No question is due before.
    due_ns: u64,
}

impl WaitingRoom {
    pub(super) fn new(size: RoomSize, hasher: RandomState) -> WaitingRoom {
        let (packets, flows) = (size.packets.clamp(1, 1 << 20), size.flows.clamp(1, 1 << 20));
        let unused_key = FlowKey::new(
            holdfast_schema::flow::Protocol::Tcp,
            ([0, 0, 0, 0], 0).into(),
            ([0, 0, 0, 0], 0).into(),
        );
        let link = |at: u32, count: u32| if at + 1 < count { at + 1 } else { NONE };
        WaitingRoom {
            packets: (0..packets)
                .map(|at| Packet {
                    data: vec![0; size.bytes_a_packet as usize].into_boxed_slice(),
                    len: 0,
                    next: link(at, packets),
                })
                .collect(),
            flows: (0..flows)
                .map(|at| Flow {
                    key: unused_key,
                    kind: MissKind::Tcp,
                    wait_for: WaitFor::Answer,
                    id: 0,
                    since_ns: 0,
                    next_ns: 0,
                    asked: false,
                    doubt: None,
                    first: NONE,
                    last: NONE,
                    packets: 0,
                    hash_next: link(at, flows),
                    older: NONE,
                    newer: NONE,
                })
                .collect(),
            heads: vec![NONE; (flows as usize * 2).next_power_of_two()],
            hasher,
            free_packet: 0,
            free_flow: 0,
            oldest: NONE,
            newest: NONE,
            used_packets: 0,
            used_flows: 0,
            packets_a_flow: size.packets_a_flow.max(1),
            next_id: 0,
            locked_flows: 0,
            due_ns: 0,
        }
    }

    /// Packets that wait now.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.used_packets
    }

    #[cfg(test)]
    fn flows(&self) -> u32 {
        self.used_flows
    }

    fn bucket(&self, key: &FlowKey) -> usize {
        self.hasher.hash_one(key) as usize & (self.heads.len() - 1)
    }

    fn flow(&self, at: u32) -> Option<&Flow> {
        self.flows.get(at as usize)
    }

    fn position(&self, key: &FlowKey) -> Option<u32> {
        let mut at = *self.heads.get(self.bucket(key))?;
        while let Some(flow) = self.flow(at) {
            if flow.key == *key {
                return Some(at);
            }
            at = flow.hash_next;
        }
        None
    }

    /// Whether packets of this flow wait.
    pub(super) fn holds(&self, key: &FlowKey) -> bool {
        self.used_flows > 0 && self.position(key).is_some()
    }

    /// Whether a flow waits for a lock.
    pub(super) fn waits_for_lock(&self) -> bool {
        self.locked_flows > 0
    }

    /// Since when a flow waits.
    pub(super) fn since_ns(&self, key: &FlowKey) -> Option<u64> {
        self.position(key).and_then(|at| self.flow(at)).map(|flow| flow.since_ns)
    }

    /// Notes what the packets of a waiting flow would go by, if nobody knows better.
    pub(super) fn doubt(&mut self, key: &FlowKey, doubt: Doubt) {
        if let Some(flow) = self.position(key).and_then(|at| self.flows.get_mut(at as usize)) {
            flow.doubt = Some(doubt);
        }
    }

    /// What the packets of a waiting flow would go by.
    pub(super) fn doubt_of(&self, key: &FlowKey) -> Option<Doubt> {
        self.position(key).and_then(|at| self.flow(at)).and_then(|flow| flow.doubt)
    }

    /// Puts off the question about a flow.
    pub(super) fn ask_from(&mut self, key: &FlowKey, from_ns: u64) {
        if let Some(flow) = self.position(key).and_then(|at| self.flows.get_mut(at as usize))
            && flow.wait_for == WaitFor::Answer
        {
            flow.next_ns = from_ns;
        }
    }

    /// Puts off the next try of a flow that waits for a lock.
    pub(super) fn put_off(&mut self, key: &FlowKey, until_ns: u64) {
        if let Some(flow) = self.position(key).and_then(|at| self.flows.get_mut(at as usize))
            && flow.wait_for == WaitFor::Lock
        {
            flow.next_ns = until_ns;
        }
    }

    /// Copies a packet into the room, behind those of its flow.
    pub(super) fn park(
        &mut self,
        key: &FlowKey,
        kind: MissKind,
        wait_for: WaitFor,
        since_ns: u64,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let known = self.position(key);
        if let Some(flow) = known.and_then(|at| self.flow(at))
            && flow.packets >= self.packets_a_flow
        {
            return Err(DropReason::WaitingFlowFull);
        }
        let at_packet = self.free_packet;
        let Some(packet) = self.packets.get_mut(at_packet as usize) else {
            return Err(DropReason::WaitingRoomFull);
        };
        if bytes.len() > packet.data.len() {
            return Err(DropReason::ParkTooLarge);
        }
        let at_flow = match known {
            Some(at) => at,
            None => self.begin(key, kind, wait_for, since_ns).ok_or(DropReason::WaitingRoomFull)?,
        };
        let (Some(packet), Some(flow)) =
            (self.packets.get_mut(at_packet as usize), self.flows.get_mut(at_flow as usize))
        else {
            return Err(DropReason::Internal);
        };
        self.free_packet = packet.next;
        packet.next = NONE;
        packet.len = bytes.len() as u32;
        if let Some(to) = packet.data.get_mut(..bytes.len()) {
            to.copy_from_slice(bytes);
        }
        if wait_for == WaitFor::Answer && flow.wait_for == WaitFor::Lock {
            // A flow that waited for a lock may turn out to be unknown.
            (flow.wait_for, flow.next_ns) = (WaitFor::Answer, 0);
            self.locked_flows -= 1;
            self.due_ns = 0;
        }
        if flow.kind == MissKind::IcmpError {
            flow.kind = kind;
        }
        flow.packets += 1;
        let before = std::mem::replace(&mut flow.last, at_packet);
        match self.packets.get_mut(before as usize) {
            Some(before) => before.next = at_packet,
            None => flow.first = at_packet,
        }
        self.used_packets += 1;
        Ok(())
    }

    fn begin(
        &mut self,
        key: &FlowKey,
        kind: MissKind,
        wait_for: WaitFor,
        since_ns: u64,
    ) -> Option<u32> {
        let (at, bucket) = (self.free_flow, self.bucket(key));
        let (newest, id) = (self.newest, self.next_id << 32 | u64::from(at));
        let head = self.heads.get_mut(bucket)?;
        let flow = self.flows.get_mut(at as usize)?;
        self.free_flow = flow.hash_next;
        *flow = Flow {
            key: *key,
            kind,
            wait_for,
            id,
            since_ns,
            next_ns: 0,
            asked: false,
            doubt: None,
            first: NONE,
            last: NONE,
            packets: 0,
            hash_next: std::mem::replace(head, at),
            older: newest,
            newer: NONE,
        };
        match self.flows.get_mut(newest as usize) {
            Some(newest) => newest.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.used_flows += 1;
        match wait_for {
            WaitFor::Lock => self.locked_flows += 1,
            WaitFor::Answer => self.due_ns = 0,
        }
        self.next_id = (self.next_id + 1) & u64::from(u32::MAX);
        Some(at)
    }

    /// Takes a flow out of the room; its packets are to be taken one by one with [`Self::take`].
    pub(super) fn detach(&mut self, key: &FlowKey) -> Option<Chain> {
        let at = self.position(key)?;
        let bucket = self.bucket(key);
        let flow = self.flow(at)?;
        let (hash_next, older, newer) = (flow.hash_next, flow.older, flow.newer);
        let chain = Chain { since_ns: flow.since_ns, first: flow.first };
        // Out of the hash chain: whatever points at it points at its successor now.
        let head = self.heads.get_mut(bucket)?;
        if *head == at {
            *head = hash_next;
        } else {
            let mut before = *head;
            while let Some(flow) = self.flows.get_mut(before as usize) {
                if flow.hash_next == at {
                    flow.hash_next = hash_next;
                    break;
                }
                before = flow.hash_next;
            }
        }
        // Out of the order of age.
        match self.flows.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.flows.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        let free = std::mem::replace(&mut self.free_flow, at);
        let flow = self.flows.get_mut(at as usize)?;
        flow.hash_next = free;
        flow.id = u64::MAX;
        self.used_flows -= 1;
        self.locked_flows -= u32::from(flow.wait_for == WaitFor::Lock);
        Some(chain)
    }

    /// Takes the next packet of a chain.
    pub(super) fn take(&mut self, chain: &mut Chain) -> Option<Parcel> {
        let at = chain.first;
        let packet = self.packets.get_mut(at as usize)?;
        chain.first = packet.next;
        self.used_packets -= 1;
        // The empty box that stays behind is no allocation.
        Some(Parcel { data: std::mem::take(&mut packet.data), len: packet.len as usize, at })
    }

    /// Gives a packet's buffer back.
    pub(super) fn give_back(&mut self, parcel: Parcel) {
        if let Some(packet) = self.packets.get_mut(parcel.at as usize) {
            packet.data = parcel.data;
            packet.next = std::mem::replace(&mut self.free_packet, parcel.at);
        }
    }

    /// The flow that question `id` was about, if it still waits.
    pub(super) fn asked(&self, id: u64) -> Option<FlowKey> {
        self.flow(id as u32).filter(|flow| flow.id == id).map(|flow| flow.key)
    }

    /// Calls `ask` for every flow whose question is due (for the first time or again after
    /// `repeat_ns`), oldest first.
    pub(super) fn due(
        &mut self,
        now_ns: u64,
        repeat_ns: u64,
        mut ask: impl FnMut(MissQuestion, bool),
    ) {
        if now_ns < self.due_ns {
            return;
        }
        let (mut at, mut next_ns) = (self.oldest, u64::MAX);
        while let Some(flow) = self.flows.get_mut(at as usize) {
            if flow.wait_for == WaitFor::Answer {
                if flow.next_ns <= now_ns {
                    let known = flow.doubt.map(|doubt| doubt.incarnation);
                    let (id, key, kind) = (flow.id, flow.key, flow.kind);
                    ask(MissQuestion { id, key, kind, known }, flow.asked);
                    flow.asked = true;
                    flow.next_ns = now_ns + repeat_ns;
                }
                next_ns = next_ns.min(flow.next_ns);
            }
            at = flow.newer;
        }
        self.due_ns = next_ns;
    }

    /// Writes down the waiting flows, in the order in which they began to wait, as far as `list` has
    /// room.
    pub(super) fn list(&self, list: &mut Vec<Waiting>) {
        let mut at = self.oldest;
        while let Some(flow) = self.flow(at)
            && list.len() < list.capacity()
        {
            list.push(Waiting {
                key: flow.key,
                wait_for: flow.wait_for,
                since_ns: flow.since_ns,
                next_ns: flow.next_ns,
                doubted: flow.doubt.map(|doubt| doubt.slot),
            });
            at = flow.newer;
        }
    }
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
