//! Questions that a leader answers when a quorum has confirmed that it is one.

use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_state_store::simulation::Input;
use tokio::sync::oneshot;

use super::{Share, Which};

/// A question of another director that waits until a quorum has confirmed the leadership here.
pub(super) struct Confirming {
    from: DirectorId,
    id: u64,
    key: FlowKey,
    confirmed: oneshot::Receiver<()>,
}

impl Share {
    /// Asks for the confirmation of a quorum that this director leads a shard; false: it does not.
    pub fn confirm(
        &mut self,
        now_us: u64,
        from: DirectorId,
        id: u64,
        key: FlowKey,
        shard: ShardId,
    ) -> bool {
        let leads = self.states.get(usize::from(shard.0) + 1).is_some_and(|s| s.progress().leads);
        if leads {
            let (reply, confirmed) = oneshot::channel();
            self.take(Which::Sessions, Input::Confirm(shard.0, reply), now_us);
            self.confirming.push(Confirming { from, id, key, confirmed });
            self.poll(Which::Sessions, now_us);
        }
        leads
    }

    /// Questions whose confirmation has come, or will not come.
    pub fn confirmed(&mut self, mut answer: impl FnMut(DirectorId, u64, FlowKey, bool)) {
        self.confirming.retain_mut(|waiting| {
            let confirmed = match waiting.confirmed.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return true,
                result => result.is_ok(),
            };
            answer(waiting.from, waiting.id, waiting.key, confirmed);
            false
        });
    }
}
