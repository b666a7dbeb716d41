//! Misses: asking the others for a session. What is asked and what it amounts to is decided by
//! [`Asking`]; here is the network and the clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use holdfast_schema::bucket::Bucket;
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Known, SessionRecord};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Store;
use super::member::{Groups, Member};
use super::types::MissVerdict;
use crate::codec::wire::{Request, Response};
use crate::homes::{Answer, Asking, Kept, Whom};
use crate::metrics::count;
use crate::raft::{GroupState, Input};

/// A change of membership this recent makes a no uncertain.
const SETTLED: Duration = Duration::from_secs(10);

/// The bucket of a packet's key, whichever direction it is of.
fn bucket_of(cluster: &ClusterState, key: &FlowKey) -> Bucket {
    match cluster.lips.contains_key(&key.dst.to_ip()) {
        true => Bucket::of_local_port(key.dst_port),
        false => cluster.bucket_key.bucket(key.protocol, &key.src, key.src_port),
    }
}

/// What a peer's answer says.
fn understood(response: Response) -> Answer {
    match response {
        Response::Found(record) => Answer::Found(record),
        Response::No { as_leader, as_home } => Answer::No { as_leader, as_home },
        _ => Answer::DontKnow,
    }
}

/// Of two things that are known of a key, the session that has the better claim to it.
fn better(one: SessionRecord, other: Option<SessionRecord>) -> SessionRecord {
    match other {
        Some(other) if other.prevails_over(&one) => other,
        _ => one,
    }
}

impl Store {
    /// Asks the homes of this key's bucket and the shard's leader for the session it belongs to. This
    /// director's own table is taken to have been asked already (but what it is as a home or a leader
    /// counts).
    pub async fn ask(&self, key: FlowKey, deadline: Duration) -> MissVerdict {
        let metrics = &self.shared.metrics;
        count(&metrics.misses_asked);
        let verdict = self.ask_all(key, deadline).await;
        count(match verdict {
            MissVerdict::Found(_) => &metrics.misses_found,
            MissVerdict::NoWithAuthority => &metrics.misses_denied,
            MissVerdict::Nobody | MissVerdict::DontKnow => &metrics.misses_unsure,
        });
        verdict
    }

    async fn ask_all(&self, key: FlowKey, deadline: Duration) -> MissVerdict {
        let Ok(member) = self.member() else { return MissVerdict::DontKnow };
        let Some(view) = self.shared.published.view() else { return MissVerdict::DontKnow };
        let cluster = &view.cluster;
        let bucket = bucket_of(cluster, &key);
        let shard = cluster.shards.shard(bucket).0;
        let live = |id: &DirectorId| cluster.members.get(id).is_some_and(|m| !m.down);
        let (homes, mut others) = member.young.asked(bucket);
        others.extend(cluster.lips.get(&key.dst.to_ip()).and_then(|lip| lip.owner));
        others.retain(live);
        let leader = member.shard_state(shard).map(|s| s.progress().leader);
        let whom = Whom {
            homes,
            leader: leader.and_then(|replica| view.director_of(replica)),
            others,
            settled: member.changed.lock().elapsed() > SETTLED && !cluster.change_planned(),
        };
        let begun = Instant::now();
        let now_us = || begun.elapsed().as_micros() as u64;
        let mut asking = Asking::start(0, deadline.as_micros() as u64, whom);
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
            return (to, understood(self.answer_miss(member, &key, shard).await));
        }
        let request = Request::Miss { key, shard };
        let answer = self.request(member, to, &request, patience).await;
        (to, answer.map_or(Answer::Failed, understood))
    }

    /// This director's answer to a miss.
    pub(super) async fn answer_miss(&self, member: &Member, key: &FlowKey, shard: u16) -> Response {
        let known = self.look(member, key);
        if !matches!(known, Response::No { .. }) {
            return known;
        }
        let leads = member.shard_state(shard).is_some_and(|s| s.progress().leads);
        let confirmed = match member.sessions.get() {
            Some(sessions) if leads => confirm(sessions, shard).await,
            // The no of a leader that was deposed is worth as much as anybody's.
            _ => false,
        };
        let caught_up = |s: &Arc<GroupState>| s.caught_up() && s.halted().is_none();
        if !member.shard_state(shard).is_some_and(caught_up) {
            return Response::DontKnow;
        }
        // What was committed before the confirmation has been applied now.
        match self.look(member, key) {
            Response::No { as_home, .. } => Response::No { as_leader: confirmed, as_home },
            known => known,
        }
    }

    /// What is known here, in the table and as a home.
    fn look(&self, member: &Member, key: &FlowKey) -> Response {
        let Some(view) = self.shared.published.view() else { return Response::DontKnow };
        // As a home first: what is applied goes from there into the table, never back.
        let kept = member.young.find(bucket_of(&view.cluster, key), key);
        let sink = self.shared.sink.read().clone();
        let table = sink.map_or(Known::Unsure, |sink| sink.find(key));
        match (kept, table) {
            (Kept::Session(young), table) => {
                Response::Found(Box::new(better(*young, table.session())))
            }
            (_, Known::Session(record)) => Response::Found(record),
            (Kept::Unsure, _) | (_, Known::Unsure) => Response::DontKnow,
            (Kept::Nobody { authority }, Known::Nobody) => {
                Response::No { as_leader: false, as_home: authority }
            }
        }
    }
}

/// Whether a quorum says after now that this director leads the group; what was committed before has
/// been applied then.
pub(super) async fn confirm(groups: &Groups, group: u16) -> bool {
    let (reply, confirmed) = oneshot::channel();
    groups.handle.say(Input::Confirm(group, reply)) && confirmed.await.is_ok()
}
