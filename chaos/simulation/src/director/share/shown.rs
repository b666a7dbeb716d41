//! What a share of the store shows of itself.

use std::sync::Arc;

use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_state_store::simulation::GroupState;

use super::{Share, Which};

impl Share {
    /// The cluster as applied here.
    pub fn cluster(&self) -> &Arc<ClusterState> {
        &self.cluster
    }

    /// Which part must not go on and why, if one must not.
    pub fn failed(&self) -> Option<&(Which, String)> {
        self.failed.as_ref()
    }

    /// Whether every group has a leader that this director hears.
    pub fn has_quorum(&self) -> bool {
        self.sessions.is_some() && self.states.iter().all(|s| s.led())
    }

    /// The shards that have a leader that this director hears.
    pub fn shards_with_quorum(&self) -> ShardSet {
        if self.sessions.is_none() {
            return ShardSet::NONE;
        }
        // The control group is the first.
        let led = (0u16..).zip(&self.states[1..]).filter(|(_, state)| state.led());
        led.map(|(shard, _)| ShardId(shard)).collect()
    }

    /// Whether this director leads the control group.
    pub fn leads_control(&self) -> bool {
        self.states[0].progress().leads
    }

    /// Who leads the control group, as far as is known here.
    pub fn control_leader(&self) -> Option<DirectorId> {
        let leader = self.states[0].progress().leader;
        (leader != 0).then_some(DirectorId(leader as u32))
    }

    /// Whether this start is recorded in the control group.
    pub fn announced(&self) -> bool {
        self.announced
    }

    /// Whether this director has caught up with every group since it started; why not, if not.
    pub fn caught_up(&self) -> Result<(), String> {
        if self.sessions.is_none() {
            return Err("waits for a new replica number".to_owned());
        }
        if !self.announced {
            return Err("this start is not recorded yet".to_owned());
        }
        match self.states.iter().position(|state| !state.caught_up()) {
            Some(group) => Err(format!("group {group} has not caught up")),
            None => Ok(()),
        }
    }

    /// In how many groups this director votes.
    pub fn votes(&self) -> u32 {
        let votes = |state: &&Arc<GroupState>| {
            let conf = state.conf();
            conf.voters.contains(&state.replica())
                || conf.voters_outgoing.contains(&state.replica())
        };
        self.states.iter().filter(votes).count() as u32
    }

    /// The shards that this director leads.
    pub fn shards_led(&self) -> Vec<ShardId> {
        let led = |(n, state): (usize, &Arc<GroupState>)| {
            state.progress().leads.then_some(ShardId(n as u16))
        };
        self.states.iter().skip(1).enumerate().filter_map(led).collect()
    }

    /// How far each shard has been applied here.
    pub fn applied(&self) -> Vec<u64> {
        self.states.iter().skip(1).map(|state| state.progress().applied).collect()
    }

    /// Sessions kept.
    pub fn sessions(&self) -> u64 {
        self.states.iter().skip(1).map(|state| state.progress().sessions).sum()
    }

    /// Changes that wait to be proposed, and questions that wait for the word of a quorum.
    pub fn waiting(&self) -> (u64, u64) {
        (self.feed.waiting() as u64, self.confirming.len() as u64)
    }

    /// Who leads a shard, as far as is known here.
    pub fn leader_of(&self, shard: ShardId) -> Option<DirectorId> {
        let state = self.states.get(usize::from(shard.0) + 1)?;
        self.view.as_ref()?.director_of(state.progress().leader)
    }

    /// Whether the replica of a shard here has caught up, so that its no is worth something.
    pub fn knows(&self, shard: ShardId) -> bool {
        self.states.get(usize::from(shard.0) + 1).is_some_and(|s| s.caught_up())
    }
}
