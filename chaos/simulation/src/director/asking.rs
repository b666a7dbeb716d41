//! The questions of the packet path on their way round the other directors.

use std::collections::BTreeMap;

use holdfast_director::core::MissQuestion;
use holdfast_schema::cluster::DirectorId;
use holdfast_state_store::MissVerdict;
use holdfast_state_store::homes::{Answer, Asking, Whom};

/// How long (us) the others may take.
const DEADLINE_US: u64 = 18_000;

struct Pending {
    worker: usize,
    question: MissQuestion,
    asking: Asking,
}

/// The questions under way, by number.
#[derive(Default)]
pub struct Questions {
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Questions {
    /// A worker of `me` asks, unless it has asked that already.
    pub fn ask(
        &mut self,
        now_us: u64,
        me: DirectorId,
        worker: usize,
        question: MissQuestion,
        whom: Whom,
    ) {
        let same = |p: &Pending| p.worker == worker && p.question.id == question.id;
        if self.pending.values().any(same) {
            return;
        }
        self.next += 1;
        let asking = Asking::start(now_us, DEADLINE_US, whom).beyond(me, question.known);
        self.pending.insert(self.next, Pending { worker, question, asking });
    }

    /// Whom to send which question to now.
    pub fn sends(&mut self, now_us: u64) -> Vec<(DirectorId, u64, MissQuestion)> {
        let mut sends = Vec::new();
        for (id, pending) in &mut self.pending {
            let to = pending.asking.sends(now_us);
            sends.extend(to.into_iter().map(|to| (to, *id, pending.question)));
        }
        sends
    }

    /// An answer has come.
    pub fn answer(&mut self, now_us: u64, from: DirectorId, id: u64, answer: Answer) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.asking.answer(now_us, from, answer);
        }
    }

    /// How many are under way.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When to look again.
    pub fn wake_us(&self) -> Option<u64> {
        self.pending.values().map(|pending| pending.asking.wake_us()).min()
    }

    /// The questions that are decided now, with the worker that asked.
    pub fn decided(&mut self, now_us: u64) -> Vec<(usize, MissQuestion, MissVerdict)> {
        let mut decided = Vec::new();
        self.pending.retain(|_, pending| match pending.asking.verdict(now_us) {
            None => true,
            Some(verdict) => {
                decided.push((pending.worker, pending.question, verdict));
                false
            }
        });
        decided
    }
}
