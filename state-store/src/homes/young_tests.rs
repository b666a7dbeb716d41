use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::{ForwardingMode, HalfSeen, Incarnation, SessionFlags};
use proptest::prelude::*;

use super::*;

const LIFE: Life = (DirectorId(1), 1);

const OTHER: Life = (DirectorId(2), 1);

fn alive() -> BTreeMap<DirectorId, u64> {
    [LIFE].into()
}

fn bucket(n: u16) -> Bucket {
    Bucket::of_local_port(n)
}

/// A session of client port `port` that `creator` opened at `stamp`, from an opening with this ISN.
pub(crate) fn record(port: u16, creator: u32, stamp: u64, isn: u32) -> SessionRecord {
    let seen = HalfSeen { age_ms: 5, seq: 0, ack: 0 };
    let client = ([192, 0, 2, 1], port).into();
    let lip = ([198, 51, 100, creator as u8], port).into();
    SessionRecord {
        key: FlowKey::new(Protocol::Tcp, client, ([203, 0, 113, 10], 80).into()),
        reply: FlowKey::new(Protocol::Tcp, ([10, 0, 0, 1], 80).into(), lip),
        incarnation: Incarnation { stamp, creator: DirectorId(creator), counter: stamp, isn },
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(creator),
        mode: ForwardingMode::FullNat,
        owner: DirectorId(creator),
        flags: SessionFlags::CLIENT_OPENED,
        created_age_ms: 10,
        idle_timeout_ms: 900_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: seen,
        backend_seen: seen,
    }
}

fn established(mut record: SessionRecord) -> SessionRecord {
    record.flags =
        record.flags.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED);
    record
}

#[test]
fn both_directions_find_it_and_it_grows_older() {
    let mut young = Young::new(10);
    let said = record(1, 1, 1, 7);
    assert_eq!(young.register(100, bucket(1), LIFE, said.clone()), Registered::Kept);
    for key in [said.key, said.reply] {
        let Known::Session(found) = young.find(140, bucket(1), &key) else { panic!("not found") };
        assert_eq!((found.created_age_ms, found.client.age_ms), (50, 45));
        assert_eq!(found.incarnation, said.incarnation);
    }
    assert_eq!(young.find(140, bucket(1), &record(2, 1, 1, 7).key), Known::Nobody);
}

#[test]
fn who_does_not_own_a_session_adds_what_it_has_heard_and_does_not_take_it() {
    let (first, second) = (record(1, 1, 1, 7), record(2, 1, 1, 8));
    let mut denied = first.clone();
    denied.flags = denied.flags.with(SessionFlags::DENIED);
    denied.backend_seen = HalfSeen { age_ms: 1, seq: 11, ack: 12 };
    let mut answered = first.clone();
    answered.flags = answered.flags.with(SessionFlags::BACKEND_ANSWERED);
    answered.client.seq = 21;
    // In whichever order they come.
    for words in [[(LIFE, &answered), (OTHER, &denied)], [(OTHER, &denied), (LIFE, &answered)]] {
        let mut young = Young::new(10);
        young.set_live(&[LIFE, OTHER].into());
        for (said_by, record) in words {
            assert_eq!(young.register(0, bucket(1), said_by, record.clone()), Registered::Kept);
        }
        let Known::Session(found) = young.find(0, bucket(1), &first.key) else { panic!("lost") };
        assert_eq!(found.flags, answered.flags.with(denied.flags));
        assert_eq!((found.client, found.backend_seen), (answered.client, denied.backend_seen));
        assert_eq!(found.owner, LIFE.0);
        // It is the owner's: an orphan as soon as that one is gone.
        young.register(1, bucket(1), LIFE, established(answered.clone()));
        young.register(1, bucket(1), OTHER, denied.clone());
        young.set_live(&[OTHER].into());
        assert_eq!(young.orphans(2, 10).len(), 1);
    }
    // Nor does it take the place of a twin, which would give way.
    let (older, newer) = (record(3, 1, 5, 7), record(3, 2, 6, 7));
    let mut young = Young::new(10);
    young.register(0, bucket(3), OTHER, newer.clone());
    let registered = young.register(1, bucket(3), (DirectorId(3), 1), older.clone());
    assert!(matches!(registered, Registered::Twin { by, .. } if by == OTHER.0));
    assert_eq!(young.register(2, bucket(3), LIFE, older), Registered::Took(OTHER.0));
    // Who adopts it says that it is his now.
    let mut young = Young::new(10);
    young.register(0, bucket(2), LIFE, second.clone());
    let adopted = SessionRecord { owner: OTHER.0, ..second.clone() };
    young.register(1, bucket(2), OTHER, adopted);
    let Known::Session(found) = young.find(1, bucket(2), &second.key) else { panic!("lost") };
    assert_eq!(found.owner, OTHER.0);
}

