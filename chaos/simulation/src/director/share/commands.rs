//! Commands for the control group on their way to its leader.

use holdfast_schema::cluster::{
    ClusterState, ControlCommand, ControlOutcome, DirectorId, RequestId,
};
use holdfast_state_store::codec;
use holdfast_state_store::codec::wire::{Address, ControlEntry, Proposal};
use holdfast_state_store::simulation::{Input, Published};
use tokio::sync::oneshot;

use super::mail::{Mail, Out};
use crate::rng::Rng;

/// How long (us) a command is tried, and how long until it is tried again.
const DEADLINE_US: u64 = 5_000_000;
const AGAIN_US: u64 = 200_000;

struct Pending {
    proposal: Proposal,
    until_us: u64,
    next_us: u64,
    outcome: oneshot::Receiver<ControlOutcome>,
}

/// The commands of one process.
pub(super) struct Commands {
    rng: Rng,
    pending: Vec<Pending>,
    start: Option<Pending>,
    tries: usize,
}

/// What proposes a command.
pub(super) fn entry(proposal: Proposal) -> Input {
    let entry = codec::encode(&ControlEntry::Command(Box::new(proposal)));
    let (reply, _) = oneshot::channel();
    Input::Propose(Address::CONTROL, entry, reply)
}

impl Commands {
    pub(super) fn new(me: DirectorId, seed: u64) -> Commands {
        let rng = Rng::new(seed, &format!("commands of {me}"));
        Commands { rng, pending: Vec::new(), start: None, tries: 0 }
    }

    fn pending(
        &mut self,
        now_us: u64,
        command: ControlCommand,
        incarnation: u64,
        published: &Published,
    ) -> Pending {
        let request = RequestId(u128::from(self.rng.draw()) << 64 | u128::from(self.rng.draw()));
        Pending {
            outcome: published.wait_for(request),
            proposal: Proposal { request, command, incarnation },
            until_us: now_us + DEADLINE_US,
            next_us: 0,
        }
    }

    pub(super) fn say(
        &mut self,
        now_us: u64,
        command: ControlCommand,
        incarnation: u64,
        published: &Published,
    ) {
        let pending = self.pending(now_us, command, incarnation, published);
        self.pending.push(pending);
    }

    /// The command that records a start: it is tried until it is answered.
    pub(super) fn say_for_ever(
        &mut self,
        now_us: u64,
        command: ControlCommand,
        incarnation: u64,
        published: &Published,
    ) {
        let pending = self.pending(now_us, command, incarnation, published);
        self.start = Some(Pending { until_us: u64::MAX, ..pending });
    }

    /// What came of the start, once.
    pub(super) fn start_outcome(&mut self) -> Option<ControlOutcome> {
        let outcome = self.start.as_mut()?.outcome.try_recv().ok()?;
        self.start = None;
        Some(outcome)
    }

    /// Sends again what has had no effect yet; what this director itself has to propose, as leader.
    pub(super) fn turn(
        &mut self,
        now_us: u64,
        me: DirectorId,
        leader: Option<DirectorId>,
        cluster: &ClusterState,
        out: &Out,
    ) -> Option<Vec<Input>> {
        self.pending.retain_mut(|pending| {
            now_us < pending.until_us
                && matches!(pending.outcome.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        });
        let mut inputs = Vec::new();
        let tries = &mut self.tries;
        for pending in self.pending.iter_mut().chain(&mut self.start) {
            if now_us < pending.next_us {
                continue;
            }
            pending.next_us = now_us + AGAIN_US;
            // Whoever hears no leader asks around.
            let to = leader.or_else(|| {
                let others = cluster.members.values().filter(|m| !m.down && m.id != me);
                let others: Vec<DirectorId> = others.map(|m| m.id).collect();
                *tries += 1;
                others.get(*tries % others.len().max(1)).copied()
            });
            match to {
                Some(to) if to == me => inputs.push(entry(pending.proposal.clone())),
                Some(to) => out.push(to, Mail::Command(Box::new(pending.proposal.clone()))),
                None => {}
            }
        }
        (!inputs.is_empty()).then_some(inputs)
    }
}
