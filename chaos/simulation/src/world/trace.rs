//! What happened: a hash over all of it, and the last events of every flow for the report.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::hash::{Hash, Hasher};

/// Events kept of a flow.
const OF_A_FLOW: usize = 60;

/// Events kept of everything that is not a packet.
const OF_ALL: usize = 200;

/// A client socket, as a number.
pub type FlowId = u64;

/// Something that happened; said in words only if somebody asks.
pub trait Note: Hash + std::fmt::Display {}

impl<T: Hash + std::fmt::Display> Note for T {}

/// A hash that is the same everywhere (FNV-1a over words).
struct Running(u64);

impl Hasher for Running {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// The trace of a run.
pub struct Trace<N> {
    hash: Running,
    events: u64,
    flows: BTreeMap<FlowId, VecDeque<(u64, N)>>,
    watched: Option<FlowId>,
    /// The flow of the last event that was one's.
    latest: Option<FlowId>,
    all: VecDeque<(u64, N)>,
}

impl<N> Default for Trace<N> {
    fn default() -> Trace<N> {
        Trace {
            hash: Running(0xcbf2_9ce4_8422_2325),
            events: 0,
            flows: BTreeMap::new(),
            watched: None,
            latest: None,
            all: VecDeque::new(),
        }
    }
}

fn keep<N>(ring: &mut VecDeque<(u64, N)>, most: usize, event: (u64, N)) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(event);
}

impl<N: Note> Trace<N> {
    /// Keeps all of a flow's events.
    pub fn watch(&mut self, flow: Option<FlowId>) {
        self.watched = flow;
    }

    /// Notes something for those who read the trace of a flow that is watched: it does not count.
    pub fn remark(&mut self, now_us: u64, flow: FlowId, note: N) {
        self.flows.entry(flow).or_default().push_back((now_us, note));
    }

    /// Notes an event, of a flow or of everything.
    pub fn note(&mut self, now_us: u64, flow: Option<FlowId>, note: N) {
        self.events += 1;
        self.hash.write_u64(now_us);
        note.hash(&mut self.hash);
        self.latest = flow.or(self.latest);
        match flow {
            Some(flow) => {
                let most = if self.watched == Some(flow) { usize::MAX } else { OF_A_FLOW };
                keep(self.flows.entry(flow).or_default(), most, (now_us, note));
            }
            None => {
                let most = if self.watched.is_some() { usize::MAX } else { OF_ALL };
                keep(&mut self.all, most, (now_us, note));
            }
        }
    }

    /// The hash over everything that happened, and how much that was.
    pub fn hash(&self) -> (u64, u64) {
        (self.hash.finish(), self.events)
    }

    /// The flow that something happened to last.
    pub fn latest(&self) -> Option<FlowId> {
        self.latest
    }

    /// The last events of a flow among those of everything, in words.
    pub fn words(&self, flow: Option<FlowId>) -> String {
        let own = flow.and_then(|flow| self.flows.get(&flow)).into_iter().flatten();
        let from_us = own.clone().next().map_or(0, |(at, _)| *at);
        let mut events: Vec<_> =
            own.chain(self.all.iter().filter(|(at, _)| *at >= from_us)).collect();
        events.sort_by_key(|(at, _)| *at);
        let mut words = String::new();
        for (at_us, note) in events {
            // Writing to a string does not fail.
            let _ = writeln!(words, "  {:>12.6} s  {note}", *at_us as f64 / 1e6);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_order_and_time() {
        let hash = |notes: &[(u64, &'static str)]| {
            let mut trace = Trace::default();
            notes.iter().for_each(|(at, note)| trace.note(*at, None, *note));
            trace.hash()
        };
        assert_eq!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "a"), (2, "b")]));
        assert_ne!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "b"), (2, "a")]));
        assert_ne!(hash(&[(1, "a")]), hash(&[(2, "a")]));
    }

    #[test]
    fn the_last_events_of_a_flow_come_with_those_of_all() {
        let mut trace = Trace::default();
        trace.note(1, None, "long ago");
        trace.note(2, Some(7), "first");
        trace.note(3, Some(8), "of another");
        trace.note(4, None, "fault");
        let words = trace.words(Some(7));
        assert!(words.contains("first") && words.contains("fault"));
        assert!(!words.contains("another") && !words.contains("long ago"));
        assert_eq!(trace.latest(), Some(8));
    }
}
