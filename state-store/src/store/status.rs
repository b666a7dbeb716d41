//! What the store tells about itself.

use std::sync::Arc;

use holdfast_schema::bucket::{ShardId, ShardSet};
use holdfast_schema::cluster::DirectorId;

use super::Store;
use super::published::View;
use super::types::{GroupStatus, PeerStatus};
use crate::raft::GroupState;

/// A peer that was not heard for this long is shown as not up, declared down or not.
const SILENT_MS: u64 = 1_000;

fn group_status(
    name: String,
    state: &GroupState,
    director_of: &dyn Fn(u64) -> Option<DirectorId>,
) -> GroupStatus {
    let progress = state.progress();
    let conf = state.conf();
    let directors = |replicas: &[u64]| replicas.iter().filter_map(|r| director_of(*r)).collect();
    let mut voters: Vec<DirectorId> = directors(&conf.voters);
    let outgoing: Vec<DirectorId> = directors(&conf.voters_outgoing);
    voters.extend(outgoing);
    voters.sort();
    voters.dedup();
    let mut learners: Vec<DirectorId> = directors(&conf.learners);
    learners.sort();
    GroupStatus {
        name,
        leader: director_of(progress.leader),
        term: progress.term,
        committed: progress.committed,
        applied: progress.applied,
        voters,
        learners,
        joint: !conf.voters_outgoing.is_empty(),
        sessions: progress.sessions,
        halted: state.halted(),
    }
}

impl Store {
    /// The other members as this director sees them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let (Some(member), Some(view)) = (self.shared.member(), self.shared.published.view())
        else {
            return Vec::new();
        };
        let heard = member.transport.liveness();
        let others = view.cluster.members.values().filter(|m| m.id != member.me);
        others
            .map(|m| {
                let peer = heard.iter().find(|p| p.id == m.id);
                let heard_ms = peer.and_then(|p| p.heard_ms_ago);
                let audible = heard_ms.is_some_and(|ms| ms < SILENT_MS);
                PeerStatus {
                    id: m.id,
                    name: m.name.clone(),
                    up: audible && !m.down,
                    heard_ms,
                    rtt_us: peer.and_then(|p| p.rtt_us),
                }
            })
            .collect()
    }

    /// The Raft groups as this director sees them, control first.
    pub fn groups(&self) -> Vec<GroupStatus> {
        let Some(member) = self.shared.member() else { return Vec::new() };
        let view = self.shared.published.view();
        let by_number = |replica: u64| (replica != 0).then_some(DirectorId(replica as u32));
        let of_sessions =
            |replica: u64| view.as_ref().and_then(|v: &Arc<View>| v.director_of(replica));
        let mut groups =
            vec![group_status("control".to_owned(), &member.control.states[0], &by_number)];
        let states = member.sessions.get().map(|s| s.states.as_slice()).unwrap_or_default();
        for (shard, state) in states.iter().enumerate() {
            groups.push(group_status(format!("shard-{shard}"), state, &of_sessions));
        }
        groups
    }

    /// The shards that this director leads.
    pub fn shards_led(&self) -> Vec<ShardId> {
        let Some(member) = self.shared.member() else { return Vec::new() };
        let states = member.sessions.get().map(|s| s.states.as_slice()).unwrap_or_default();
        let led = (0u16..).zip(states).filter(|(_, state)| state.progress().leads);
        led.map(|(shard, _)| ShardId(shard)).collect()
    }

    /// Why a replica here has stopped for good, if one has. The others count on this director while
    /// it seems alive, so its process should end and start again.
    pub fn failure(&self) -> Option<String> {
        self.shared.member().and_then(|m| m.failure())
    }

    /// Whether every group has a leader that this director hears.
    pub fn has_quorum(&self) -> bool {
        let Ok(member) = self.member() else { return false };
        let Some(sessions) = member.sessions.get() else { return false };
        member.control.states.iter().chain(&sessions.states).all(|s| s.led())
    }

    /// The shards that have a leader that this director hears.
    pub fn shards_with_quorum(&self) -> ShardSet {
        let Ok(member) = self.member() else { return ShardSet::NONE };
        let states = member.sessions.get().map(|s| s.states.as_slice()).unwrap_or_default();
        let led = (0u16..).zip(states).filter(|(_, state)| state.led());
        led.map(|(shard, _)| ShardId(shard)).collect()
    }

    /// Whether this director has caught up with every group since it started; why not, if not.
    pub fn caught_up(&self) -> Result<(), String> {
        let Some(member) = self.shared.member() else {
            return Err("not in a cluster yet".to_owned());
        };
        if let Some(why) = member.fatal.lock().as_ref() {
            return Err(why.clone());
        }
        let Some(sessions) = member.sessions.get() else {
            return Err("waits for a new replica number after an unclean end".to_owned());
        };
        if !member.is_announced() {
            return Err("this start is not recorded in the control group yet".to_owned());
        }
        let behind = |name: String, state: &GroupState| {
            if let Some(why) = state.halted() {
                return Err(format!("{name} has stopped: {why}"));
            }
            if !state.caught_up() {
                let progress = state.progress();
                let leader = if progress.leader == 0 { " (it hears no leader)" } else { "" };
                return Err(format!(
                    "{name} has not caught up with its leader since the start{leader}; applied {}",
                    progress.applied
                ));
            }
            Ok(())
        };
        behind("the control group".to_owned(), &member.control.states[0])?;
        let attached = self.shared.sink.read().is_some();
        for (shard, state) in sessions.states.iter().enumerate() {
            behind(format!("shard {shard}"), state)?;
            if attached && !state.told() {
                return Err(format!("the forwarder has not been told yet what shard {shard} has"));
            }
        }
        Ok(())
    }
}
