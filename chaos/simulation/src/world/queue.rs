//! What is going to happen, in order of time; at the same time, in the order it was said.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

struct Entry<E> {
    at_us: u64,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.sequence).cmp(&(other.at_us, other.sequence))
    }
}

/// The events to come, and the time.
pub struct Queue<E> {
    now_us: u64,
    sequence: u64,
    heap: BinaryHeap<Reverse<Entry<E>>>,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { now_us: 0, sequence: 0, heap: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    /// The time of the last event that was taken.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Says what happens `in_us` from now.
    pub fn after(&mut self, in_us: u64, event: E) {
        self.at(self.now_us + in_us, event);
    }

    /// Says what happens at a time; one that has passed is now.
    pub fn at(&mut self, at_us: u64, event: E) {
        let at_us = at_us.max(self.now_us);
        self.sequence += 1;
        self.heap.push(Reverse(Entry { at_us, sequence: self.sequence, event }));
    }

    /// The next event, and time moves to it; none is left before `until_us`: time moves there.
    pub fn next(&mut self, until_us: u64) -> Option<E> {
        match self.heap.peek() {
            Some(Reverse(entry)) if entry.at_us < until_us => {}
            _ => {
                self.now_us = self.now_us.max(until_us);
                return None;
            }
        }
        let Reverse(entry) = self.heap.pop()?;
        self.now_us = entry.at_us;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_of_time_and_then_of_saying() {
        let mut queue = Queue::default();
        queue.after(20, "late");
        queue.after(10, "first");
        queue.after(10, "second");
        assert_eq!((queue.next(100), queue.now_us()), (Some("first"), 10));
        queue.at(5, "passed");
        assert_eq!((queue.next(100), queue.now_us()), (Some("second"), 10));
        assert_eq!((queue.next(100), queue.now_us()), (Some("passed"), 10));
        assert_eq!((queue.next(20), queue.now_us()), (None, 20));
        assert_eq!((queue.next(100), queue.now_us()), (Some("late"), 20));
    }
}
