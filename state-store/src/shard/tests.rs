use std::sync::Mutex;

use holdfast_schema::bucket::ShardId;
use holdfast_schema::cluster::{BackendId, DirectorId, ListenerId};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::{
    CLOSE_LINGER_MS, ForwardingMode, HALF_OPEN_LINGER_MS, Known, SessionFlags,
};
use proptest::prelude::*;

use super::*;

pub(crate) fn key(n: u16) -> FlowKey {
    let client = std::net::SocketAddr::from(([192, 0, 2, 1], 10_000 + n));
    FlowKey::new(Protocol::Tcp, client, "203.0.113.10:80".parse().unwrap())
}

pub(crate) fn record(n: u16, stamp: u64, age_ms: u32) -> SessionRecord {
    let established = SessionFlags::CLIENT_OPENED
        .with(SessionFlags::BACKEND_ANSWERED)
        .with(SessionFlags::ESTABLISHED);
    let half = HalfSeen { age_ms, seq: 1, ack: 1 };
    SessionRecord {
        key: key(n),
        reply: key(n).reversed(),
        incarnation: Incarnation { stamp, creator: DirectorId(1), counter: u64::from(n), isn: 7 },
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        owner: DirectorId(1),
        flags: established,
        created_age_ms: age_ms,
        idle_timeout_ms: 60_000,
        isn_delta: 0,
        timestamp_delta: 0,
        client: half,
        backend_seen: half,
    }
}

fn update(n: u16, stamp: u64, from: u32, age_ms: u32, flags: SessionFlags) -> SessionUpdate {
    SessionUpdate {
        key: key(n),
        incarnation: record(n, stamp, 0).incarnation,
        from: DirectorId(from),
        owner: DirectorId(from),
        flags,
        client: Some(HalfSeen { age_ms, seq: 100 + age_ms, ack: 2 }),
        backend_seen: None,
    }
}

pub(crate) fn entry(elapsed_ms: u32, changes: Vec<SessionChange>) -> Vec<u8> {
    let batches = vec![codec::encode(&ChangeBatch { changes })];
    codec::encode(&ShardEntry { elapsed_ms, batches })
}

