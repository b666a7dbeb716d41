use super::*;

fn member(replica: u64) -> MemberView {
    MemberView { replica, live: true, serving: true }
}

fn members(replicas: &[u64]) -> Vec<MemberView> {
    replicas.iter().map(|r| member(*r)).collect()
}

fn down(replica: u64) -> MemberView {
    MemberView { live: false, ..member(replica) }
}

fn draining(replica: u64) -> MemberView {
    MemberView { serving: false, ..member(replica) }
}

fn conf(voters: &[u64], learners: &[u64]) -> Conf {
    Conf { voters: voters.to_vec(), learners: learners.to_vec(), joint: false }
}

fn all(_: u64) -> bool {
    true
}

use Role::{Gone, Learner, Voter};
use Step::{Change, Leave, Transfer};

#[test]
fn new_members_become_learners_first() {
    let step = plan(1, &members(&[1, 2]), &conf(&[1], &[]), &|r| r == 1);
    assert_eq!(step, Some(Change(vec![(2, Learner)])));
    assert_eq!(plan(1, &members(&[1, 2]), &conf(&[1], &[2]), &all), None, "two: voter and learner");
}

#[test]
fn one_to_three_is_one_joint_change_when_both_have_caught_up() {
    let three = members(&[1, 2, 3]);
    assert_eq!(plan(1, &three, &conf(&[1], &[2, 3]), &|r| r != 3), None);
    let step = plan(1, &three, &conf(&[1], &[2, 3]), &all);
    assert_eq!(step, Some(Change(vec![(2, Voter), (3, Voter)])));
}

#[test]
fn voters_are_odd_and_at_most_five() {
    let four = members(&[1, 2, 3, 4]);
    assert_eq!(plan(1, &four, &conf(&[1, 2, 3], &[4]), &all), None);
    let seven = members(&[1, 2, 3, 4, 5, 6, 7]);
    let step = plan(2, &seven, &conf(&[1, 2, 3], &[4, 5, 6, 7]), &all);
    assert_eq!(step, Some(Change(vec![(4, Voter), (5, Voter)])));
}

#[test]
fn a_dead_voter_is_replaced_by_a_caught_up_learner() {
    let four = [member(1), member(2), down(3), member(4)];
    let step = plan(1, &four, &conf(&[1, 2, 3], &[4]), &|r| r != 3);
    assert_eq!(step, Some(Change(vec![(4, Voter), (3, Learner)])));
    assert_eq!(plan(1, &four, &conf(&[1, 2, 3], &[4]), &|r| r < 3), None, "4 has not caught up");
}

#[test]
fn a_death_does_not_take_three_voters_to_one() {
    let three = [member(1), member(2), down(3)];
    assert_eq!(plan(1, &three, &conf(&[1, 2, 3], &[]), &|r| r != 3), None);
    let five = [member(1), member(2), member(3), down(4), down(5)];
    let step = plan(1, &five, &conf(&[1, 2, 3, 4, 5], &[]), &|r| r < 4);
    assert_eq!(step, Some(Change(vec![(4, Learner), (5, Learner)])), "but five go to three");
}

#[test]
fn nothing_is_proposed_that_could_not_be_committed() {
    let lost = [member(1), down(2), down(3), member(4)];
    assert_eq!(plan(1, &lost, &conf(&[1, 2, 3], &[4]), &|r| r == 4 || r == 1), None);
}

#[test]
fn a_draining_member_gives_up_leadership_then_its_vote() {
    let four = [draining(1), member(2), member(3), member(4)];
    assert_eq!(plan(1, &four, &conf(&[1, 2, 3], &[4]), &all), Some(Transfer(2)));
    let step = plan(2, &four, &conf(&[1, 2, 3], &[4]), &all);
    assert_eq!(step, Some(Change(vec![(4, Voter), (1, Learner)])));
    let settled = plan(2, &four, &conf(&[2, 3, 4], &[1]), &all);
    assert_eq!(settled, None);
}

