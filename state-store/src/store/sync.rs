//! Barriers: knowing that everybody has applied what was said before.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_schema::cluster::DirectorId;
use tokio::sync::oneshot;

use super::Store;
use super::error::StoreError;
use super::member::Member;
use crate::codec::wire::{Request, Response};
use crate::raft::Input;

/// One attempt at a leader.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Pause between attempts and looks.
const PAUSE: Duration = Duration::from_millis(20);

impl Store {
    /// The index applied here, per shard.
    pub fn applied(&self) -> Vec<u64> {
        self.shared.member().map(|m| m.applied()).unwrap_or_default()
    }

    /// Commits a no-op through every shard and returns its index per shard.
    pub async fn barrier(&self, deadline: Duration) -> Result<Vec<u64>, StoreError> {
        let until = Instant::now() + deadline;
        let member = self.member()?;
        let mut indexes = vec![0; usize::from(member.shards)];
        loop {
            let missing: Vec<u16> =
                (0..member.shards).filter(|s| indexes[usize::from(*s)] == 0).collect();
            if missing.is_empty() {
                return Ok(indexes);
            }
            if Instant::now() >= until {
                return Err(StoreError::Deadline {
                    what: "a no-op through every shard".to_owned(),
                    deadline_ms: deadline.as_millis() as u64,
                    cause: format!("shards {missing:?} have no leader that answers"),
                });
            }
            let found =
                join_all(self.by_leader(&member, &missing).into_iter().map(|(leader, shards)| {
                    let member = member.clone();
                    async move {
                        let got = self.barrier_at(&member, leader, &shards).await;
                        shards.into_iter().zip(got).collect::<Vec<_>>()
                    }
                }))
                .await;
            for (shard, index) in found.into_iter().flatten() {
                indexes[usize::from(shard)] = index;
            }
            if indexes.contains(&0) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn by_leader(&self, member: &Member, shards: &[u16]) -> Vec<(DirectorId, Vec<u16>)> {
        let Some(view) = self.shared.published.view() else { return Vec::new() };
        let mut by_leader: Vec<(DirectorId, Vec<u16>)> = Vec::new();
        for shard in shards {
            let leader = member.shard_state(*shard).map_or(0, |s| s.progress().leader);
            let Some(leader) = view.director_of(leader) else { continue };
            match by_leader.iter_mut().find(|(l, _)| *l == leader) {
                Some((_, list)) => list.push(*shard),
                None => by_leader.push((leader, vec![*shard])),
            }
        }
        by_leader
    }

    async fn barrier_at(&self, member: &Member, leader: DirectorId, shards: &[u16]) -> Vec<u64> {
        if leader == member.me {
            return self.barrier_here(member, shards).await;
        }
        let request = Request::Barrier { shards: shards.to_vec() };
        match self.request(member, leader, &request, ATTEMPT).await {
            Ok(Response::Barrier(indexes)) => indexes,
            _ => Vec::new(),
        }
    }

    /// Commits no-ops through shards led here; 0 for the others.
    pub(super) async fn barrier_here(&self, member: &Member, shards: &[u16]) -> Vec<u64> {
        let Some(sessions) = member.sessions.get() else { return vec![0; shards.len()] };
        join_all(shards.iter().map(|shard| async move {
            let (reply, index) = oneshot::channel();
            if !sessions.handle.say(Input::Barrier(*shard, reply)) {
                return 0;
            }
            match tokio::time::timeout(ATTEMPT, index).await {
                Ok(Ok(index)) => index,
                _ => 0,
            }
        }))
        .await
    }

    /// Waits until all live members, learners included, have applied all that was committed before.
    ///
    /// With two directors one votes alone: what it has applied may be nowhere else until then.
    pub async fn applied_everywhere(&self, deadline: Duration) -> Result<(), StoreError> {
        let until = Instant::now() + deadline;
        let indexes = self.barrier(deadline).await?;
        let left = until.saturating_duration_since(Instant::now());
        self.wait_applied_everywhere(&indexes, left).await
    }

    /// Waits until all live members have applied at least these indexes.
    pub async fn wait_applied_everywhere(
        &self,
        at_least: &[u64],
        deadline: Duration,
    ) -> Result<(), StoreError> {
        let until = Instant::now() + deadline;
        let member = self.member()?;
        let reached = |applied: &[u64]| {
            at_least.iter().enumerate().all(|(i, want)| applied.get(i).is_some_and(|a| a >= want))
        };
        let mut done: Vec<DirectorId> = Vec::new();
        loop {
            let behind: Vec<DirectorId> =
                self.live_peers(&member).into_iter().filter(|p| !done.contains(p)).collect();
            let answers = join_all(behind.iter().map(|peer| {
                let member = member.clone();
                async move {
                    let answer = self.request(&member, *peer, &Request::Applied, ATTEMPT).await;
                    (*peer, answer)
                }
            }))
            .await;
            let mut missing = Vec::new();
            for (peer, answer) in answers {
                match answer {
                    Ok(Response::Applied(applied)) if reached(&applied) => done.push(peer),
                    Ok(_) => missing.push(format!("director {peer} is behind")),
                    Err(e) => missing.push(e.to_string()),
                }
            }
            if !reached(&member.applied()) {
                missing.push("this director is behind".to_owned());
            }
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(StoreError::Deadline {
                    what: "applying everywhere".to_owned(),
                    deadline_ms: deadline.as_millis() as u64,
                    cause: missing.join("; "),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