#[test]
fn of_two_directors_that_saw_one_opening_the_later_is_told_of_the_earlier() {
    let (earlier, later) = (record(1, 1, 5, 7), record(1, 2, 6, 7));
    // Whoever is heard first: another home may hear them in the other order.
    let mut young = Young::new(10);
    assert_eq!(young.register(0, bucket(1), LIFE, earlier.clone()), Registered::Kept);
    let Registered::Twin { kept, by } = young.register(1, bucket(1), OTHER, later.clone()) else {
        panic!("a twin was not recognised")
    };
    assert_eq!((kept.incarnation, by), (earlier.incarnation, LIFE.0));
    let mut young = Young::new(10);
    assert_eq!(young.register(0, bucket(1), OTHER, later.clone()), Registered::Kept);
    let took = Registered::Took(OTHER.0);
    assert_eq!(young.register(1, bucket(1), LIFE, earlier.clone()), took, "OTHER has to be told");
    // But the backend that the client has agreed with counts more than who was first.
    let agreed = established(later);
    let took = Registered::Took(LIFE.0);
    assert_eq!(young.register(2, bucket(1), OTHER, agreed.clone()), took, "LIFE has to be told");
    let Registered::Twin { kept, by } = young.register(3, bucket(1), LIFE, earlier) else {
        panic!("no twin")
    };
    assert_eq!((kept.incarnation, by), (agreed.incarnation, OTHER.0));
    assert_eq!(young.len(), 1);
}

#[test]
fn a_flow_of_datagrams_stays_with_whoever_registered_it_before() {
    let mut young = Young::new(10);
    let first = record(1, 1, 5, 0);
    young.register(0, bucket(1), LIFE, first.clone());
    for stamp in [4, 6] {
        let later = record(1, 2, stamp, 0);
        let registered = young.register(1, bucket(1), OTHER, later);
        let Registered::Twin { kept, .. } = registered else { panic!("no twin") };
        assert_eq!(kept.incarnation, first.incarnation);
    }
}

#[test]
fn a_new_use_of_the_key_takes_its_place_and_an_old_one_does_not() {
    let mut young = Young::new(10);
    let old = record(1, 1, 5, 7);
    let new = record(1, 2, 6, 8);
    young.register(0, bucket(1), LIFE, old.clone());
    assert_eq!(young.register(1, bucket(1), LIFE, new.clone()), Registered::Kept);
    assert_eq!(young.register(2, bucket(1), LIFE, old.clone()), Registered::Older);
    assert_eq!(young.find(2, bucket(1), &old.reply), Known::Nobody, "its reply key is gone");
    assert!(matches!(young.find(2, bucket(1), &new.reply), Known::Session(_)));
}

#[test]
fn a_full_home_is_unsure_of_the_bucket_it_turned_away_and_of_no_other() {
    let mut young = Young::new(1);
    young.register(0, bucket(1), LIFE, record(1, 1, 1, 1));
    assert_eq!(young.register(10, bucket(2), LIFE, record(2, 1, 1, 1)), Registered::Full);
    let absent = record(3, 1, 1, 1).key;
    assert_eq!(young.find(11, bucket(2), &absent), Known::Unsure);
    assert_eq!(young.find(11, bucket(3), &absent), Known::Nobody);
    assert_eq!(young.find(10 + KEPT_MS, bucket(2), &absent), Known::Nobody);
    assert_eq!(young.turned_away(), 1);
}

