//! Waiting until all directors have replicated what only they know: the job of the announcer.

use std::collections::BTreeSet;

use holdfast_schema::cluster::DirectorId;

use super::message::Message;

/// How long (us) the directors may take to answer, and how long nobody is asked again.
const ANSWER_US: u64 = 300_000;
const PAUSE_US: u64 = 20_000;

/// How long (us) the groups may take to apply everywhere.
const APPLY_US: u64 = 3_000_000;

enum Step {
    Resting { until_us: u64 },
    Asking { waits_for: BTreeSet<DirectorId>, until_us: u64 },
    Committing { until_us: u64 },
    Applying { at_least: Vec<u64>, waits_for: BTreeSet<DirectorId>, asked_us: u64, until_us: u64 },
}

/// What the job needs to know of its director.
pub struct Around<'a> {
    /// Now.
    pub now_us: u64,
    /// The other members that are not down.
    pub others: &'a [DirectorId],
    /// Whether this director has flushed for the planned change.
    pub flushed_here: bool,
    /// How far this director has applied the shards.
    pub applied: &'a [u64],
    /// The ends of all shards, once committed.
    pub barrier: Option<Vec<u64>>,
}

/// What the job wants of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Nothing.
    Nothing,
    /// A no-op through every shard.
    Barrier,
}

/// The flush that is waited for, if any: one at a time.
pub struct FlushJob {
    wanted: Option<u64>,
    done: Option<u64>,
    step: Step,
}

impl Default for FlushJob {
    fn default() -> FlushJob {
        FlushJob { wanted: None, done: None, step: Step::Resting { until_us: 0 } }
    }
}

fn reached(applied: &[u64], at_least: &[u64]) -> bool {
    at_least.iter().enumerate().all(|(n, want)| applied.get(n).is_some_and(|at| at >= want))
}

impl FlushJob {
    /// The planned change for which everything is replicated and applied everywhere.
    pub fn done(&self) -> Option<u64> {
        self.done
    }

    /// Says what is waited for.
    pub fn want(&mut self, planned: Option<u64>) {
        if planned.is_some() && self.done != planned {
            self.done = None;
        }
        if self.wanted != planned {
            self.wanted = planned;
            self.step = Step::Resting { until_us: 0 };
        }
    }

    /// Another director says whether it has flushed.
    pub fn flushed(&mut self, from: DirectorId, planned: u64, yes: bool) {
        if let Step::Asking { waits_for, .. } = &mut self.step
            && self.wanted == Some(planned)
            && yes
        {
            waits_for.remove(&from);
        }
    }

    /// Another director says how far it has applied the shards.
    pub fn applied(&mut self, from: DirectorId, applied: &[u64]) {
        if let Step::Applying { at_least, waits_for, .. } = &mut self.step
            && reached(applied, at_least)
        {
            waits_for.remove(&from);
        }
    }

    /// Goes on.
    pub fn turn(&mut self, around: &Around<'_>, out: &mut Vec<(DirectorId, Message)>) -> Wish {
        let Some(planned) = self.wanted.filter(|planned| self.done != Some(*planned)) else {
            return Wish::Nothing;
        };
        let now_us = around.now_us;
        let rest = Step::Resting { until_us: now_us + PAUSE_US };
        match &mut self.step {
            Step::Resting { until_us } if now_us < *until_us => {}
            Step::Resting { .. } if !around.flushed_here => self.step = rest,
            Step::Resting { .. } => {
                out.extend(around.others.iter().map(|to| (*to, Message::Flush(planned))));
                let waits_for = around.others.iter().copied().collect();
                self.step = Step::Asking { waits_for, until_us: now_us + ANSWER_US };
            }
            Step::Asking { waits_for, .. } if waits_for.is_empty() => {
                self.step = Step::Committing { until_us: now_us + APPLY_US };
                return Wish::Barrier;
            }
            Step::Asking { until_us, .. } if now_us >= *until_us => self.step = rest,
            Step::Asking { .. } => {}
            Step::Committing { until_us } => match &around.barrier {
                Some(at_least) => {
                    self.step = Step::Applying {
                        at_least: at_least.clone(),
                        waits_for: around.others.iter().copied().collect(),
                        asked_us: 0,
                        until_us: now_us + APPLY_US,
                    };
                }
                None if now_us >= *until_us => self.step = rest,
                None => {}
            },
            Step::Applying { at_least, waits_for, asked_us, until_us } => {
                if waits_for.is_empty() && reached(around.applied, at_least) {
                    self.done = Some(planned);
                    self.step = rest;
                } else if now_us >= *until_us {
                    self.step = rest;
                } else if now_us >= *asked_us + PAUSE_US {
                    *asked_us = now_us;
                    // Whoever went down meanwhile is waited for no longer.
                    waits_for.retain(|id| around.others.contains(id));
                    out.extend(waits_for.iter().map(|to| (*to, Message::Applied)));
                }
            }
        }
        Wish::Nothing
    }
}
