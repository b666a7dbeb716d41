//! Sessions of the whole cluster, merged from what each director holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_schema::admin::{SessionCount, SessionEntry, SessionList, SessionQuery};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::SessionRecord;
use tokio::task::JoinHandle;

use super::query;
use crate::node::Node;
use crate::peers::{HeldCount, HeldSessions, Request, Response, Uses};

/// How long a director may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Answers by director, and who did not answer.
type Answers<T> = (Vec<(DirectorId, T)>, Vec<DirectorId>);

async fn ask_all<T>(
    node: &Arc<Node>,
    request: Request,
    take: impl Fn(Response) -> Option<T>,
) -> Answers<T> {
    let others = node.live_others();
    let asks = others.iter().map(|id| node.ask(*id, &request, ANSWER));
    let answers = futures_util::future::join_all(asks).await;
    let (mut got, mut missing) = (Vec::new(), Vec::new());
    for (id, answer) in others.into_iter().zip(answers) {
        match answer.ok().and_then(&take) {
            Some(answer) => got.push((id, answer)),
            None => missing.push(id),
        }
    }
    (got, missing)
}

/// Names of the cluster, for people.
struct Names<'c>(Option<&'c ClusterState>);

impl Names<'_> {
    fn director(&self, id: DirectorId) -> String {
        let member = self.0.and_then(|c| c.members.get(&id));
        member.map_or_else(|| format!("director {id}"), |m| m.name.clone())
    }

    fn listener(&self, record: &SessionRecord) -> String {
        let listeners = self.0.iter().flat_map(|c| &c.listeners);
        let mut named = listeners.filter(|(_, l)| l.id == record.listener);
        named.next().map_or_else(|| format!("listener {}", record.listener), |(n, _)| n.clone())
    }

    fn backend(&self, record: &SessionRecord) -> String {
        let groups = self.0.iter().flat_map(|c| &c.groups);
        let mut named = groups.flat_map(|(group, g)| {
            let these = g.backends.iter().filter(|(_, b)| b.id == record.backend);
            these.map(move |(name, _)| format!("{group}/{name}"))
        });
        named.next().unwrap_or_else(|| format!("backend {}", record.backend))
    }
}

/// The sessions of all live directors.
pub async fn list(node: &Arc<Node>, query: SessionQuery) -> SessionList {
    let (own, asked) = (node.clone(), query.clone());
    let mine = tokio::task::spawn_blocking(move || query::held(&own, &asked));
    let take = |response| match response {
        Response::Sessions(held) => Some(held),
        _ => None,
    };
    let (mut answers, missing) = ask_all(node, Request::Sessions(query.clone()), take).await;
    if let (Some(me), Ok(mine)) = (node.me(), mine.await) {
        answers.push((me, mine));
    }
    let cluster = node.cluster();
    let names = Names(cluster.as_deref());
    let mut list = merge(&names, answers, query.effective_limit());
    list.missing = missing.into_iter().map(|id| names.director(id)).collect();
    list
}

/// What is known of one session from several directors.
struct Merged {
    record: SessionRecord,
    replicated: bool,
    holders: Vec<DirectorId>,
    /// Who saw the client last.
    forwarder: DirectorId,
    client_age_ms: u32,
}

fn merge(names: &Names<'_>, answers: Vec<(DirectorId, HeldSessions)>, limit: usize) -> SessionList {
    let mut truncated = false;
    let mut sessions: BTreeMap<FlowKey, Merged> = BTreeMap::new();
    for (from, held) in answers {
        truncated |= held.truncated;
        for (record, replicated) in held.sessions {
            let client_age_ms = record.client.age_ms;
            let fresh =
                Merged { holders: vec![from], forwarder: from, client_age_ms, record, replicated };
            match sessions.get_mut(&fresh.record.key) {
                Some(known) if known.record.incarnation == fresh.record.incarnation => {
                    known.absorb(fresh);
                }
                // Another use of the same addresses and ports: the newer one is the session.
                Some(known) if known.record.incarnation > fresh.record.incarnation => {}
                _ => {
                    sessions.insert(fresh.record.key, fresh);
                }
            }
        }
    }
    truncated |= sessions.len() > limit;
    let entries = sessions.into_values().take(limit).map(|merged| SessionEntry {
        state: merged.record.flags.state_name().to_owned(),
        listener: names.listener(&merged.record),
        backend: names.backend(&merged.record),
        director: names.director(merged.forwarder),
        replicated: merged.replicated,
        holders: merged.holders.iter().map(|id| names.director(*id)).collect(),
        record: merged.record,
    });
    SessionList { sessions: entries.collect(), truncated, missing: Vec::new() }
}