#[test]
fn a_full_home_drops_what_should_have_been_repeated() {
    let mut young = Young::new(2);
    young.set_live(&alive());
    young.register(0, bucket(1), OTHER, established(record(1, 2, 1, 1)));
    young.register(1, bucket(2), LIFE, established(record(2, 1, 1, 1)));
    let newcomer = |n| established(record(n, 1, 1, 1));
    assert_eq!(young.register(OVER_MS, bucket(3), LIFE, newcomer(3)), Registered::Full);
    // Not what is not repeated because its owner is gone.
    assert_eq!(young.register(OVER_MS + 1, bucket(4), LIFE, newcomer(4)), Registered::Kept);
    assert!(matches!(
        young.find(OVER_MS + 1, bucket(1), &record(1, 2, 1, 1).key),
        Known::Session(_)
    ));
    let gone = record(2, 1, 1, 1).key;
    assert_eq!(young.find(OVER_MS + 1, bucket(2), &gone), Known::Unsure, "it may be alive");
    assert_eq!((young.len(), young.turned_away()), (2, 1));
}

#[test]
fn a_flood_of_half_open_sessions_has_its_share_and_gives_way() {
    let mut young = Young::new(8);
    young.set_live(&alive());
    let (open, half) = (|n| established(record(n, 1, 1, 1)), |n| record(n, 1, 1, 1));
    assert_eq!(young.register(0, bucket(1), LIFE, half(1)), Registered::Kept);
    assert_eq!(young.register(1, bucket(2), LIFE, half(2)), Registered::Kept);
    assert_eq!(young.register(2, bucket(3), LIFE, half(3)), Registered::Full);
    // Those that are completed make room for others.
    assert_eq!(young.register(3, bucket(2), LIFE, open(2)), Registered::Kept);
    assert_eq!(young.register(4, bucket(4), LIFE, half(4)), Registered::Kept);
    for n in 5..10 {
        assert_eq!(young.register(5, bucket(n), LIFE, open(n)), Registered::Kept);
    }
    assert_eq!(young.len(), 8);
    assert_eq!(young.register(6, bucket(10), LIFE, open(10)), Registered::Kept);
    assert_eq!(young.find(7, bucket(1), &half(1).key), Known::Unsure, "the oldest gave way");
    assert_eq!(young.register(8, bucket(11), LIFE, open(11)), Registered::Kept);
    assert_eq!(young.register(9, bucket(12), LIFE, open(12)), Registered::Full, "all established");
    assert_eq!((young.half_open(), young.half_open_capacity()), (0, 2));
    assert_eq!((young.evicted(), young.turned_away()), (2, 2));
    // One that is over gives its place to another.
    let mut young = Young::new(4);
    young.set_live(&alive());
    young.register(0, bucket(1), LIFE, half(1));
    assert_eq!(young.register(OVER_MS - 1, bucket(2), LIFE, half(2)), Registered::Full);
    assert_eq!(young.register(OVER_MS, bucket(2), LIFE, half(2)), Registered::Kept);
}

#[test]
fn what_is_repeated_stays_and_what_is_not_goes() {
    let mut young = Young::new(10);
    young.set_live(&alive());
    young.register(0, bucket(1), LIFE, record(1, 1, 1, 1));
    young.register(0, bucket(2), LIFE, record(2, 1, 1, 1));
    young.register(20_000, bucket(1), LIFE, record(1, 1, 1, 1));
    young.expire(KEPT_MS);
    assert_eq!(young.len(), 1);
    assert!(matches!(young.find(KEPT_MS, bucket(1), &record(1, 1, 1, 1).key), Known::Session(_)));
    young.expire(20_000 + KEPT_MS);
    assert!(young.is_empty() && young.replies.is_empty() && young.order.is_empty());
}

#[test]
fn a_director_replaces_its_own_and_a_local_port_has_one_session() {
    let mut young = Young::new(10);
    // Datagrams have no number of their own: a new use of the key by the same director is no twin.
    young.register(0, bucket(1), LIFE, record(1, 1, 5, 0));
    assert_eq!(young.register(1, bucket(1), LIFE, record(1, 1, 6, 0)), Registered::Kept);
    let mut next = record(2, 1, 7, 0);
    next.reply = record(1, 1, 6, 0).reply;
    assert_eq!(young.register(2, bucket(2), LIFE, next.clone()), Registered::Kept);
    let Known::Session(found) = young.find(3, bucket(2), &next.reply) else { panic!("not found") };
    assert_eq!(found.key, next.key);
    assert_eq!((young.len(), young.replies.len()), (1, 1));
}

