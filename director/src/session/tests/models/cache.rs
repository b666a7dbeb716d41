//! L1: what a worker's cache kept of sessions that other threads end.

use loom::thread;

use super::*;

/// Looks a key up as the packet core does: in L1, and then in L2, of which L1 learns.
pub(super) fn forward(table: &SessionTable, cache: &mut FlowCache, key: &FlowKey) -> Option<Slot> {
    let mut out = [None];
    cache.lookup_batch(table, std::slice::from_ref(key), &mut out);
    if let [Some((slot, _))] = out {
        return Some(slot);
    }
    let Lookup::Found(slot, side) = table.lookup(key) else { return None };
    cache.insert(key, slot, side);
    Some(slot)
}

/// The cache knows a session's slot, and the slot becomes another flow's.
#[test]
fn models_a_cached_slot_that_was_used_again_is_noticed() {
    let used_again = Mark::default();
    let mark = used_again.clone();
    check(move || {
        let (table, worker) = table_of(1);
        let mut cache = FlowCache::new(1, 7);
        let slot = table.open(flow(1), 1).unwrap();
        assert_eq!(forward(&table, &mut cache, &key(1)), Some(slot));
        let other = table.clone();
        let control = thread::spawn(move || begins_in_its_place(&other, slot));
        for _ in 0..2 {
            worker.quiescent();
            for n in [2, 1] {
                if let Some(slot) = forward(&table, &mut cache, &key(n)) {
                    assert_eq!(check_whole(&table, slot, n), n);
                    mark.reached_if(n == 2 && cache.stats().stale == 0);
                }
            }
        }
        let begun = control.join().unwrap();
        assert_eq!(forward(&table, &mut cache, &key(1)), None);
        assert_eq!(cache.stats().stale, 1, "dropped when it was met");
        assert_eq!(forward(&table, &mut cache, &key(2)), begun.then_some(slot));
    });
    used_again.assert_reached();
}
