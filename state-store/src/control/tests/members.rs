use holdfast_schema::cluster::{PlannedKind, ReplicaId};

use super::*;

fn started(n: u32, amnesiac: bool, at: SocketAddr) -> ControlCommand {
    ControlCommand::Started {
        director: DirectorId(n),
        address: at,
        unclean: true,
        amnesiac,
        connected: connected(n as u8),
    }
}

#[test]
fn a_token_opens_its_slot_once() {
    let mut cluster = Cluster::new();
    cluster.issue(2);
    let wrong = ControlCommand::Join {
        name: "d2".into(),
        secret_hash: [9; 32],
        address: address(2),
        key_fingerprint: [2; 32],
        connected: vec![],
    };
    let text = cluster.refused(RefusalCode::NotAllowed, wrong);
    assert_eq!(text, "the join token for d2 is wrong or was replaced by a newer one");
    assert_eq!(cluster.done(join(2)), Some(2));
    let text = cluster.refused(RefusalCode::NotAllowed, join(2));
    assert_eq!(text, "the join token for d2 was used already, or never issued");
    let text = cluster.refused(RefusalCode::NotAllowed, join(3));
    assert!(text.contains("never issued"), "{text}");
    let slot = JoinSlot { secret_hash: [1; 32], expires_at_s: 1 };
    let name = "d1".to_owned();
    let again = ControlCommand::IssueToken { name, slot: slot.clone(), now_s: 0 };
    let text = cluster.refused(RefusalCode::Exists, again);
    assert!(text.contains("d1 is already in the cluster"), "{text}");
    let bad = ControlCommand::IssueToken { name: "a b".into(), slot, now_s: 0 };
    cluster.refused(RefusalCode::Invalid, bad);
}

#[test]
fn slots_that_expired_make_room() {
    let mut cluster = Cluster::new();
    let issue = |n: u32, now_s: u64| ControlCommand::IssueToken {
        name: format!("x{n}"),
        slot: JoinSlot { secret_hash: [1; 32], expires_at_s: 100 },
        now_s,
    };
    (0..256).for_each(|n| assert_eq!(cluster.done(issue(n, 50)), None));
    let text = cluster.refused(RefusalCode::Precondition, issue(300, 99));
    assert!(text.contains("256 join tokens are open already"), "{text}");
    cluster.done(issue(7, 99));
    assert_eq!(cluster.record.cluster.tokens.len(), 256);
    let slot = JoinSlot { secret_hash: [1; 32], expires_at_s: 200 };
    cluster.done(ControlCommand::IssueToken { name: "x300".into(), slot, now_s: 100 });
    assert_eq!(cluster.record.cluster.tokens.keys().collect::<Vec<_>>(), ["x300"]);
}

#[test]
fn who_has_no_open_slot_is_turned_away_before_anything_is_proposed() {
    let mut cluster = Cluster::new();
    let judge = |cluster: &Cluster, secret: u8, now_s: u64, key: u8| {
        admit(&cluster.record.cluster, "d2", &[secret; 32], now_s, || Some([key; 32]))
            .map_err(|refusal| refusal.message)
    };
    let never = Err("the join token for d2 was used already, or never issued".to_owned());
    assert_eq!(judge(&cluster, 2, 50, 2), never);
    cluster.issue(2);
    let wrong = "the join token for d2 is wrong or was replaced by a newer one";
    assert_eq!(judge(&cluster, 9, 50, 2), Err(wrong.to_owned()));
    let late = "the join token for d2 expired 5 s ago";
    assert_eq!(judge(&cluster, 2, 105, 2), Err(late.to_owned()));
    assert_eq!(judge(&cluster, 2, 50, 2), Ok(Admission::Open));
    cluster.done(join(2));
    cluster.record.cluster.tokens.clear();
    // Its answer was lost: it is known by its key, and by nothing else.
    assert_eq!(judge(&cluster, 9, 200, 2), Ok(Admission::Again(DirectorId(2))));
    assert_eq!(judge(&cluster, 2, 50, 3), never);
    cluster.say_with(started(2, false, address(2)), 2).unwrap();
    assert_eq!(judge(&cluster, 2, 50, 2), never, "it has a disk of its own by now");
}