fn shard() -> Shard {
    Shard::new()
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl SessionSink for Seen {
    fn created(&self, r: &SessionRecord) {
        self.0.lock().unwrap().push(format!("created {}", r.incarnation.stamp));
    }
    fn updated(&self, u: &SessionUpdate) {
        self.0.lock().unwrap().push(format!("updated {}", u.incarnation.stamp));
    }
    fn expired(&self, _: &FlowKey, i: &Incarnation) {
        self.0.lock().unwrap().push(format!("expired {}", i.stamp));
    }
    fn installed(&self, _: ShardId, _: &[SessionRecord]) {}
    fn twin(&self, _first: &SessionRecord) {}
    fn find(&self, _: &FlowKey) -> Known {
        Known::Nobody
    }
}

#[test]
fn the_newer_incarnation_wins_and_late_news_of_the_older_touch_nothing() {
    let (mut shard, seen) = (shard(), Seen::default());
    let changes = vec![
        SessionChange::Create(record(1, 5, 0)),
        SessionChange::Create(record(1, 9, 0)),
        SessionChange::Create(record(1, 5, 0)),
        SessionChange::Update(update(1, 5, 2, 0, SessionFlags::RESET)),
        SessionChange::Expire {
            key: key(1),
            incarnation: record(1, 5, 0).incarnation,
            last_seen_ms: 1 << 40,
        },
    ];
    shard.apply(&entry(0, changes), Some(&seen)).unwrap();
    let kept = shard.find(&key(1)).unwrap();
    assert_eq!((kept.incarnation.stamp, kept.flags.closing()), (9, false));
    // A late create is answered with what is kept, so its sender learns of the newer one.
    assert_eq!(*seen.0.lock().unwrap(), ["created 5", "created 9", "created 9"]);
}

/// A director without a quorum that is short of room frees half-open records, also those that the store has.
#[test]
fn what_becomes_established_is_told_as_a_whole_to_who_may_have_dropped_it() {
    let (mut shard, seen) = (shard(), Seen::default());
    let half_open = |n| {
        let mut record = record(n, 5, 0);
        record.flags = SessionFlags::CLIENT_OPENED;
        SessionChange::Create(record)
    };
    let told = |shard: &mut Shard, n, flags| {
        let established = SessionChange::Update(update(n, 5, 2, 0, flags));
        shard.apply(&entry(0, vec![established]), Some(&seen)).unwrap();
        std::mem::take(&mut *seen.0.lock().unwrap())
    };
    shard.apply(&entry(0, vec![half_open(1), half_open(2)]), None).unwrap();
    let established = SessionFlags::ESTABLISHED;
    assert_eq!(told(&mut shard, 1, SessionFlags::BACKEND_ANSWERED), ["updated 5"]);
    assert_eq!(told(&mut shard, 1, established), ["updated 5", "created 5"]);
    assert_eq!(told(&mut shard, 1, established), ["updated 5"], "everybody has it");
    let over = established.with(SessionFlags::RESET);
    assert_eq!(told(&mut shard, 2, over), ["updated 5"], "nobody needs what is over");
}

#[test]
fn a_simulation_can_make_it_take_late_news_for_news_of_the_newer_session() {
    let mut shard = shard();
    shard.set_without_incarnations();
    let late = update(1, 5, 2, 0, SessionFlags::RESET);
    let changes = vec![SessionChange::Create(record(1, 9, 0)), SessionChange::Update(late)];
    shard.apply(&entry(0, changes), None).unwrap();
    assert!(shard.find(&key(1)).unwrap().flags.closing());
    // And a newer session for the one it keeps.
    shard.apply(&entry(0, vec![SessionChange::Create(record(1, 11, 0))]), None).unwrap();
    assert_eq!(shard.find(&key(1)).unwrap().incarnation.stamp, 9);
}

#[test]
fn a_half_open_twin_of_the_same_syn_does_not_end_an_established_session() {
    // A SYN is repeated across a rehash: director 2 opens a session of its own, with a newer stamp.
    let mut twin = record(1, 9, 0);
    twin.incarnation.creator = DirectorId(2);
    twin.flags = SessionFlags::CLIENT_OPENED;
    let established = || SessionChange::Create(record(1, 5, 0));
    let half_open = || SessionChange::Create(twin.clone());
    for changes in [vec![established(), half_open()], vec![half_open(), established()]] {
        let mut shard = shard();
        shard.apply(&entry(0, changes), None).unwrap();
        assert_eq!(shard.find(&key(1)).unwrap().incarnation.stamp, 5);
        // A new connection of the client has another initial sequence number.
        let mut next = twin.clone();
        next.incarnation.isn = 8;
        shard.apply(&entry(0, vec![SessionChange::Create(next)]), None).unwrap();
        assert_eq!(shard.find(&key(1)).unwrap().incarnation.isn, 8);
    }
    // So it is when it is over: the client agrees with nobody else any more.
    let mut over = record(1, 5, 0);
    over.flags = over.flags.with(SessionFlags::RESET);
    let mut shard = shard();
    shard.apply(&entry(0, vec![SessionChange::Create(over), half_open()]), None).unwrap();
    assert_eq!(shard.find(&key(1)).unwrap().incarnation.stamp, 5);
}

#[test]
fn of_two_half_open_twins_the_older_one_stays_in_whichever_order_they_come() {
    let older = SessionRecord { flags: SessionFlags::CLIENT_OPENED, ..record(1, 5, 0) };
    let mut newer = SessionRecord { flags: SessionFlags::CLIENT_OPENED, ..record(1, 9, 0) };
    newer.incarnation.creator = DirectorId(2);
    for (first, second) in [(&older, &newer), (&newer, &older)] {
        let mut shard = shard();
        let creates = [first, second].map(|record| SessionChange::Create(record.clone()));
        shard.apply(&entry(0, creates.to_vec()), None).unwrap();
        assert_eq!(shard.find(&key(1)).unwrap().incarnation, older.incarnation);
    }
}

#[test]
fn a_late_create_does_not_bring_a_closed_session_back() {
    let mut shard = shard();
    let late = || SessionChange::Create(record(1, 5, 0));
    let close = SessionChange::Update(update(1, 5, 1, 0, SessionFlags::RESET));
    let expire = || SessionChange::Expire {
        key: key(1),
        incarnation: record(1, 5, 0).incarnation,
        last_seen_ms: 1 << 40,
    };
    shard.apply(&entry(1_000, vec![late(), close, expire(), late()]), None).unwrap();
    assert!(shard.is_empty());
    // Others that came from its image know as well.
    let mut other = Shard::load(shard.image()).unwrap();
    other.apply(&entry(CLOSE_LINGER_MS, vec![late()]), None).unwrap();
    assert!(other.is_empty());
    // Whoever still sees packets knows of the end, and may keep it.
    let mut veto = record(1, 5, 0);
    veto.flags = veto.flags.with(SessionFlags::RESET);
    shard.apply(&entry(0, vec![SessionChange::Create(veto)]), None).unwrap();
    assert_eq!(shard.len(), 1);
    // The client's next connection from the same port is another session.
    let next = SessionChange::Create(record(1, 9, 0));
    other.apply(&entry(0, vec![next, late()]), None).unwrap();
    assert_eq!(other.find(&key(1)).unwrap().incarnation.stamp, 9);
    // What was only idle may come back: whoever is alive keeps it.
    let mut idle = Shard::new();
    idle.apply(&entry(0, vec![late(), expire(), late()]), None).unwrap();
    assert_eq!(idle.len(), 1);
}

#[test]
fn what_is_remembered_of_closed_sessions_goes_in_the_end() {
    let mut shard = shard();
    let mut closed = record(1, 5, 0);
    closed.flags = closed.flags.with(SessionFlags::RESET);
    let expire = SessionChange::Expire {
        key: key(1),
        incarnation: closed.incarnation,
        last_seen_ms: 1 << 40,
    };
    shard.apply(&entry(0, vec![SessionChange::Create(closed), expire]), None).unwrap();
    let tombs = |dirty: &Dirty, there: bool| {
        dirty.records.iter().any(|(k, v)| k.first() == Some(&b't') && v.is_some() == there)
    };
    assert!(tombs(&shard.take_dirty(), true));
    shard.apply(&entry(32_000, vec![]), None).unwrap();
    assert!(tombs(&shard.take_dirty(), false));
    assert_eq!(shard.image().len(), 1, "the clock only");
}

#[test]
fn halves_merge_by_the_later_as_one_unit() {
    let mut shard = shard();
    shard.apply(&entry(1_000, vec![SessionChange::Create(record(1, 5, 100))]), None).unwrap();
    let older = SessionChange::Update(update(1, 5, 1, 200, SessionFlags::CLIENT_FIN));
    shard.apply(&entry(0, vec![older]), None).unwrap();
    let kept = shard.find(&key(1)).unwrap();
    assert_eq!((kept.client.seq, kept.client.age_ms), (1, 100), "older news keep the half");
    assert!(kept.flags.has(SessionFlags::CLIENT_FIN), "but their flags count");
    let newer = SessionChange::Update(update(1, 5, 2, 50, SessionFlags::default()));
    shard.apply(&entry(0, vec![newer]), None).unwrap();
    let kept = shard.find(&key(1)).unwrap();
    assert_eq!((kept.client.seq, kept.client.age_ms), (150, 50));
    assert_eq!(kept.owner, DirectorId(2), "who forwards the client owns");
    // The clock moves in steps, and the end of a handshake comes within one.
    let mut at_once = update(1, 5, 2, 50, SessionFlags::default());
    at_once.client.as_mut().unwrap().ack = 77;
    shard.apply(&entry(0, vec![SessionChange::Update(at_once)]), None).unwrap();
    assert_eq!(shard.find(&key(1)).unwrap().client.ack, 77, "the later told of two as old");
}

#[test]
fn an_expiry_does_nothing_if_something_newer_got_in_between() {
    let (mut shard, seen) = (shard(), Seen::default());
    shard.apply(&entry(0, vec![SessionChange::Create(record(1, 5, 0))]), Some(&seen)).unwrap();
    let expire = SessionChange::Expire {
        key: key(1),
        incarnation: record(1, 5, 0).incarnation,
        last_seen_ms: 0,
    };
    let refresh = SessionChange::Update(update(1, 5, 1, 0, SessionFlags::default()));
    shard.apply(&entry(10, vec![refresh, expire.clone()]), Some(&seen)).unwrap();
    assert_eq!(shard.len(), 1);
    let late = SessionChange::Expire {
        key: key(1),
        incarnation: record(1, 5, 0).incarnation,
        last_seen_ms: 10,
    };
    shard.apply(&entry(0, vec![late]), Some(&seen)).unwrap();
    assert!(shard.is_empty());
    assert_eq!(seen.0.lock().unwrap().last().unwrap(), "expired 5");
}

/// How long an open session of [`record`]'s may be unheard of: its idle timeout, the quarter of it within which
/// an owner tells of a packet, and the time in which the end of an owner is noticed.
const UNTOLD_MS: u32 = 60_000 + 15_000 + 2_000;

const LIVES: Standing = Standing { incarnation: 0, down: false };

/// What a leader finds that has led for long, or that has just begun.
fn due(expiry: &mut Expiry, shard: &Shard, now_ms: u64, owner: Standing) -> usize {
    expiry.step(shard, now_ms, &|_| owner).len()
}

#[test]
fn idle_sessions_are_found() {
    let mut shard = shard();
    let mut closed = record(2, 5, 0);
    closed.flags = closed.flags.with(SessionFlags::RESET);
    let changes = vec![SessionChange::Create(record(1, 5, 0)), SessionChange::Create(closed)];
    shard.apply(&entry(0, changes), None).unwrap();
    let due = |shard: &Shard| due(&mut Expiry::default(), shard, 10_000, LIVES);
    assert_eq!(due(&shard), 0);
    shard.apply(&entry(CLOSE_LINGER_MS + 1, vec![]), None).unwrap();
    assert_eq!(due(&shard), 1, "the closed one");
    shard.apply(&entry(UNTOLD_MS - CLOSE_LINGER_MS - 1, vec![]), None).unwrap();
    assert_eq!(due(&shard), 1, "its owner may not have told of its last packet yet");
    shard.apply(&entry(1, vec![]), None).unwrap();
    assert_eq!(due(&shard), 2);
}

#[test]
fn a_half_open_session_has_a_quarter_of_its_own_limit_more() {
    let mut shard = shard();
    let mut half_open = record(1, 5, 0);
    half_open.flags = SessionFlags::CLIENT_OPENED;
    half_open.idle_timeout_ms = 900_000;
    let limit = HALF_OPEN_LINGER_MS + HALF_OPEN_LINGER_MS / 4 + 2_000;
    shard.apply(&entry(0, vec![SessionChange::Create(half_open)]), None).unwrap();
    shard.apply(&entry(limit, vec![]), None).unwrap();
    assert_eq!(due(&mut Expiry::default(), &shard, 10_000, LIVES), 0);
    shard.apply(&entry(1, vec![]), None).unwrap();
    assert_eq!(due(&mut Expiry::default(), &shard, 10_000, LIVES), 1);
}

/// Its owner saw a packet just before the idle timeout was over, and died before it told of it, which was
/// seen two seconds later.
#[test]
fn what_an_owner_took_along_does_not_expire_before_its_end_is_noticed() {
    for end in [Standing { down: true, ..LIVES }, Standing { incarnation: 1, ..LIVES }] {
        let (mut shard, mut expiry) = (shard(), Expiry::default());
        shard.apply(&entry(0, vec![SessionChange::Create(record(1, 5, 0))]), None).unwrap();
        shard.apply(&entry(60_000 + 15_000 - 1, vec![]), None).unwrap();
        assert_eq!(due(&mut expiry, &shard, 10_000, LIVES), 0);
        shard.apply(&entry(2_000, vec![]), None).unwrap();
        assert_eq!(due(&mut expiry, &shard, 20_000, end), 0);
        shard.apply(&entry(60_000, vec![]), None).unwrap();
        assert_eq!(due(&mut expiry, &shard, 30_000, end), 0, "idle from then on");
    }
}

/// Until its end it may have seen packets that it had not told of yet.
#[test]
fn what_a_dead_owner_had_is_idle_from_its_death_on() {
    let mut shard = shard();
    shard.apply(&entry(0, vec![SessionChange::Create(record(1, 5, 0))]), None).unwrap();
    let mut expiry = Expiry::default();
    shard.apply(&entry(59_000, vec![]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 10_000, LIVES), 0);
    let dead = Standing { down: true, ..LIVES };
    assert_eq!(due(&mut expiry, &shard, 20_000, dead), 0);
    // A refresh period more: somebody may have taken over, and tells of it with the next refresh.
    shard.apply(&entry(UNTOLD_MS, vec![]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 30_000, dead), 0);
    shard.apply(&entry(1, vec![]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 40_000, dead), 1);
    assert_eq!(due(&mut Expiry::default(), &shard, 40_000, dead), 0, "who leads anew cannot know");
}

/// It may be back before anybody has missed it, and its memory is gone all the same.
#[test]
fn what_an_owner_had_that_has_started_again_is_idle_from_then_on() {
    let mut shard = shard();
    shard.apply(&entry(0, vec![SessionChange::Create(record(1, 5, 0))]), None).unwrap();
    let mut expiry = Expiry::default();
    shard.apply(&entry(59_000, vec![]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 10_000, LIVES), 0);
    let again = Standing { incarnation: 1, ..LIVES };
    assert_eq!(due(&mut expiry, &shard, 20_000, again), 0);
    shard.apply(&entry(UNTOLD_MS, vec![]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 30_000, again), 0);
    let mut later = record(2, 5, UNTOLD_MS + 1);
    later.incarnation.counter |= 1 << 32;
    shard.apply(&entry(1, vec![SessionChange::Create(later)]), None).unwrap();
    assert_eq!(due(&mut expiry, &shard, 40_000, again), 2, "also one of its new life");
    let anew = &mut Expiry::default();
    assert_eq!(due(anew, &shard, 40_000, again), 1, "its own word on that one is exact");
}

/// Each FIN was seen by another director, and the second one tells of it when the linger would be over.
#[test]
fn linger_begins_when_both_ends_are_known_here() {
    let mut shard = shard();
    let fin = |from, age_ms, flags| SessionChange::Update(update(1, 5, from, age_ms, flags));
    let first = fin(1, 0, SessionFlags::CLIENT_FIN);
    shard.apply(&entry(0, vec![SessionChange::Create(record(1, 5, 0)), first]), None).unwrap();
    let late = 2 * CLOSE_LINGER_MS;
    let second = || fin(2, late - 1, SessionFlags::BACKEND_FIN);
    shard.apply(&entry(late, vec![second()]), None).unwrap();
    let due = |shard: &Shard| due(&mut Expiry::default(), shard, 10_000, LIVES);
    shard.apply(&entry(CLOSE_LINGER_MS, vec![second()]), None).unwrap();
    assert_eq!(due(&shard), 0);
    shard.apply(&entry(1, vec![]), None).unwrap();
    assert_eq!(due(&shard), 1, "saying it twice does not begin it anew");
}

#[test]
fn the_clock_moves_by_the_leaders_time_in_capped_steps() {
    let mut expiry = Expiry::default();
    assert_eq!(expiry.elapsed(5_000), 0, "a new leader continues from the last value");
    assert_eq!(expiry.elapsed(5_300), 300);
    assert_eq!(expiry.elapsed(90_000), MAX_CLOCK_STEP_MS);
    assert!(!expiry.clock_due(95_000, &shard()), "an empty shard needs no clock");
}

#[test]
fn a_full_shard_drops_creates_and_counts_them() {
    let mut shard = Shard { max_sessions: 1, ..shard() };
    let changes =
        vec![SessionChange::Create(record(1, 5, 0)), SessionChange::Create(record(2, 5, 0))];
    let done = shard.apply(&entry(0, changes), None).unwrap();
    assert_eq!((done.changes, done.full, shard.len()), (2, 1, 1));
}

#[test]
fn an_entry_that_does_not_decode_changes_nothing() {
    let mut shard = shard();
    let good =
        codec::encode(&ChangeBatch { changes: vec![SessionChange::Create(record(1, 5, 0))] });
    let batches = vec![good, vec![1, 2, 3]];
    let bad = codec::encode(&ShardEntry { elapsed_ms: 50, batches });
    assert!(shard.apply(&bad, None).is_err());
    assert_eq!((shard.len(), shard.clock_ms()), (0, 0));
}

fn any_change() -> impl Strategy<Value = SessionChange> {
    let create = (0..4u16, 1..4u64, 0..500u32)
        .prop_map(|(n, stamp, age)| SessionChange::Create(record(n, stamp, age)));
    let news =
        (0..4u16, 1..4u64, 1..4u32, 0..500u32, 0..128u16).prop_map(|(n, s, from, age, f)| {
            SessionChange::Update(update(n, s, from, age, SessionFlags(f)))
        });
    let expire = (0..4u16, 1..4u64, 0..2_000u64).prop_map(|(n, stamp, last_seen_ms)| {
        let incarnation = record(n, stamp, 0).incarnation;
        SessionChange::Expire { key: key(n), incarnation, last_seen_ms }
    });
    prop_oneof![create, news, expire]
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn state(shard: &Shard) -> (u64, Records) {
    let mut image = shard.image();
    image.sort();
    (shard.clock_ms(), image)
}

proptest! {
    /// Whatever directors propose, in whatever order and however often, two replicas that apply the
    /// same log agree; and a replica made from a snapshot and the rest of the log agrees with them.
    #[test]
    fn replicas_agree(log in prop::collection::vec((0..300u32, prop::collection::vec(any_change(), 0..6)), 1..20), cut in 0..20usize) {
        let (mut one, mut two) = (shard(), shard());
        let cut = cut.min(log.len());
        let mut late = None;
        let mut checkpoint = std::collections::BTreeMap::new();
        for (i, (elapsed, changes)) in log.iter().enumerate() {
            if i == cut {
                late = Some(Shard::load(one.image()).unwrap());
            }
            let entry = entry(*elapsed, changes.clone());
            one.apply(&entry, None).unwrap();
            two.apply(&entry, None).unwrap();
            if let Some(late) = &mut late {
                late.apply(&entry, None).unwrap();
            }
            if i % 3 == 0 {
                let dirty = two.take_dirty();
                for (key, value) in dirty.records {
                    match value {
                        Some(value) => checkpoint.insert(key, value),
                        None => checkpoint.remove(&key),
                    };
                }
            }
        }
        prop_assert_eq!(state(&one), state(&two));
        if let Some(late) = late {
            prop_assert_eq!(state(&late), state(&one));
        }
        for (key, value) in two.take_dirty().records {
            match value {
                Some(value) => checkpoint.insert(key, value),
                None => checkpoint.remove(&key),
            };
        }
        prop_assert_eq!(state(&Shard::load(checkpoint).unwrap()), state(&one));
    }

    /// Saying a create or an update twice is saying it once, but for the count of changes.
    #[test]
    fn repetition_changes_nothing(change in any_change(), before in prop::collection::vec(any_change(), 0..8)) {
        let (mut once, mut twice) = (shard(), shard());
        for shard in [&mut once, &mut twice] {
            shard.apply(&entry(1_000, before.clone()), None).unwrap();
        }
        once.apply(&entry(0, vec![change.clone()]), None).unwrap();
        twice.apply(&entry(0, vec![change.clone(), change]), None).unwrap();
        let neutral = |shard: &Shard| {
            let mut all = shard.records();
            all.iter_mut().for_each(|r| r.generation = 0);
            all.sort_by_key(|r| r.key);
            all
        };
        prop_assert_eq!(neutral(&once), neutral(&twice));
    }
}
