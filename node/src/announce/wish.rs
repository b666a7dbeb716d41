//! Which routes shall be announced, and with which metric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use holdfast_schema::cluster::{ClusterState, DirectorId};

use crate::netlink::routes::Wanted;

/// Metric of VIPs and own LIPs in normal service.
pub const METRIC_BEST: u32 = 100;
/// Metric of others' LIPs: the owner's path is better while it lives.
pub const METRIC_OTHERS: u32 = 200;
/// Metric of VIPs on a director that is cut off: used only if nobody announces better.
pub const METRIC_WORSE: u32 = 300;
/// Metric of a draining director.
pub const METRIC_DRAINING: u32 = 900;

/// How strongly a kind of address is announced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Not at all.
    #[default]
    Nothing,
    /// As the last resort, with GRACEFUL_SHUTDOWN.
    Draining,
    /// Only if nobody announces better.
    Worse,
    /// As usual.
    Normal,
}

impl Level {
    /// The word of `status`.
    pub fn word(self) -> &'static str {
        match self {
            Level::Nothing => "withdrawn",
            Level::Draining | Level::Worse => "worse",
            Level::Normal => "announced",
        }
    }
}

/// What shall be announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// VIPs.
    pub vips: Level,
    /// LIPs, own and others'.
    pub lips: Level,
}

impl Wish {
    /// Whether anything shall be announced.
    pub fn any(&self) -> bool {
        self.vips != Level::Nothing || self.lips != Level::Nothing
    }

    /// The routes that say this. VIPs in `withheld` are left out.
    pub fn routes(
        &self,
        cluster: &ClusterState,
        me: DirectorId,
        withheld: &BTreeSet<IpAddr>,
    ) -> Wanted {
        let mut wanted = BTreeMap::new();
        for (lip, assignment) in &cluster.lips {
            let own = assignment.owner == Some(me);
            let metric = match self.lips {
                Level::Nothing => continue,
                Level::Draining => METRIC_DRAINING,
                Level::Normal if own => METRIC_BEST,
                Level::Normal | Level::Worse => METRIC_OTHERS,
            };
            wanted.insert(*lip, metric);
        }
        for vip in cluster.vips() {
            let metric = match self.vips {
                Level::Nothing => continue,
                Level::Draining => METRIC_DRAINING,
                Level::Worse => METRIC_WORSE,
                Level::Normal => METRIC_BEST,
            };
            if !withheld.contains(&vip) {
                wanted.insert(vip, metric);
            }
        }
        wanted
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use holdfast_schema::bucket::{BucketKey, ShardTable};
    use holdfast_schema::cluster::{LipAssignment, Listener, ListenerId};
    use holdfast_schema::config::{ListenerSpec, NewUdp, ReplicateAfter, UnknownSession};
    use holdfast_schema::flow::Protocol;
    use holdfast_schema::session::ForwardingMode;

    /// A cluster with one VIP, and a LIP each for directors 1 and 2.
    pub(crate) fn cluster() -> ClusterState {
        let lip = |owner| LipAssignment { owner: Some(DirectorId(owner)), quarantined: false };
        let listener = ListenerSpec {
            name: "web".to_owned(),
            vip: "203.0.113.10".parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
            mode: ForwardingMode::FullNat,
            group: "web".to_owned(),
            replicate_after: ReplicateAfter::Millis(3000),
            idle_timeout_ms: 900_000,
            unknown_session: UnknownSession::Reset,
            new_udp: NewUdp::Schedule,
        };
        ClusterState {
            cluster_id: "0".repeat(32),
            bucket_key: BucketKey([0; 16]),
            shards: ShardTable::spread(1),
            shard_count: 1,
            revision: 1,
            membership_epoch: 1,
            members: BTreeMap::new(),
            lips: [
                ("198.51.100.1".parse().unwrap(), lip(1)),
                ("198.51.100.2".parse().unwrap(), lip(2)),
            ]
            .into(),
            spec: Default::default(),
            listeners: [("web".to_owned(), Listener { id: ListenerId(1), spec: listener })].into(),
            groups: BTreeMap::new(),
            tokens: BTreeMap::new(),
            planned: Vec::new(),
            next: Default::default(),
            ca_certificate: String::new(),
            ca_key: String::new(),
            requests: Vec::new(),
        }
    }

    fn routes(vips: Level, lips: Level) -> Vec<(String, u32)> {
        let wanted = Wish { vips, lips }.routes(&cluster(), DirectorId(1), &BTreeSet::new());
        wanted.into_iter().map(|(a, m)| (a.to_string(), m)).collect()
    }

    fn list(rows: &[(&str, u32)]) -> Vec<(String, u32)> {
        rows.iter().map(|(a, m)| ((*a).to_owned(), *m)).collect()
    }

    #[test]
    fn the_owner_of_a_lip_is_preferred() {
        assert_eq!(
            routes(Level::Normal, Level::Normal),
            list(&[("198.51.100.1", 100), ("198.51.100.2", 200), ("203.0.113.10", 100)])
        );
        assert_eq!(
            routes(Level::Draining, Level::Normal),
            list(&[("198.51.100.1", 100), ("198.51.100.2", 200), ("203.0.113.10", 900)])
        );
        assert_eq!(routes(Level::Nothing, Level::Nothing), list(&[]));
        assert_eq!(
            routes(Level::Worse, Level::Worse),
            list(&[("198.51.100.1", 200), ("198.51.100.2", 200), ("203.0.113.10", 300)])
        );
    }

    #[test]
    fn a_withheld_vip_is_not_announced() {
        let wish = Wish { vips: Level::Normal, lips: Level::Nothing };
        let withheld = ["203.0.113.10".parse().unwrap()].into();
        assert!(wish.routes(&cluster(), DirectorId(1), &withheld).is_empty());
    }
}
