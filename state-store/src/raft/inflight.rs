//! What a replica has decided and its disk does not hold yet, and the messages that wait for it.

use std::collections::VecDeque;

use raft::eraftpb::Message;

struct Decision {
    /// raft-rs' number of it.
    number: u64,
    /// Whether it still has to be written.
    unwritten: bool,
    messages: Vec<Message>,
}

/// Decisions in their order.
#[derive(Default)]
pub struct Inflight {
    decisions: VecDeque<Decision>,
    /// The last decision that changes term or vote; 0: the disk holds term and vote.
    vital: u64,
}

impl Inflight {
    /// A decision: whether it has to be written, whether it changes term or vote, and the messages
    /// that may leave only behind it.
    pub fn add(&mut self, number: u64, unwritten: bool, vital: bool, messages: Vec<Message>) {
        if vital {
            self.vital = number;
        }
        self.decisions.push_back(Decision { number, unwritten, messages });
    }

    /// Decisions up to this number have been written.
    pub fn written(&mut self, number: u64) {
        for decision in self.decisions.iter_mut().take_while(|d| d.number <= number) {
            decision.unwritten = false;
        }
    }

    /// Takes the decisions at the front that the disk holds: the last one's number, and the messages.
    pub fn take_done(&mut self) -> Option<(u64, Vec<Message>)> {
        let (mut last, mut messages) = (None, Vec::new());
        while self.decisions.front().is_some_and(|d| !d.unwritten) {
            let Some(decision) = self.decisions.pop_front() else { break };
            last = Some(decision.number);
            messages.extend(decision.messages);
            if self.vital <= decision.number {
                self.vital = 0;
            }
        }
        last.map(|number| (number, messages))
    }

    /// Whether the disk holds the term and the vote that were decided.
    pub fn vote_is_safe(&self) -> bool {
        self.vital == 0
    }

    /// Whether the disk holds everything that was decided.
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(replica: u64) -> Vec<Message> {
        vec![Message { to: replica, ..Message::default() }]
    }

    fn done(inflight: &mut Inflight) -> Option<(u64, Vec<u64>)> {
        inflight.take_done().map(|(n, messages)| (n, messages.iter().map(|m| m.to).collect()))
    }

    #[test]
    fn messages_wait_for_all_writes_before_them() {
        let mut inflight = Inflight::default();
        inflight.add(1, false, false, to(1));
        assert_eq!(done(&mut inflight), Some((1, vec![1])), "nothing to wait for");
        inflight.add(2, true, false, to(2));
        inflight.add(3, false, false, to(3));
        inflight.add(4, true, false, to(4));
        assert_eq!(done(&mut inflight), None);
        inflight.written(2);
        assert_eq!(done(&mut inflight), Some((3, vec![2, 3])));
        inflight.written(4);
        assert_eq!(done(&mut inflight), Some((4, vec![4])));
        assert!(inflight.is_empty());
        assert_eq!(done(&mut inflight), None);
    }

    #[test]
    fn a_vote_is_safe_when_the_last_one_is_written() {
        let mut inflight = Inflight::default();
        inflight.add(1, true, true, Vec::new());
        inflight.add(2, true, true, Vec::new());
        inflight.add(3, true, false, Vec::new());
        inflight.written(1);
        done(&mut inflight);
        assert!(!inflight.vote_is_safe());
        inflight.written(2);
        done(&mut inflight);
        assert!(inflight.vote_is_safe() && !inflight.is_empty());
    }
}