#[test]
fn a_joiner_has_an_address_a_key_and_networks_of_its_own() {
    let mut cluster = Cluster::of(2);
    cluster.configure(spec()).unwrap();
    cluster.issue(3);
    let with = |change: fn(&mut SocketAddr, &mut [u8; 32], &mut Vec<Prefix>)| {
        let (mut at, mut key, mut nets) = (address(3), [3; 32], connected(3));
        change(&mut at, &mut key, &mut nets);
        ControlCommand::Join {
            name: "d3".into(),
            secret_hash: [3; 32],
            address: at,
            key_fingerprint: key,
            connected: nets,
        }
    };
    let taken = with(|at, _, _| *at = address(2));
    assert!(cluster.refused(RefusalCode::Exists, taken).contains("d2 is already at"));
    let copied = with(|_, key, _| *key = [2; 32]);
    assert!(cluster.refused(RefusalCode::NotAllowed, copied).contains("d2 has the same key"));
    let inside = with(|_, _, nets| nets.push("203.0.113.0/24".parse().unwrap()));
    let text = cluster.refused(RefusalCode::Invalid, inside);
    assert!(text.contains("VIP 203.0.113.10 lies in 203.0.113.0/24"), "{text}");
    assert!(text.contains("director d3"), "{text}");
    // The slot is still open after all that.
    cluster.done(join(3));
}

#[test]
fn a_start_counts_and_amnesia_gets_a_new_replica_number() {
    let mut cluster = Cluster::of(3);
    cluster.down(2);
    assert_eq!(cluster.say_with(started(2, false, address(9)), 2).unwrap(), Some(2));
    let member = &cluster.record.cluster.members[&DirectorId(2)];
    assert_eq!((member.incarnation, member.down, member.unclean), (2, false, true));
    assert_eq!((member.address, member.replica), (address(9), ReplicaId(2)));
    assert_eq!(cluster.say_with(started(2, true, address(9)), 3).unwrap(), Some(4));
    assert_eq!(cluster.record.cluster.members[&DirectorId(2)].replica, ReplicaId(4));
    assert_eq!(cluster.join(4).unwrap(), 4);
    assert_eq!(cluster.record.cluster.members[&DirectorId(4)].replica, ReplicaId(5));
}

#[test]
fn a_copied_or_restored_disk_is_refused() {
    let mut cluster = Cluster::of(2);
    cluster.say_with(started(2, false, address(2)), 5).unwrap();
    for stale in [5, 4] {
        let refusal = cluster.say_with(started(2, false, address(2)), stale).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotAllowed);
        assert!(refusal.message.contains("has started 5 times"), "{}", refusal.message);
        assert!(refusal.message.contains("is a copy or an old state"), "{}", refusal.message);
    }
    let refusal = cluster.say_with(started(2, false, address(1)), 6).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Exists, "the founder's address");
    let refusal = cluster.say_with(started(7, false, address(7)), 1).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotFound);
}

#[test]
fn down_concerns_one_incarnation_and_what_it_moved_settles() {
    let mut cluster = Cluster::of(2);
    let director = DirectorId(2);
    let epoch = |c: &Cluster| c.record.cluster.membership_epoch;
    let (before, say) = (epoch(&cluster), |incarnation, down| ControlCommand::SetDown {
        director,
        incarnation,
        down,
    });
    cluster.done(say(9, true));
    assert_eq!(epoch(&cluster), before, "another life is left alone");
    let planned = ControlCommand::BeginPlanned { director, kind: PlannedKind::Join };
    let number = cluster.done(planned.clone());
    assert_eq!(cluster.done(planned), number, "begun once");
    assert!(cluster.record.cluster.change_planned());
    cluster.done(say(1, true));
    assert_eq!(epoch(&cluster), before + 1);
    assert!(cluster.record.cluster.members[&director].down);
    assert!(cluster.record.cluster.change_planned(), "its planned change is ended later");
    cluster.done(say(1, true));
    assert_eq!(epoch(&cluster), before + 1, "already");
    cluster.done(say(1, false));
    assert!(!cluster.record.cluster.members[&director].down);
    cluster.done(ControlCommand::EndPlanned { id: number.unwrap() });
    assert!(!cluster.record.cluster.change_planned());
}