#[test]
fn what_a_dead_director_has_said_outlives_it() {
    let mut young = Young::new(10);
    young.set_live(&alive());
    let said = record(1, 1, 1, 1);
    young.register(0, bucket(1), LIFE, said.clone());
    young.set_live(&[(DirectorId(1), 2)].into());
    young.expire(KEPT_MS);
    // It came back without its memory: nobody but this home knows the session.
    let Known::Session(found) = young.find(100_000, bucket(1), &said.key) else { panic!("lost") };
    assert_eq!(found.created_age_ms, 100_010);
    assert_eq!(young.find(900_000 + KEPT_MS, bucket(1), &said.key), Known::Nobody);
    assert!(young.is_empty() && young.order.is_empty());
}

#[test]
fn what_a_dead_director_has_said_is_handed_to_its_shard_until_it_is_applied() {
    let mut young = Young::new(10);
    young.set_live(&[LIFE, OTHER].into());
    let said: Vec<SessionRecord> = (1..=3).map(|n| established(record(n, 1, 1, 7))).collect();
    for (n, one) in (1..).zip(&said) {
        young.register(0, bucket(n), LIFE, one.clone());
    }
    young.register(0, bucket(4), LIFE, record(4, 1, 1, 7));
    young.register(0, bucket(5), OTHER, established(record(5, 2, 1, 7)));
    assert!(young.orphans(10, 10).is_empty() && !young.has_orphans());
    young.set_live(&[OTHER].into());
    assert!(young.has_orphans(), "maybe: nothing was looked at");
    // Not the half-open one, and not that of the living.
    let mut due = young.orphans(20, 2);
    due.extend(young.orphans(21, 2));
    let mut ports: Vec<u16> = due.iter().map(|o| o.record.key.src_port).collect();
    ports.sort();
    assert_eq!(ports, [1, 2, 3]);
    assert!(due.iter().all(|o| !o.again && o.record.created_age_ms >= 30), "older by now");
    assert!(young.orphans(22, 10).is_empty());
    young.applied(&said[0].key, &said[0].incarnation);
    // Somebody else carries the second one now.
    let adopted = SessionRecord { owner: OTHER.0, ..said[1].clone() };
    young.register(30, bucket(2), OTHER, adopted);
    let again = young.orphans(21 + HAND_OVER_MS, 10);
    assert_eq!(
        again.iter().map(|o| (o.record.key.src_port, o.again)).collect::<Vec<_>>(),
        [(3, true)]
    );
    assert!(young.has_orphans());
    young.applied(&said[2].key, &said[2].incarnation);
    assert!(young.orphans(22 + 2 * HAND_OVER_MS, 10).is_empty() && !young.has_orphans());
    // Last words that were heard late.
    young.register(5_000, bucket(6), LIFE, established(record(6, 1, 1, 7)));
    assert_eq!(young.orphans(5_000, 10).len(), 1);
    // It was not dead.
    young.set_live(&[LIFE, OTHER].into());
    assert!(young.orphans(9_000, 10).is_empty() && !young.has_orphans());
}

