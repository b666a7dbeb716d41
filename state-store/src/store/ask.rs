//! Misses: asking the others for a session. What is asked and what it amounts to is decided by
//! [`Asking`]; here is the network and the clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use holdfast_schema::cluster::DirectorId;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Store;
use super::member::{Groups, Member};
use super::types::MissVerdict;
use crate::codec::wire::{Request, Response};
use crate::homes::{Answer, Asking, bucket_of, known};
use crate::metrics::count;
use crate::raft::Input;

/// A change of membership this recent makes a no uncertain.
const SETTLED: Duration = Duration::from_secs(10);

/// What a peer's answer says.
fn understood(response: Response) -> Answer {
    match response {
        Response::Found(record) => Answer::Found(record),
        Response::No { as_leader, as_home } => Answer::No { as_leader, as_home },
        _ => Answer::DontKnow,
    }
}

/// What a peer is told.
fn said(answer: Answer) -> Response {
    match answer {
        Answer::Found(record) => Response::Found(record),
        Answer::No { as_leader, as_home } => Response::No { as_leader, as_home },
        Answer::DontKnow | Answer::Failed => Response::DontKnow,
    }
}

impl Store {
    /// Asks the homes of this key's bucket and the shard's leader for the session it belongs to. This
    /// director's own table is taken to have been asked already (but what it is as a home or a leader
    /// counts); `known` is what it holds and doubts.
    pub async fn ask(
        &self,
        key: FlowKey,
        known: Option<Incarnation>,
        deadline: Duration,
    ) -> MissVerdict {
        let metrics = &self.shared.metrics;
        count(&metrics.misses_asked);
        let verdict = self.ask_all(key, known, deadline).await;
        count(match verdict {
            MissVerdict::Found(_) => &metrics.misses_found,
            MissVerdict::NoWithAuthority => &metrics.misses_denied,
            MissVerdict::Nobody | MissVerdict::DontKnow => &metrics.misses_unsure,
        });
        verdict
    }

    async fn ask_all(
        &self,
        key: FlowKey,
        known: Option<Incarnation>,
        deadline: Duration,
    ) -> MissVerdict {
        let Ok(member) = self.member() else { return MissVerdict::DontKnow };
        let Some(view) = self.shared.published.view() else { return MissVerdict::DontKnow };
        let cluster = &view.cluster;
        let shard = cluster.shards.shard(bucket_of(cluster, &key)).0;
        let leader = member.shard_state(shard).map(|s| s.progress().leader);
        let leader = leader.and_then(|replica| view.director_of(replica));
        let unchanged = member.changed.lock().elapsed() > SETTLED;
        let Some(whom) = member.young.whom(cluster, &key, leader, unchanged) else {
            return MissVerdict::DontKnow;
        };
        let doubted = known.and_then(|_| self.in_table(&key).session());
        let whom = whom.and_carriers(cluster, doubted.as_ref());
        let begun = Instant::now();
        let now_us = || begun.elapsed().as_micros() as u64;
        let mut asking =
            Asking::start(0, deadline.as_micros() as u64, whom).beyond(member.me, known);
        let mut answers: FuturesUnordered<BoxFuture<'_, (DirectorId, Answer)>> =
            FuturesUnordered::new();
        loop {
            for to in asking.sends(now_us()) {
                answers.push(self.ask_one(&member, to, key, shard, deadline).boxed());
            }
            if let Some(verdict) = asking.verdict(now_us()) {
                return verdict;
            }
            let wake = begun + Duration::from_micros(asking.wake_us());
            tokio::select! {
                Some((from, answer)) = answers.next() => asking.answer(now_us(), from, answer),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn ask_one(
        &self,
        member: &Arc<Member>,
        to: DirectorId,
        key: FlowKey,
        shard: u16,
        patience: Duration,
    ) -> (DirectorId, Answer) {
        if to == member.me {
            return (to, self.know(member, &key, shard).await);
        }
        let request = Request::Miss { key, shard };
        let answer = self.request(member, to, &request, patience).await;
        (to, answer.map_or(Answer::Failed, understood))
    }

    /// This director's answer to a miss.
    pub(super) async fn answer_miss(&self, member: &Member, key: &FlowKey, shard: u16) -> Response {
        said(self.know(member, key, shard).await)
    }

    async fn know(&self, member: &Member, key: &FlowKey, shard: u16) -> Answer {
        let answer = self.look(member, key);
        if !matches!(answer, Answer::No { .. }) {
            return answer;
        }
        let leads = member.shard_state(shard).is_some_and(|s| s.progress().leads);
        let confirmed = match member.sessions.get() {
            Some(sessions) if leads => confirm(sessions, shard).await,
            // The no of a leader that was deposed is worth as much as anybody's.
            _ => false,
        };
        if !member.shard_state(shard).is_some_and(|s| s.sink_knows_all()) {
            return Answer::DontKnow;
        }
        // What was committed before the confirmation has been applied now.
        match self.look(member, key) {
            Answer::No { as_home, .. } => Answer::No { as_leader: confirmed, as_home },
            answer => answer,
        }
    }

    /// What is known here, as a home and in the table.
    fn look(&self, member: &Member, key: &FlowKey) -> Answer {
        let Some(view) = self.shared.published.view() else { return Answer::DontKnow };
        let kept = member.young.find(bucket_of(&view.cluster, key), key);
        known(kept, self.in_table(key))
    }

    fn in_table(&self, key: &FlowKey) -> Known {
        let sink = self.shared.sink.read().clone();
        sink.map_or(Known::Unsure, |sink| sink.find(key))
    }
}

/// Whether a quorum says after now that this director leads the group; what was committed before has
/// been applied then.
pub(super) async fn confirm(groups: &Groups, group: u16) -> bool {
    let (reply, confirmed) = oneshot::channel();
    groups.handle.say(Input::Confirm(group, reply)) && confirmed.await.is_ok()
}