#[test]
fn the_last_one_that_serves_cannot_drain() {
    let mut cluster = Cluster::of(2);
    cluster.configure(spec()).unwrap();
    cluster.done(state(2, MemberState::Draining));
    let text = cluster.refused(RefusalCode::Precondition, state(1, MemberState::Draining));
    assert_eq!(
        text,
        "director d1 is the last one that serves: of 2 members, 1 serving - 1 = 0 left to announce \
         203.0.113.10"
    );
    let mut cluster = Cluster::of(2);
    cluster.down(2);
    let text = cluster.refused(RefusalCode::Precondition, state(1, MemberState::Draining));
    assert!(text.contains("announce any VIP"), "one that is down does not serve: {text}");
    let forced = ControlCommand::SetState {
        director: DirectorId(1),
        state: MemberState::Draining,
        force: Some("the rack moves".into()),
    };
    cluster.done(forced);
    let act = &cluster.record.forced[0];
    assert_eq!(
        (act.act.as_str(), act.reason.as_str()),
        ("director 1 to Draining", "the rack moves")
    );
}

#[test]
fn states_follow_their_order() {
    let mut cluster = Cluster::of(3);
    let text = cluster.refused(RefusalCode::Precondition, state(2, MemberState::Drained));
    assert_eq!(text, "director d2 cannot go from active to drained");
    for to in [MemberState::Draining, MemberState::Drained, MemberState::Active] {
        cluster.done(state(2, to));
    }
    cluster.refused(RefusalCode::NotFound, state(9, MemberState::Active));
    assert!(cluster.record.forced.is_empty(), "nothing needed force");
}

/// What it said before an operator's word came after it, repeated by a slow network.
#[test]
fn a_late_word_of_a_director_does_not_undo_a_drain() {
    let mut cluster = Cluster::of(3);
    let director = DirectorId(2);
    let proceed = |from, to| ControlCommand::Proceed { director, from, to };
    let serves = proceed(MemberState::Joining, MemberState::Active);
    let now = |cluster: &Cluster| cluster.record.cluster.members[&director].state;
    cluster.done(serves.clone());
    cluster.done(state(2, MemberState::Draining));
    let text = cluster.refused(RefusalCode::Precondition, serves.clone());
    assert_eq!(text, "director d2 is draining by now: it does not go from joining to active");
    let drained = proceed(MemberState::Draining, MemberState::Drained);
    cluster.done(drained.clone());
    cluster.refused(RefusalCode::Precondition, serves.clone());
    assert_eq!(now(&cluster), MemberState::Drained);
    // It joins again.
    cluster.done(state(2, MemberState::Joining));
    cluster.refused(RefusalCode::Precondition, drained);
    cluster.done(serves);
    assert_eq!(now(&cluster), MemberState::Active);
}

#[test]
fn the_last_member_stays_and_others_are_drained_before_they_go() {
    let mut lone = Cluster::new();
    let text = lone.refused(RefusalCode::Precondition, remove(1));
    assert!(text.contains("1 voter - 1 = 0 left, a quorum of 1 needs 1"), "{text}");
    let forced = ControlCommand::Remove { director: DirectorId(1), force: Some("yes".into()) };
    lone.refused(RefusalCode::Precondition, forced);

    let mut cluster = Cluster::of(3);
    cluster.down(3);
    // It can go, but it is not drained: that takes force.
    let text = cluster.refused(RefusalCode::Precondition, remove(3));
    assert_eq!(text, "director d3 is active, not drained");
    let lost = ControlCommand::Remove { director: DirectorId(3), force: Some("burnt".into()) };
    cluster.done(lost);
    assert_eq!(cluster.record.forced[0].act, "remove d3");
    assert!(!cluster.record.cluster.members.contains_key(&DirectorId(3)));
    assert_eq!(cluster.join(3).unwrap(), 4, "the name may come back, the number does not");
}