#[test]
fn sessions_of_the_dead_are_looked_for_in_steps() {
    const SAID: u16 = 3 * STEP as u16;
    let mut young = Young::new(usize::MAX);
    young.set_live(&[LIFE, OTHER].into());
    for n in 0..SAID {
        let (creator, said_by) = if n % 3 == 0 { (2, OTHER) } else { (1, LIFE) };
        young.register(0, bucket(n % 64), said_by, established(record(n, creator, 1, 7)));
    }
    // Whoever joins leaves nothing to be looked for.
    young.set_live(&[LIFE, OTHER, (DirectorId(3), 1)].into());
    assert!(!young.has_orphans());
    young.set_live(&[OTHER].into());
    assert!(young.orphans.is_empty(), "nobody waits for a walk over all");
    let mut due = Vec::new();
    for step in 1..=3 {
        assert!(young.has_orphans(), "maybe");
        due.extend(young.orphans(10, 1));
        assert!(young.orphans.len() <= step * STEP);
        assert_eq!(young.unlooked.is_some(), step < 3, "a step is neither more nor less");
    }
    while due.len() < usize::from(SAID) * 2 / 3 {
        due.extend(young.orphans(10, 100));
    }
    let ports: Vec<u16> = due.iter().map(|o| o.record.key.src_port).collect();
    assert_eq!(ports, (0..SAID).filter(|n| n % 3 != 0).collect::<Vec<_>>(), "each once, in order");
    assert!(young.orphans(10, 100).is_empty());
    // It was not dead: to see that of all of them takes its steps, too.
    young.set_live(&[LIFE, OTHER].into());
    for left in [STEP, 0] {
        assert!(young.has_orphans() && young.orphans(2_000, 100).is_empty());
        assert_eq!(young.orphans.len(), left);
    }
    assert!(!young.has_orphans());
}

#[test]
fn what_is_mentioned_again_is_not_missed_by_the_search() {
    let mut young = Young::new(10);
    young.set_live(&[LIFE, OTHER].into());
    young.register(0, bucket(1), OTHER, established(record(1, 2, 1, 7)));
    for n in 2..5 {
        young.register(0, bucket(n), LIFE, established(record(n, 1, 1, 7)));
    }
    young.set_live(&[OTHER].into());
    // The first is over; the second goes behind all others, where nobody looks.
    young.forget(KEPT_MS, 2);
    assert_eq!((young.len(), young.orphans.len()), (3, 1));
    young.look(1);
    assert_eq!(young.orphans.len(), 2);
    let ports: Vec<u16> =
        young.orphans(KEPT_MS, 10).iter().map(|o| o.record.key.src_port).collect();
    assert_eq!(ports, [2, 3, 4]);
    assert!(young.unlooked.is_none());
}

#[test]
fn what_is_out_of_date_is_forgotten_in_steps() {
    let mut young = Young::new(usize::MAX);
    young.set_live(&alive());
    for n in 0..2 * STEP as u16 {
        young.register(0, bucket(n % 64), LIFE, established(record(n, 1, 1, 7)));
    }
    let newest = record(2 * STEP as u16 - 1, 1, 1, 7).key;
    assert!(matches!(young.find(KEPT_MS, bucket(1), &newest), Known::Session(_)));
    assert_eq!(young.len(), 2 * STEP - FORGOTTEN);
    young.orphans(KEPT_MS, 16);
    assert_eq!(young.len(), STEP - FORGOTTEN);
    young.orphans(KEPT_MS, 16);
    assert!(young.is_empty() && young.replies.is_empty() && young.order.is_empty());
}

#[test]
fn what_a_replica_has_is_forgotten_though_nobody_has_looked_for_orphans() {
    let mut young = Young::new(10);
    young.set_live(&[LIFE, OTHER].into());
    young.register(0, bucket(1), LIFE, established(record(1, 1, 1, 7)));
    young.set_live(&[OTHER].into());
    young.replicated(&established(record(1, 2, 2, 8)));
    assert!(young.is_empty());
}

#[test]
fn whoever_is_gone_and_talks_is_handed_over_once() {
    let mut young = Young::new(10);
    young.set_live(&alive());
    let said = established(record(1, 2, 1, 7));
    for _ in 0..1_000 {
        young.register(10, bucket(1), OTHER, said.clone());
    }
    assert_eq!(young.orphans.len(), 1);
    assert_eq!(young.orphans(10, 10).len(), 1);
    // To say it again does not bring its turn any nearer.
    young.register(20, bucket(1), OTHER, said.clone());
    assert!(young.orphans(20, 10).is_empty());
    let again = young.orphans(10 + HAND_OVER_MS, 10);
    assert_eq!(again.iter().map(|o| o.again).collect::<Vec<_>>(), [true]);
    assert_eq!((young.waiting_orphans(), young.handed_over()), (1, 1), "each counts once");
    // A newer use of the key is another session.
    young.register(2_000, bucket(1), OTHER, established(record(1, 2, 2, 8)));
    let other = young.orphans(2_000, 10);
    assert_eq!(other.iter().map(|o| o.again).collect::<Vec<_>>(), [false]);
    for _ in 0..1_000 {
        young.applied(&said.key, &record(1, 2, 2, 8).incarnation);
        assert!(!young.has_orphans());
        young.register(2_000, bucket(1), OTHER, established(record(1, 2, 2, 8)));
    }
    assert_eq!(young.orphans.len(), 1);
}

