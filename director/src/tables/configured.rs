//! Which listeners and backends there are, and which have been taken away.
#![forbid(unsafe_code)]

use holdfast_schema::cluster::{BackendId, ClusterState, ListenerId};

/// Numbers of one kind. Each is given away once, in order, so one that is not in use was either taken
/// away or comes with a configuration that is not known here yet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Numbers {
    /// In order.
    used: Vec<u32>,
    /// The next one to be given away.
    next: u32,
}

impl Numbers {
    fn new(used: impl Iterator<Item = u32>, next: u32) -> Numbers {
        let mut used: Vec<u32> = used.collect();
        used.sort_unstable();
        Numbers { used, next }
    }

    fn removed(&self, number: u32) -> bool {
        number < self.next && self.used.binary_search(&number).is_err()
    }

    fn removes_since(&self, before: &Numbers) -> bool {
        // What was given away and taken back in between may have sessions that came from others.
        let in_between = before.next..self.next;
        before.used.iter().copied().chain(in_between).any(|number| self.removed(number))
    }
}

/// The listeners and backends of one configuration, by their numbers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Configured {
    listeners: Numbers,
    backends: Numbers,
}

impl Configured {
    /// Those of the cluster's configuration.
    pub fn of(cluster: &ClusterState) -> Configured {
        let listeners = cluster.listeners.values().map(|listener| listener.id.0);
        let backends = cluster.groups.values().flat_map(|group| group.backends.values());
        Configured {
            listeners: Numbers::new(listeners, cluster.next.listener),
            backends: Numbers::new(backends.map(|backend| backend.id.0), cluster.next.backend),
        }
    }

    /// Whether sessions of this listener and backend are over, because one of the two was removed. (A
    /// draining one is not. What is not known here yet is not either.)
    pub fn removed(&self, listener: ListenerId, backend: BackendId) -> bool {
        self.listeners.removed(listener.0) || self.backends.removed(backend.0)
    }

    /// Whether sessions may be over that were not `before`.
    pub(crate) fn removes_since(&self, before: &Configured) -> bool {
        self.listeners.removes_since(&before.listeners)
            || self.backends.removes_since(&before.backends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::fixture;

    fn configured(backends: usize, change: impl Fn(&mut ClusterState)) -> Configured {
        let mut cluster = fixture::cluster(&vec![1; backends]);
        change(&mut cluster);
        Configured::of(&cluster)
    }

    fn remove(cluster: &mut ClusterState, backend: &str) {
        cluster.groups.get_mut("web").unwrap().backends.remove(backend).unwrap();
    }

    #[test]
    fn removed_is_what_was_given_away_and_is_not_there() {
        let all = configured(3, |_| {});
        let less = configured(3, |cluster| remove(cluster, "b2"));
        for backend in 1..5 {
            let gone =
                |configured: &Configured| configured.removed(ListenerId(1), BackendId(backend));
            assert!(!gone(&all), "{backend}: in use, or not given away yet");
            assert_eq!(gone(&less), backend == 2);
        }
        assert!(!all.removed(ListenerId(2), BackendId(1)), "not known yet");
        let unheard = configured(3, |cluster| cluster.listeners.clear());
        assert!(unheard.removed(ListenerId(1), BackendId(1)));
        assert!(!unheard.removed(ListenerId(2), BackendId(1)));
    }

    #[test]
    fn draining_health_and_weight_remove_nothing() {
        let before = configured(2, |_| {});
        let after = configured(2, |cluster| {
            for backend in cluster.groups.get_mut("web").unwrap().backends.values_mut() {
                backend.spec.draining = true;
                backend.spec.weight = 0;
            }
        });
        assert_eq!(before, after);
        assert!(!after.removes_since(&before));
    }

    #[test]
    fn a_removal_is_noticed_once_and_also_if_only_its_end_is_seen() {
        let (nothing, all) = (Configured::default(), configured(3, |_| {}));
        assert!(!configured(4, |_| {}).removes_since(&all), "one more");
        let less = configured(3, |cluster| remove(cluster, "b2"));
        assert!(less.removes_since(&all));
        assert!(!less.removes_since(&less.clone()));
        // After a start, and when a backend came and went while this director looked away.
        let came_and_went = configured(4, |cluster| remove(cluster, "b4"));
        assert!(less.removes_since(&nothing));
        assert!(came_and_went.removes_since(&all));
        assert!(came_and_went.removed(ListenerId(1), BackendId(4)));
    }
}
