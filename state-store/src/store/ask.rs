//! Misses: asking everybody for a session (PROTOCOLS, a packet that nobody here knows).
//!
//! Until sessions have homes, everybody is every live director and the shard's leader.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use holdfast_schema::bucket::{Bucket, ShardId};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Known, SessionRecord};
use tokio::sync::oneshot;

use super::Store;
use super::member::{Groups, Member};
use super::types::MissVerdict;
use crate::codec::wire::{Request, Response};
use crate::metrics::count;
use crate::raft::Input;

/// Who has not answered by then is asked once more: a lost packet costs QUIC 25 ms.
const REPEAT: Duration = Duration::from_millis(5);
/// After the first record, others get this long to show a newer one.
const GRACE: Duration = Duration::from_millis(2);
/// A change of membership this recent makes a no uncertain.
const SETTLED: Duration = Duration::from_secs(10);

/// The shard of a packet's key, whichever direction it is of.
pub(super) fn shard_of(cluster: &ClusterState, key: &FlowKey) -> ShardId {
    let bucket = if cluster.lips.contains_key(&key.dst.to_ip()) {
        Bucket::of_local_port(key.dst_port)
    } else {
        cluster.bucket_key.bucket(key.protocol, &key.src, key.src_port)
    };
    cluster.shards.shard(bucket)
}

/// Judges the answers as they come.
#[derive(Default)]
struct Tally {
    best: Option<SessionRecord>,
    denied: Vec<DirectorId>,
    leader_denied: bool,
    unsure: bool,
}

impl Tally {
    fn take(&mut self, from: DirectorId, answer: Response) {
        match answer {
            Response::Found(record) => {
                // Not the first to arrive counts, but the newest identity; of twins, the one that client
                // and backend have agreed on.
                if self.best.as_ref().is_none_or(|best| record.prevails_over(best)) {
                    self.best = Some(*record);
                }
            }
            Response::No { as_leader } => {
                self.leader_denied |= as_leader;
                if !self.denied.contains(&from) {
                    self.denied.push(from);
                }
            }
            _ => self.unsure = true,
        }
    }
}

impl Store {
    /// Asks every live director and the shard's leader for the session this key belongs to. This
    /// director's own table is taken to have been asked already (but its leadership counts).
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
        let shard = shard_of(&view.cluster, &key).0;
        let peers = self.live_peers(&member);
        let everybody_up = view.cluster.members.values().all(|m| !m.down);
        let settled = member.changed.lock().elapsed() > SETTLED && !view.cluster.change_planned();

        let mut tally = Tally::default();
        let mut asked: FuturesUnordered<BoxFuture<'_, (DirectorId, Option<Response>)>> =
            FuturesUnordered::new();
        let ask = |to: DirectorId| {
            let member = member.clone();
            let patience = deadline;
            async move {
                let request = Request::Miss { key, shard };
                let answer = self.request(&member, to, &request, patience).await;
                (to, answer.ok())
            }
            .boxed()
        };
        asked.extend(peers.iter().map(|to| ask(*to)));
        let own = member.clone();
        asked
            .push(async move { (own.me, Some(self.answer_miss(&own, &key, shard).await)) }.boxed());
        let begun = Instant::now();
        let mut until = begun + deadline;
        let (mut repeated, mut answered) = (false, Vec::new());
        loop {
            let wake = if repeated { until } else { until.min(begun + REPEAT) };
            tokio::select! {
                answer = asked.next() => match answer {
                    None => break,
                    Some((from, Some(response))) => {
                        if tally.best.is_none() && matches!(response, Response::Found(_)) {
                            until = until.min(Instant::now() + GRACE);
                        }
                        if !answered.contains(&from) {
                            answered.push(from);
                        }
                        tally.take(from, response);
                        if answered.len() > peers.len() {
                            break;
                        }
                    }
                    Some((_, None)) => {}
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= until {
                        break;
                    }
                    repeated = true;
                    asked.extend(
                        peers.iter().filter(|p| !answered.contains(p)).map(|to| ask(*to)),
                    );
                }
            }
        }
        match tally.best {
            Some(record) => MissVerdict::Found(Box::new(record)),
            None => {
                let everybody_denied = tally.denied.len() == view.cluster.members.len();
                let sure = everybody_denied && everybody_up && tally.leader_denied && settled;
                let live_denied = tally.denied.len() > peers.len();
                match !tally.unsure {
                    true if sure => MissVerdict::NoWithAuthority,
                    true if live_denied => MissVerdict::Nobody,
                    _ => MissVerdict::DontKnow,
                }
            }
        }
    }

    /// This director's answer to a miss.
    pub(super) async fn answer_miss(&self, member: &Member, key: &FlowKey, shard: u16) -> Response {
        let Some(sink) = self.shared.sink.read().clone() else { return Response::DontKnow };
        match sink.find(key) {
            Known::Session(record) => return Response::Found(record),
            Known::Unsure => return Response::DontKnow,
            Known::Nobody => {}
        }
        let Some(state) = member.shard_state(shard) else { return Response::DontKnow };
        if !state.caught_up() || state.halted().is_some() {
            return Response::DontKnow;
        }
        if !state.progress().leads {
            return Response::No { as_leader: false };
        }
        let Some(sessions) = member.sessions.get() else { return Response::DontKnow };
        if !confirm(sessions, shard).await {
            // It may have been deposed: its no is worth as much as anybody's.
            return Response::No { as_leader: false };
        }
        // What was committed before the confirmation has been applied now.
        match sink.find(key) {
            Known::Session(record) => Response::Found(record),
            Known::Unsure => Response::DontKnow,
            Known::Nobody => Response::No { as_leader: true },
        }
    }
}

/// Whether a quorum says after now that this director leads the group; what was committed before has
/// been applied then.
pub(super) async fn confirm(groups: &Groups, group: u16) -> bool {
    let (reply, confirmed) = oneshot::channel();
    groups.handle.say(Input::Confirm(group, reply)) && confirmed.await.is_ok()
}

#[cfg(test)]
mod tests {
    use holdfast_schema::session::SessionFlags;

    use super::*;
    use crate::shard::tests::record;

    #[test]
    fn the_newest_opening_counts_and_of_twins_the_established_one() {
        let agreed = record(1, 5, 0);
        let mut twin = record(1, 6, 0);
        twin.flags = SessionFlags::CLIENT_OPENED;
        let mut reopened = record(1, 7, 0);
        reopened.incarnation.isn += 1;
        reopened.flags = SessionFlags::CLIENT_OPENED;
        let pick = |records: &[&SessionRecord]| {
            let mut tally = Tally::default();
            for (n, one) in records.iter().enumerate() {
                tally.take(DirectorId(n as u32), Response::Found(Box::new((*one).clone())));
            }
            tally.best.map(|best| best.incarnation)
        };
        for answers in [[&agreed, &twin], [&twin, &agreed]] {
            assert_eq!(pick(&answers), Some(agreed.incarnation));
        }
        for answers in [[&agreed, &reopened], [&reopened, &agreed]] {
            assert_eq!(pick(&answers), Some(reopened.incarnation));
        }
    }
}