#[test]
fn a_drained_member_is_the_last_resort_as_a_voter() {
    let three = [draining(1), member(2), member(3)];
    assert_eq!(plan(2, &three, &conf(&[1, 2, 3], &[]), &all), None);
    assert_eq!(
        plan(1, &three, &conf(&[1, 2, 3], &[]), &all),
        Some(Transfer(2)),
        "it leads nothing"
    );
}

#[test]
fn the_only_voter_of_two_drains_by_way_of_two_voters() {
    let two = [draining(1), member(2)];
    let step = plan(1, &two, &conf(&[1], &[2]), &all);
    assert_eq!(step, Some(Change(vec![(2, Voter)])));
    assert_eq!(plan(1, &two, &conf(&[1, 2], &[]), &all), Some(Transfer(2)));
    assert_eq!(plan(2, &two, &conf(&[1, 2], &[]), &all), Some(Change(vec![(1, Learner)])));
}

#[test]
fn an_amnesiac_replica_leaves_under_its_old_number_and_returns_under_a_new_one() {
    // Director 3 lost its memory: replica 3 is nobody's any more, replica 7 is its new one.
    let now = members(&[1, 2, 7]);
    let step = plan(1, &now, &conf(&[1, 2, 3], &[]), &|r| r < 3);
    assert_eq!(step, Some(Change(vec![(7, Learner)])));
    let step = plan(1, &now, &conf(&[1, 2, 3], &[7]), &|r| r != 3);
    assert_eq!(step, Some(Change(vec![(7, Voter), (3, Gone)])));
}

#[test]
fn removed_members_leave_the_group() {
    let step = plan(1, &members(&[1, 2]), &conf(&[1, 2, 3], &[4]), &|r| r < 3);
    assert_eq!(step, Some(Change(vec![(2, Learner), (3, Gone), (4, Gone)])));
    let removed_leader = plan(3, &members(&[1, 2]), &conf(&[1, 2, 3], &[]), &all);
    assert_eq!(removed_leader, Some(Transfer(1)));
}

#[test]
fn a_joint_configuration_is_left_before_anything_else() {
    let joint = Conf { joint: true, ..conf(&[1, 2, 3], &[]) };
    assert_eq!(plan(1, &members(&[1, 2, 3, 4]), &joint, &all), Some(Leave));
}

/// From any mixture of states, repeated planning comes to rest, and every configuration on the way
/// has a live majority.
#[test]
fn planning_comes_to_rest() {
    for bits in 0..4u32.pow(5) {
        let state = |r: u64| (bits / 4u32.pow(r as u32 - 1)) % 4;
        let members: Vec<MemberView> = (1..=5)
            .filter(|r| state(*r) != 3)
            .map(|r| MemberView { replica: r, live: state(r) != 1, serving: state(r) != 2 })
            .collect();
        let live = |r: u64| members.iter().any(|m| m.replica == r && m.live);
        let mut conf = conf(&[1, 2, 3], &[]);
        let Some(mut leader) = conf.voters.iter().copied().find(|r| live(*r)) else { continue };
        if conf.voters.iter().filter(|r| live(**r)).count() < 2 {
            continue;
        }
        let mut steps = 0;
        while let Some(step) = plan(leader, &members, &conf, &live) {
            steps += 1;
            assert!(steps < 20, "{members:?} never rests: {conf:?} leader {leader} {step:?}");
            match step {
                Leave => conf.joint = false,
                Transfer(to) => {
                    assert!(conf.voters.contains(&to));
                    leader = to;
                }
                Change(changes) => {
                    for (replica, role) in changes {
                        conf.voters.retain(|r| *r != replica);
                        conf.learners.retain(|r| *r != replica);
                        match role {
                            Voter => conf.voters.push(replica),
                            Learner => conf.learners.push(replica),
                            Gone => {}
                        }
                    }
                    let votes = conf.voters.iter().filter(|r| live(**r)).count();
                    assert!(votes > conf.voters.len() / 2, "{members:?} {conf:?}");
                    assert!(conf.voters.contains(&leader));
                }
            }
        }
    }
}
