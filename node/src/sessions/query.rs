//! Which sessions this director holds.

use std::collections::BTreeSet;

use holdfast_schema::admin::SessionQuery;
use holdfast_schema::cluster::{BackendId, ClusterState};
use holdfast_schema::session::SessionRecord;

use crate::clock::mono_ms;
use crate::node::Node;
use crate::peers::{HeldCount, HeldSessions, Uses};

/// A query with its names looked up.
pub struct Filter {
    query: SessionQuery,
    /// The backends that are meant; none: all.
    backends: Option<BTreeSet<BackendId>>,
}

impl Filter {
    /// Looks the names up. A name that nothing has fits no session.
    pub fn new(query: &SessionQuery, cluster: Option<&ClusterState>) -> Filter {
        let backends = query.backend.as_ref().map(|wanted| {
            let groups = cluster.iter().flat_map(|c| &c.groups);
            let all = groups.flat_map(|(group, g)| {
                g.backends.iter().map(move |(name, b)| (format!("{group}/{name}"), b.id))
            });
            all.filter(|(name, _)| name == wanted).map(|(_, id)| id).collect()
        });
        Filter { query: query.clone(), backends }
    }

    /// Whether a session is meant.
    pub fn fits(&self, record: &SessionRecord) -> bool {
        let query = &self.query;
        query.client.is_none_or(|c| c.matches(record.key.source()))
            && query.vip.is_none_or(|v| v.matches(record.key.destination()))
            && query.state.as_deref().is_none_or(|s| s == record.flags.state_name())
            && self.backends.as_ref().is_none_or(|b| b.contains(&record.backend))
    }
}

/// The sessions held here that fit, up to the query's limit.
pub fn held(node: &Node, query: &SessionQuery) -> HeldSessions {
    let mut held = HeldSessions::default();
    let Some(forwarder) = node.forwarder.get() else { return held };
    let filter = Filter::new(query, node.cluster().as_deref());
    let limit = query.effective_limit();
    forwarder.sessions().for_each(mono_ms(), |record, replicated| {
        if filter.fits(record) {
            match held.sessions.len() < limit {
                true => held.sessions.push((record.clone(), replicated)),
                false => held.truncated = true,
            }
        }
    });
    held
}

/// How many sessions held here fit.
pub fn count(node: &Node, query: &SessionQuery) -> HeldCount {
    let filter = Filter::new(query, node.cluster().as_deref());
    tally(node, |record| filter.fits(record))
}

/// How many open sessions held here use any of these.
pub fn live(node: &Node, uses: &Uses) -> HeldCount {
    tally(node, |record| uses.concerns(record) && !record.flags.closing())
}

fn tally(node: &Node, fits: impl Fn(&SessionRecord) -> bool) -> HeldCount {
    let mut counted = HeldCount::default();
    let Some(forwarder) = node.forwarder.get() else { return counted };
    forwarder.sessions().for_each(mono_ms(), |record, _| {
        if fits(record) {
            let states = counted.by_owner.entry(record.owner).or_default();
            *states.entry(record.flags.state_name().to_owned()).or_default() += 1;
        }
    });
    counted
}
