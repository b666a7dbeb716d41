//! The queue of messages to one peer: bounded in number and bytes; a full one drops its oldest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How much a queue may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// A queue is crowded when it is this part full.
const CROWDED: usize = 8;

#[derive(Debug)]
pub(super) struct SendQueue {
    limits: QueueLimits,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl State {
    fn pop(&mut self) -> Option<Bytes> {
        let (_, message) = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

impl SendQueue {
    pub(super) fn new(limits: QueueLimits) -> SendQueue {
        SendQueue { limits, state: Mutex::default(), filled: Notify::new() }
    }

    /// Puts a message at the end. Returns how many older ones had to go.
    pub(super) fn push(&self, message: Bytes) -> u64 {
        let mut dropped = 0;
        let mut state = self.state.lock();
        while !state.messages.is_empty()
            && (state.messages.len() >= self.limits.messages
                || state.bytes + message.len() > self.limits.bytes)
        {
            state.pop();
            dropped += 1;
        }
        state.bytes += message.len();
        state.messages.push_back((Instant::now(), message));
        drop(state);
        self.filled.notify_one();
        dropped
    }

    /// Whether more waits than a moment's worth. Whoever can wait with what he has, should: what is full
    /// drops its oldest, whatever that is.
    pub(super) fn crowded(&self) -> bool {
        let state = self.state.lock();
        state.messages.len() > self.limits.messages / CROWDED
            || state.bytes > self.limits.bytes / CROWDED
    }

    /// Waits until there is something, then takes messages from the front until they make up about
    /// `bytes`. Dropping the future loses nothing.
    pub(super) async fn take(&self, bytes: usize) -> Vec<Bytes> {
        loop {
            let taken = self.take_now(bytes);
            if !taken.is_empty() {
                return taken;
            }
            // Only one task takes, so a permit left by `push` before this line is not lost.
            self.filled.notified().await;
        }
    }

    fn take_now(&self, bytes: usize) -> Vec<Bytes> {
        let (mut taken, mut sum) = (Vec::new(), 0);
        let mut state = self.state.lock();
        while sum < bytes
            && let Some(message) = state.pop()
        {
            sum += message.len();
            taken.push(message);
        }
        taken
    }

    /// Drops what has waited longer than `age`. Returns how many went.
    pub(super) fn drop_stale(&self, age: Duration) -> u64 {
        let mut state = self.state.lock();
        let mut dropped = 0;
        while state.messages.front().is_some_and(|(since, _)| since.elapsed() > age) {
            state.pop();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u8, length: usize) -> Bytes {
        vec![n; length].into()
    }

    fn firsts(messages: &[Bytes]) -> Vec<u8> {
        messages.iter().map(|m| m[0]).collect()
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let queue = SendQueue::new(QueueLimits { messages: 3, bytes: 100 });
        assert_eq!((1..=3).map(|n| queue.push(message(n, 1))).sum::<u64>(), 0);
        assert_eq!(queue.push(message(4, 1)), 1);
        assert_eq!(queue.push(message(5, 99)), 2);
        assert_eq!(firsts(&queue.take_now(1_000)), [4, 5]);
        // Above the limit all by itself, and nothing to drop for it: it goes alone.
        assert_eq!(queue.push(message(6, 500)), 0);
        assert_eq!(queue.push(message(7, 1)), 1);
        assert_eq!(firsts(&queue.take_now(1_000)), [7]);
        assert_eq!(queue.state.lock().bytes, 0);
    }

    #[test]
    fn who_holds_back_while_it_is_crowded_pushes_nobody_out() {
        let queue = SendQueue::new(QueueLimits { messages: 4_096, bytes: 8 << 20 });
        // The peer reads nothing for six seconds: batches of registrations each 2 ms, some heartbeats.
        let (mut dropped, mut batches) = (0, 0);
        for _ in 0..3_000 {
            if !queue.crowded() {
                dropped += queue.push(message(1, 100_000));
                batches += 1;
            }
            dropped += queue.push(message(2, 200));
        }
        assert_eq!(dropped, 0);
        assert!(batches > 5, "some go ahead: {batches}");
        while !queue.take_now(1 << 20).is_empty() {}
        assert!(!queue.crowded());
        (0..600).for_each(|_| assert_eq!(queue.push(message(3, 1)), 0));
        assert!(queue.crowded(), "small ones, too");
    }

    #[test]
    fn a_take_is_limited_but_never_empty_handed() {
        let queue = SendQueue::new(QueueLimits { messages: 10, bytes: 1_000 });
        (1..=4).for_each(|n| assert_eq!(queue.push(message(n, 10)), 0));
        assert_eq!(firsts(&queue.take_now(15)), [1, 2]);
        assert_eq!(firsts(&queue.take_now(1)), [3]);
    }

    #[test]
    fn stale_messages_go() {
        let queue = SendQueue::new(QueueLimits { messages: 10, bytes: 1_000 });
        queue.push(message(1, 10));
        assert_eq!(queue.drop_stale(Duration::from_secs(60)), 0);
        assert_eq!(queue.drop_stale(Duration::ZERO), 1);
        assert!(queue.take_now(1).is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let queue = std::sync::Arc::new(SendQueue::new(QueueLimits { messages: 10, bytes: 1_000 }));
        let taker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.take(1).await }
        });
        tokio::task::yield_now().await;
        queue.push(message(1, 1));
        assert_eq!(firsts(&taker.await.unwrap()), [1]);
    }
}
