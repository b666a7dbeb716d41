//! Questions of the packet path: packets whose session nobody here knows.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::core::{MissAnswer, MissKind, MissQuestion};
use holdfast_director::director::WorkerId;
use holdfast_state_store::MissVerdict;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::node::Node;

/// Questions that may be under way.
pub const CONCURRENT: usize = 1_024;

/// How long the others may take. A packet waits 20 ms (PROTOCOLS): an answer that comes later than
/// that helps nobody, so it comes a little earlier.
const DEADLINE: Duration = Duration::from_millis(18);

/// Puts questions to the others, and their answers to the workers.
pub struct Misses {
    node: Arc<Node>,
    runtime: Handle,
    permits: Arc<Semaphore>,
    /// The packet core repeats a question after 5 ms, and so does the store while it asks: once is
    /// enough.
    under_way: Arc<Mutex<HashSet<(WorkerId, u64)>>>,
}

impl Misses {
    /// Answers on the current runtime.
    pub fn new(node: Arc<Node>) -> Misses {
        Misses {
            node,
            runtime: Handle::current(),
            permits: Arc::new(Semaphore::new(CONCURRENT)),
            under_way: Arc::default(),
        }
    }

    /// Asks the others, unless that is being done, and answers the worker.
    pub fn ask(&self, worker: WorkerId, question: MissQuestion) {
        let asked = (worker, question.id);
        if !self.under_way.lock().insert(asked) {
            return;
        }
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            self.under_way.lock().remove(&asked);
            self.node.counters.misses_overflow.fetch_add(1, Ordering::Relaxed);
            reply(&self.node, worker, MissAnswer::DontKnow { id: question.id });
            return;
        };
        self.node.counters.misses_pending.fetch_add(1, Ordering::Relaxed);
        let (node, under_way) = (self.node.clone(), self.under_way.clone());
        self.runtime.spawn(async move {
            let verdict = node.store.ask(question.key, question.known, DEADLINE).await;
            if !matches!(verdict, MissVerdict::Found(_)) {
                tracing::debug!(key = %question.key, kind = ?question.kind, ?verdict, "not found");
            }
            let answer = answer(&question, verdict, node.denial_counts());
            under_way.lock().remove(&asked);
            reply(&node, worker, answer);
            node.counters.misses_pending.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

/// What a worker is told.
pub fn answer(question: &MissQuestion, verdict: MissVerdict, denial_counts: bool) -> MissAnswer {
    let id = question.id;
    match verdict {
        MissVerdict::Found(record) => MissAnswer::Found { id, record: *record },
        MissVerdict::NoWithAuthority if denial_counts => MissAnswer::NoWithAuthority { id },
        // For a datagram a denial means that it is scheduled here: no harm comes of that, while
        // waiting for certainty would keep out new flows for seconds.
        MissVerdict::NoWithAuthority | MissVerdict::Nobody if question.kind == MissKind::Udp => {
            MissAnswer::NoWithAuthority { id }
        }
        MissVerdict::NoWithAuthority | MissVerdict::Nobody | MissVerdict::DontKnow => {
            MissAnswer::DontKnow { id }
        }
    }
}

fn reply(node: &Node, worker: WorkerId, answer: MissAnswer) {
    if let Some(forwarder) = node.forwarder.get() {
        forwarder.answer(worker, answer);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::flow::{FlowKey, Protocol};

    use super::*;

    #[test]
    fn a_denial_resets_nothing_in_uneasy_times_but_lets_a_new_flow_in() {
        let question = |kind| {
            let key = ([192, 0, 2, 1], 1).into();
            MissQuestion { id: 7, key: FlowKey::new(Protocol::Tcp, key, key), kind, known: None }
        };
        let (no, unsure) = (MissAnswer::NoWithAuthority { id: 7 }, MissAnswer::DontKnow { id: 7 });
        for (kind, verdict, calm, expected) in [
            (MissKind::Tcp, MissVerdict::NoWithAuthority, true, &no),
            (MissKind::Tcp, MissVerdict::NoWithAuthority, false, &unsure),
            (MissKind::Tcp, MissVerdict::Nobody, true, &unsure),
            (MissKind::LipReply, MissVerdict::Nobody, true, &unsure),
            (MissKind::Udp, MissVerdict::NoWithAuthority, false, &no),
            (MissKind::Udp, MissVerdict::Nobody, false, &no),
            (MissKind::Udp, MissVerdict::DontKnow, true, &unsure),
        ] {
            let got = answer(&question(kind), verdict.clone(), calm);
            assert_eq!(&got, expected, "{kind:?} {verdict:?} {calm}");
        }
    }
}
