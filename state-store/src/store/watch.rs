//! Tasks of a member: following the cluster, judging who is down, forming lost shards anew.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use holdfast_schema::cluster::{ClusterState, ControlCommand, DirectorId};
use tokio::sync::oneshot;

use super::error::StoreError;
use super::inbound::forms;
use super::member::Member;
use super::survey::{Lost, SURVEY, Survey};
use super::{Shared, Store};
use crate::codec::wire::{Address, Form, Request, Response};
use crate::liveness::Verdict;
use crate::peer::PeerInfo;
use crate::raft::Input;

/// How often the control leader judges who is down.
const JUDGE: Duration = Duration::from_millis(100);
/// How long the commit of a judgement may take.
const COMMIT: Duration = Duration::from_millis(500);
/// A removed member is cut off after this: time to learn from the log that it was removed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Starts them.
pub(super) fn start(store: &Store, member: &Arc<Member>) {
    let shared = Arc::downgrade(&store.shared);
    let mut tasks = member.tasks.lock();
    tasks.push(tokio::spawn(follow(shared.clone(), Arc::downgrade(member))));
    tasks.push(tokio::spawn(judge(shared.clone(), Arc::downgrade(member))));
    tasks.push(tokio::spawn(survey(shared, Arc::downgrade(member))));
}

fn both(shared: &Weak<Shared>, member: &Weak<Member>) -> Option<(Store, Arc<Member>)> {
    Some((Store { shared: shared.upgrade()? }, member.upgrade()?))
}

/// Tells network and drivers about every new state of the cluster.
async fn follow(shared: Weak<Shared>, member: Weak<Member>) {
    let Some((store, _)) = both(&shared, &member) else { return };
    let mut news = store.shared.published.subscribe();
    drop(store);
    let mut before: Option<Arc<ClusterState>> = None;
    let mut leaving: Vec<(Instant, PeerInfo)> = Vec::new();
    loop {
        let Some((store, me)) = both(&shared, &member) else { return };
        news.mark_unchanged();
        if let Some(view) = store.shared.published.view() {
            let now = &view.cluster;
            let moved = before.as_ref().is_none_or(|b| {
                b.membership_epoch != now.membership_epoch || b.planned != now.planned
            });
            if moved {
                *me.changed.lock() = Instant::now();
            }
            let gone = before.iter().flat_map(|b| b.members.values());
            let gone = gone.filter(|m| !now.members.contains_key(&m.id)).map(PeerInfo::from);
            leaving.extend(gone.map(|m| (Instant::now() + FAREWELL, m)));
            leaving.retain(|(until, _)| *until > Instant::now());
            me.follow(&view, leaving.iter().map(|(_, m)| m.clone()));
            if let Err(e) = me.remember(&view) {
                tracing::error!(%e, "the members cannot be noted");
            }
            if let Some(why) = disowned(&me, now) {
                me.disown(why);
            }
            before = Some(view.cluster.clone());
        }
        drop((store, me));
        let farewell = leaving.iter().map(|(until, _)| *until).min();
        let farewell = farewell.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(farewell.into()) => {}
        }
    }
}

/// Why this director is not the one that the cluster knows (any more).
fn disowned(me: &Member, cluster: &ClusterState) -> Option<String> {
    match cluster.members.get(&me.me) {
        // Before our own control replica has caught up, an old state may not know us yet.
        None if me.control.states[0].caught_up() => {
            Some("this director was removed from the cluster".to_owned())
        }
        Some(known) if known.incarnation > me.incarnation => Some(format!(
            "another machine started with the identity of this director, at {}",
            known.address
        )),
        _ => None,
    }
}

/// The control leader declares members down and up.
async fn judge(shared: Weak<Shared>, member: Weak<Member>) {
    loop {
        tokio::time::sleep(JUDGE).await;
        let Some((store, me)) = both(&shared, &member) else { return };
        if !me.leads_control() {
            continue;
        }
        for judgement in me.transport.judge() {
            let command = ControlCommand::SetDown {
                director: judgement.director,
                incarnation: judgement.incarnation,
                down: judgement.verdict == Verdict::Down,
            };
            tracing::info!(director = %judgement.director, verdict = ?judgement.verdict, "judged");
            let store = store.clone();
            // Not waited for: the next judgement must not be late. An uncommitted one is repeated.
            tokio::spawn(async move {
                if let Err(e) = store.control(command, COMMIT).await {
                    tracing::debug!(%e, "judgement not committed");
                }
            });
        }
    }
}

/// The control leader forms shards anew whose voters are lost for good.
async fn survey(shared: Weak<Shared>, member: Weak<Member>) {
    let begun = Instant::now();
    let mut survey = Survey::default();
    loop {
        tokio::time::sleep(SURVEY).await;
        let Some((store, me)) = both(&shared, &member) else { return };
        let leaderless = |s: u16| me.shard_state(s).is_none_or(|g| g.progress().leader == 0);
        if !me.leads_control() || !(0..me.shards).any(leaderless) {
            survey.all_is_well();
            continue;
        }
        let answers = store.ask_forms(&me).await;
        let Some(view) = store.shared.published.view() else { continue };
        let lost = survey.judge(begun.elapsed(), &view, &leaderless, &answers);
        for Lost { shard, ends, voter } in lost {
            tracing::warn!(shard, ends, %voter, "a majority of the shard's voters is lost");
            if let Err(e) = store.reform(&me, shard, ends, voter).await {
                tracing::warn!(%e, shard, "the shard is not formed anew yet");
            } else {
                survey.formed_anew(begun.elapsed(), shard);
            }
        }
    }
}

impl Store {
    /// How everybody's replicas are configured; only of those who answer.
    pub(super) async fn ask_forms(&self, member: &Member) -> Vec<(DirectorId, Vec<Form>)> {
        let mut all = Vec::new();
        if member.sessions.get().is_some() {
            all.push((member.me, forms(member)));
        }
        for peer in self.live_peers(member) {
            let answer = self.request(member, peer, &Request::Forms, COMMIT).await;
            if let Ok(Response::Forms(forms)) = answer
                && !forms.is_empty()
            {
                all.push((peer, forms));
            }
        }
        all
    }

    async fn reform(
        &self,
        member: &Member,
        shard: u16,
        ends: u32,
        voter: DirectorId,
    ) -> Result<(), StoreError> {
        let entry = Lost { shard, ends, voter }.entry();
        let (reply, taken) = oneshot::channel();
        let said = member.control.handle.say(Input::Propose(Address::CONTROL, entry, reply));
        // A repetition finds the generation ended and changes nothing.
        match taken.await {
            Ok(Ok(())) if said => Ok(()),
            _ => Err(StoreError::Closed),
        }
    }
}
