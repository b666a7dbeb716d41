//! A connection that takes the place of another one in the middle of a session.

use holdfast_schema::session::SessionSink;

use super::super::OpenError;
use super::super::key::PackedKey;
use super::super::record::{DEFAULT_AFTER, pack, word};
use super::*;

const ISN: u32 = 0x8000_0000;

#[test]
fn both_keys_go_over_to_the_new_use_as_soon_as_the_index_is_free() {
    let (table, handle) = table(8);
    let said = record(1, 1, 5_000, established());
    table.created(&said);
    let (old, _) = found(&table, &key(1)).unwrap();
    let begin = || table.begin_again(old, ISN, 1_000, 60);
    for held in [key(1), reply(1)] {
        let held = table.l2.hold_reading(&PackedKey::new(&held));
        assert_eq!(begin(), Err(OpenError::Contended));
        drop(held);
        assert!(found(&table, &key(1)).is_some() && found(&table, &reply(1)).is_some());
    }
    let new = begin().unwrap();
    assert_eq!(found(&table, &key(1)), Some((new, Side::Client)));
    assert_eq!(found(&table, &reply(1)), Some((new, Side::Backend)));
    let session = table.session(new);
    assert_eq!((session.incarnation().isn, session.incarnation().stamp), (ISN, 5_001));
    assert_eq!((session.mode(), session.backend()), (ForwardingMode::FullNat, said.backend));
    assert_eq!(session.record.get(word::TIMES), pack(900_000, DEFAULT_AFTER));
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, table.class_used(&reply(1))), (1, 1, 1));
    assert_eq!(begin(), Err(OpenError::Contended), "once is enough");
    // Nothing but the new one is left, and then nothing.
    assert!(table.remove(new, &key(1)));
    handle.quiescent();
    table.reclaim(8);
    let stats = table.stats();
    assert_eq!((stats.sessions, stats.half_open, table.class_used(&reply(1))), (0, 0, 0));
}
