use super::super::REQUESTS_KEPT;
use super::*;
use crate::codec;

#[test]
fn a_repeated_request_gets_the_first_answer_and_does_nothing() {
    let mut cluster = Cluster::new();
    cluster.issue(2);
    let first = cluster.say_as(1 << 80, join(2));
    let after = cluster.record.clone();
    assert_eq!(cluster.say_as(1 << 80, join(2)), first);
    assert_eq!(cluster.record, after);
    assert!(matches!(first, ControlOutcome::Done { number: Some(2), .. }));
}

#[test]
fn the_list_of_requests_is_bounded() {
    let mut cluster = Cluster::new();
    for n in 0..(REQUESTS_KEPT as u128 + 50) {
        cluster.say_as(1_000 + n, ControlCommand::EndPlanned { id: 1 });
    }
    let requests = &cluster.record.cluster.requests;
    assert_eq!(requests.len(), REQUESTS_KEPT);
    assert_eq!(requests[0].0, RequestId(1_050), "the oldest went");
}

#[test]
fn a_shard_is_formed_anew_once_per_generation() {
    let mut cluster = Cluster::of(2);
    let reform = |ends| ControlEntry::Reform { shard: 3, ends, voter: DirectorId(2) };
    let outcome = apply(&mut cluster.record, &reform(1)).outcome;
    assert!(matches!(outcome, ControlOutcome::Done { .. }));
    let form = cluster.record.shards[3];
    assert_eq!((form.generation, form.first.0), (2, 2));
    let outcome = apply(&mut cluster.record, &reform(1)).outcome;
    assert!(matches!(outcome, ControlOutcome::Refused(_)));
    assert_eq!(cluster.record.shards[3], form);
    assert_eq!(cluster.record.shards[2].generation, 1);
}

#[test]
fn the_state_survives_its_encoding() {
    let mut cluster = Cluster::of(3);
    cluster.configure(spec()).unwrap();
    let bytes = codec::encode(&cluster.record);
    assert_eq!(codec::decode::<ControlRecord>(&bytes).unwrap(), cluster.record);
}
