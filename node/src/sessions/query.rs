//! Which sessions this director holds.

use std::collections::BTreeSet;

use holdfast_schema::admin::SessionQuery;
use holdfast_schema::cluster::{Backend, BackendId, ClusterState};
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

/// All backends: group, `GROUP/NAME`, number.
pub fn backends(cluster: &ClusterState) -> impl Iterator<Item = (&str, String, BackendId)> {
    cluster.groups.iter().flat_map(|(group, g)| {
        let named =
            move |(name, b): (&String, &Backend)| (group.as_str(), format!("{group}/{name}"), b.id);
        g.backends.iter().map(named)
    })
}

impl Filter {
    /// Looks the names up. A name that nothing has fits no session: whoever asks has looked whether
    /// it exists, and it may have been removed since.
    pub fn new(query: &SessionQuery, cluster: Option<&ClusterState>) -> Filter {
        let backends = query.backend.as_ref().map(|wanted| {
            let all = cluster.into_iter().flat_map(backends);
            all.filter(|(_, name, _)| name == wanted).map(|(.., id)| id).collect()
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