impl Merged {
    fn absorb(&mut self, other: Merged) {
        self.holders.extend(other.holders);
        self.holders.sort();
        self.replicated |= other.replicated;
        let flags = self.record.flags.with(other.record.flags);
        // Equal ages: nobody has news of its own, so the owner's word counts.
        let nearer = other.client_age_ms < self.client_age_ms
            || (other.client_age_ms == self.client_age_ms && other.forwarder == other.record.owner);
        let backend_seen = match other.record.backend_seen.age_ms < self.record.backend_seen.age_ms
        {
            true => other.record.backend_seen,
            false => self.record.backend_seen,
        };
        if nearer {
            self.client_age_ms = other.client_age_ms;
            self.forwarder = other.forwarder;
            self.record = other.record;
        }
        self.record.flags = flags;
        self.record.backend_seen = backend_seen;
    }
}

/// How many sessions all live directors have.
pub async fn count(node: &Arc<Node>, query: SessionQuery) -> SessionCount {
    let (own, asked) = (node.clone(), query.clone());
    let mine = tokio::task::spawn_blocking(move || query::count(&own, &asked));
    total(node, mine, Request::Count(query)).await
}

/// How many open sessions of all live directors use any of these.
pub async fn live(node: &Arc<Node>, uses: Uses) -> SessionCount {
    let (own, asked) = (node.clone(), uses.clone());
    let mine = tokio::task::spawn_blocking(move || query::live(&own, &asked));
    total(node, mine, Request::Live(uses)).await
}

async fn total(node: &Arc<Node>, mine: JoinHandle<HeldCount>, request: Request) -> SessionCount {
    let take = |response| match response {
        Response::Count(held) => Some(held),
        _ => None,
    };
    let (mut answers, missing) = ask_all(node, request, take).await;
    if let (Some(me), Ok(mine)) = (node.me(), mine.await) {
        answers.push((me, mine));
    }
    let cluster = node.cluster();
    let names = Names(cluster.as_deref());
    let mut total = add_up(&names, answers);
    total.missing = missing.into_iter().map(|id| names.director(id)).collect();
    total
}

/// A director that answered knows best what it owns. What a silent owner has is known from its
/// replicas: the one that holds most of it counts.
fn add_up(names: &Names<'_>, answers: Vec<(DirectorId, HeldCount)>) -> SessionCount {
    let mut owned: BTreeMap<DirectorId, (bool, u64, BTreeMap<String, u64>)> = BTreeMap::new();
    for (from, held) in answers {
        for (owner, states) in held.by_owner {
            let sum = states.values().sum();
            let first_hand = owner == from;
            let known = owned.entry(owner).or_default();
            if first_hand || (!known.0 && sum > known.1) {
                *known = (first_hand, sum, states);
            }
        }
    }
    let mut by_state: BTreeMap<String, u64> = BTreeMap::new();
    for (_, _, states) in owned.values() {
        for (state, n) in states {
            *by_state.entry(state.clone()).or_default() += n;
        }
    }
    SessionCount {
        total: owned.values().map(|(_, sum, _)| sum).sum(),
        by_director: owned.iter().map(|(id, (_, sum, _))| (names.director(*id), *sum)).collect(),
        by_state: by_state.into_iter().collect(),
        missing: Vec::new(),
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
