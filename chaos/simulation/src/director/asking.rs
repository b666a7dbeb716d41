//! The questions of the packet path on their way round the other directors.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_director::core::{MissAnswer, MissKind, MissQuestion};
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::SessionRecord;

use super::message::{Answer, Message};

/// How long the others may take (us).
const DEADLINE_US: u64 = 18_000;

/// After the first record, others get this long (us) to show a better one.
const GRACE_US: u64 = 2_000;

struct Pending {
    worker: usize,
    question: MissQuestion,
    until_us: u64,
    asked: BTreeSet<DirectorId>,
    denied: BTreeSet<DirectorId>,
    unsure: bool,
    best: Option<Box<SessionRecord>>,
}

/// The questions under way.
#[derive(Default)]
pub struct Asking {
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

/// A question's end.
pub struct Settled {
    /// The worker that asked.
    pub worker: usize,
    /// The kind of packet that waits.
    pub kind: MissKind,
    /// What to tell it.
    pub answer: MissAnswer,
    /// Everybody asked has denied it.
    pub nobody: bool,
}

impl Asking {
    /// A worker asks.
    pub fn ask(
        &mut self,
        now_us: u64,
        worker: usize,
        question: MissQuestion,
        others: &[DirectorId],
        out: &mut Vec<(DirectorId, Message)>,
    ) {
        let known =
            self.pending.values().any(|p| p.worker == worker && p.question.id == question.id);
        if known {
            return;
        }
        self.next += 1;
        let id = self.next;
        let asked = others.iter().copied().collect();
        out.extend(others.iter().map(|to| (*to, Message::Ask { id, key: question.key })));
        let pending = Pending {
            worker,
            question,
            until_us: now_us + DEADLINE_US,
            asked,
            denied: BTreeSet::new(),
            unsure: false,
            best: None,
        };
        self.pending.insert(id, pending);
    }

    /// Another director answers.
    pub fn take(&mut self, now_us: u64, from: DirectorId, id: u64, answer: Answer) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        match answer {
            Answer::Found(record) => {
                pending.until_us = pending.until_us.min(now_us + GRACE_US);
                if pending.best.as_ref().is_none_or(|best| record.prevails_over(best)) {
                    pending.best = Some(record);
                }
            }
            Answer::No => drop(pending.denied.insert(from)),
            Answer::DontKnow => pending.unsure = true,
        }
    }

    /// When something is due.
    pub fn due_us(&self) -> Option<u64> {
        self.pending.values().map(|p| p.until_us).min()
    }

    /// The questions that are settled now.
    pub fn turn(&mut self, now_us: u64, mut settle: impl FnMut(Settled)) {
        self.pending.retain(|_, pending| {
            let all = pending.denied == pending.asked;
            if !all && now_us < pending.until_us {
                return true;
            }
            let id = pending.question.id;
            let nobody = all && pending.best.is_none() && !pending.unsure;
            let answer = match pending.best.take() {
                Some(record) => MissAnswer::Found { id, record: *record },
                None => MissAnswer::DontKnow { id },
            };
            settle(Settled { worker: pending.worker, kind: pending.question.kind, answer, nobody });
            false
        });
    }
}
