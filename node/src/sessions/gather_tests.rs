use super::*;
use holdfast_schema::cluster::{BackendId, ListenerId};
use holdfast_schema::flow::Protocol;
use holdfast_schema::session::{ForwardingMode, HalfSeen, Incarnation, SessionFlags};

fn record(client_port: u16, owner: u32, client_age_ms: u32) -> SessionRecord {
    let seen = |age_ms| HalfSeen { age_ms, seq: 0, ack: 0 };
    let client = format!("192.0.2.1:{client_port}").parse().unwrap();
    SessionRecord {
        key: FlowKey::new(Protocol::Tcp, client, "203.0.113.10:80".parse().unwrap()),
        reply: FlowKey::new(
            Protocol::Tcp,
            "10.0.0.1:80".parse().unwrap(),
            "198.51.100.1:1024".parse().unwrap(),
        ),
        incarnation: Incarnation { stamp: 1, creator: DirectorId(1), counter: 1, isn: 0 },
        generation: 0,
        listener: ListenerId(1),
        backend: BackendId(1),
        mode: ForwardingMode::FullNat,
        owner: DirectorId(owner),
        flags: SessionFlags::CLIENT_OPENED,
        created_age_ms: 0,
        idle_timeout_ms: 1,
        isn_delta: 0,
        timestamp_delta: 0,
        client: seen(client_age_ms),
        backend_seen: seen(0),
    }
}

fn held(sessions: Vec<(SessionRecord, bool)>) -> HeldSessions {
    HeldSessions { sessions, truncated: false }
}

#[test]
fn a_session_is_listed_once_with_the_director_that_saw_the_client_last() {
    let mut moved = record(1, 1, 20);
    moved.flags = moved.flags.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED);
    let answers = vec![
        (DirectorId(1), held(vec![(record(1, 1, 5_000), false), (record(2, 1, 0), false)])),
        (DirectorId(2), held(vec![(moved, true)])),
    ];
    let list = merge(&Names(None), answers, 10);
    assert_eq!(list.sessions.len(), 2);
    let first = &list.sessions[0];
    assert_eq!(first.director, "director 2");
    assert_eq!(first.holders, ["director 1", "director 2"]);
    assert_eq!((first.state.as_str(), first.replicated), ("established", true));
    assert!(!list.truncated);
}

#[test]
fn a_newer_use_of_the_same_addresses_hides_the_older() {
    let mut newer = record(1, 2, 0);
    newer.incarnation.stamp = 2;
    let answers = vec![
        (DirectorId(2), held(vec![(newer.clone(), false)])),
        (DirectorId(1), held(vec![(record(1, 1, 0), true)])),
    ];
    let list = merge(&Names(None), answers, 10);
    assert_eq!(list.sessions.len(), 1);
    assert_eq!(list.sessions[0].record.incarnation, newer.incarnation);
    assert_eq!(list.sessions[0].holders, ["director 2"]);
}

#[test]
fn the_limit_is_told() {
    let answers = vec![
        (DirectorId(1), held(vec![(record(1, 1, 0), false)])),
        (DirectorId(2), held(vec![(record(2, 2, 0), false)])),
    ];
    let list = merge(&Names(None), answers, 1);
    assert_eq!((list.sessions.len(), list.truncated), (1, true));
}

#[test]
fn replicas_are_not_counted_twice() {
    let states = |n: u64| -> BTreeMap<String, u64> { [("established".to_owned(), n)].into() };
    let count = |rows: &[(u32, u64)]| HeldCount {
        by_owner: rows.iter().map(|(owner, n)| (DirectorId(*owner), states(*n))).collect(),
    };
    // Director 3 is dead; 1 holds all of its sessions, 2 only some.
    let answers = vec![
        (DirectorId(1), count(&[(1, 10), (2, 4), (3, 7)])),
        (DirectorId(2), count(&[(1, 8), (2, 5), (3, 6)])),
    ];
    let total = add_up(&Names(None), answers);
    assert_eq!(total.total, 10 + 5 + 7);
    assert_eq!(total.by_state, [("established".to_owned(), 22)]);
}