#[test]
fn what_is_applied_makes_room() {
    let mut young = Young::new(1);
    let said = record(1, 1, 1, 1);
    young.register(0, bucket(1), LIFE, said.clone());
    young.applied(&said.key, &record(1, 1, 2, 2).incarnation);
    assert_eq!(young.len(), 1, "another use of the key");
    young.applied(&said.key, &said.incarnation);
    assert_eq!(young.find(1, bucket(1), &said.reply), Known::Nobody);
    assert_eq!(young.register(2, bucket(2), LIFE, record(2, 1, 1, 1)), Registered::Kept);
}

proptest! {
    /// Whatever is said and whoever dies, the tables agree, the bound holds, no orphan is missed, and
    /// nothing stays for ever.
    #[test]
    fn the_tables_agree(said in proptest::collection::vec(
        (0u16..12, 1u32..4, 0u64..6, 0u32..3, any::<bool>(), 0u64..9_000, 0u8..20), 0..200,
    )) {
        let mut young = Young::new(8);
        young.set_live(&alive());
        let mut now = 0;
        for (port, creator, stamp, isn, agreed, later, event) in said {
            now += later;
            match event {
                0 => young.set_live(&alive()),
                1 => young.set_live(&[OTHER].into()),
                2 => young.set_live(&[LIFE, OTHER].into()),
                3..6 => young.look(usize::from(event) - 2),
                6 => { young.orphans(now, 2); }
                7 => young.replicated(&established(record(port, creator, stamp, isn))),
                _ => {}
            }
            let one = record(port, creator, stamp, isn);
            let one = if agreed { established(one) } else { one };
            let said_by = if creator == 3 { OTHER } else { LIFE };
            young.register(now, bucket(port), said_by, one);
            prop_assert!(young.len() <= 8);
            prop_assert_eq!(young.replies.len(), young.len());
            for (reply, client) in &young.replies {
                prop_assert_eq!(&young.entries[client].record.reply, reply);
            }
            prop_assert_eq!(young.order.len(), young.len());
            let half_open = young.entries.values().filter(|e| !e.record.flags.established());
            prop_assert_eq!(half_open.count(), young.half_open.len());
            for (key, entry) in &young.entries {
                prop_assert_eq!(young.order.get(&entry.mention), Some(key));
                let half_open = (!entry.record.flags.established()).then_some(key);
                prop_assert_eq!(young.half_open.get(&entry.said), half_open);
                if let Some(turn) = &entry.turn {
                    prop_assert_eq!(young.orphans.get(turn), Some(key));
                } else if is_orphan(entry, &young.live) {
                    let unlooked = young.unlooked.as_ref().is_some_and(|u| u.contains(&entry.mention));
                    prop_assert!(unlooked, "missed");
                }
            }
            let turns = young.entries.values().filter(|e| e.turn.is_some()).count();
            prop_assert_eq!(turns, young.orphans.len());
            let times: Vec<u64> =
                young.order.values().map(|key| young.entries[key].mention_ms).collect();
            prop_assert!(times.is_sorted());
        }
        while young.unlooked.is_some() {
            young.look(1);
        }
        let mut orphans = young.entries.values().filter(|e| is_orphan(e, &young.live));
        prop_assert!(orphans.all(|e| e.turn.is_some()));
        young.expire(now + 900_000 + KEPT_MS);
        prop_assert!(young.is_empty() && young.replies.is_empty() && young.order.is_empty());
        prop_assert!(young.orphans.is_empty() && young.half_open.is_empty());
    }
}
