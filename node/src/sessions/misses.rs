//! Questions of the packet path: packets whose session nobody here knows.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::core::{MissAnswer, MissKind, MissQuestion};
use holdfast_director::director::WorkerId;
use holdfast_state_store::MissVerdict;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::node::Node;

/// Questions that may wait for a task.
const QUEUE: usize = 4_096;

/// Questions that may be under way.
pub const CONCURRENT: usize = 1_024;

/// How long the others may take. A packet waits 20 ms (PROTOCOLS): an answer that comes later than
/// that helps nobody, so it comes a little earlier.
const DEADLINE: Duration = Duration::from_millis(18);

/// A question and the worker that has it.
pub type Asked = (WorkerId, MissQuestion);

/// Where workers put their questions.
pub fn queue() -> (mpsc::Sender<Asked>, mpsc::Receiver<Asked>) {
    mpsc::channel(QUEUE)
}

/// Answers questions for ever.
pub async fn run(node: Arc<Node>, mut questions: mpsc::Receiver<Asked>) {
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    // The packet core repeats a question after 5 ms, and so does the store while it asks: once is enough.
    let under_way: Arc<Mutex<HashSet<(WorkerId, u64)>>> = Arc::default();
    while let Some((worker, question)) = questions.recv().await {
        if !under_way.lock().insert((worker, question.id)) {
            continue;
        }
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            under_way.lock().remove(&(worker, question.id));
            node.counters.misses_overflow.fetch_add(1, Ordering::Relaxed);
            reply(&node, worker, MissAnswer::DontKnow { id: question.id });
            continue;
        };
        node.counters.misses_pending.fetch_add(1, Ordering::Relaxed);
        let (node, under_way) = (node.clone(), under_way.clone());
        tokio::spawn(async move {
            let verdict = node.store.ask(question.key, DEADLINE).await;
            let id = question.id;
            if !matches!(verdict, MissVerdict::Found(_)) {
                tracing::debug!(key = %question.key, kind = ?question.kind, ?verdict, "not found");
            }
            let answer = match verdict {
                MissVerdict::Found(record) => MissAnswer::Found { id, record },
                MissVerdict::NoWithAuthority if node.denial_counts() => {
                    MissAnswer::NoWithAuthority { id }
                }
                // For a datagram a denial means that it is scheduled here: no harm comes of that,
                // while waiting for certainty would keep out new flows for seconds.
                MissVerdict::NoWithAuthority | MissVerdict::Nobody
                    if question.kind == MissKind::Udp =>
                {
                    MissAnswer::NoWithAuthority { id }
                }
                MissVerdict::NoWithAuthority | MissVerdict::Nobody | MissVerdict::DontKnow => {
                    MissAnswer::DontKnow { id }
                }
            };
            under_way.lock().remove(&(worker, id));
            reply(&node, worker, answer);
            node.counters.misses_pending.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

fn reply(node: &Node, worker: WorkerId, answer: MissAnswer) {
    if let Some(forwarder) = node.forwarder.get() {
        forwarder.answer(worker, answer);
    }
}
