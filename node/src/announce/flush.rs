//! Waiting until all directors have replicated what only they know.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::node::Node;
use crate::peers::{Request, Response};

/// How long one director may take to answer. A director that is dead is declared down after a
/// second and then no longer asked.
const ANSWER: Duration = Duration::from_millis(300);

/// How often the directors are asked.
const PAUSE: Duration = Duration::from_millis(20);

/// How long the groups may take to apply everywhere.
const APPLY: Duration = Duration::from_secs(3);

/// The flush this director waits for, if any: one at a time.
#[derive(Default)]
pub struct FlushJob {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    wanted: Option<u64>,
    done: Option<u64>,
    running: bool,
}

impl FlushJob {
    /// The planned change for which everything is replicated and applied everywhere.
    pub fn done(&self) -> Option<u64> {
        self.state.lock().done
    }

    /// Says what is waited for; starts asking if that is new.
    pub fn want(&self, node: &Arc<Node>, planned: Option<u64>) {
        let mut state = self.state.lock();
        if planned.is_some() && state.done != planned {
            state.done = None;
        }
        state.wanted = planned;
        if planned.is_none() || state.running || state.done == planned {
            return;
        }
        state.running = true;
        tokio::spawn(pursue(node.clone(), self.state.clone()));
    }
}

async fn pursue(node: Arc<Node>, state: Arc<Mutex<State>>) {
    loop {
        let wanted = {
            let mut state = state.lock();
            if state.wanted.is_none() || state.wanted == state.done {
                state.running = false;
                return;
            }
            state.wanted
        };
        let Some(planned) = wanted else { continue };
        match all_flushed(&node, planned).await {
            Ok(()) => state.lock().done = Some(planned),
            Err(why) => {
                tracing::debug!(planned, why, "not everything is replicated yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn all_flushed(node: &Arc<Node>, planned: u64) -> Result<(), String> {
    let (here, unreplicated) = node.flush_status(planned);
    if !here {
        return Err(format!("{unreplicated} sessions only here"));
    }
    let asks = node.live_others().into_iter().map(|id| async move {
        match node.ask(id, &Request::Flush { planned }, ANSWER).await {
            Ok(Response::Flush { flushed: true, .. }) => Ok(()),
            Ok(Response::Flush { unreplicated, .. }) => {
                Err(format!("{unreplicated} sessions only on director {id}"))
            }
            Ok(other) => Err(format!("director {id} answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    });
    for answer in futures_util::future::join_all(asks).await {
        answer?;
    }
    node.store.applied_everywhere(APPLY).await.map_err(|e| e.to_string())
}
