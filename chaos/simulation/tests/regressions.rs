//! Seeds that once failed, with a sentence each, and the rare paths that they are about: what a seed
//! stands for changes with every draw that is added, and with everything that directors do in another way. So all
//! seeds of one cause have to hold, and one of them has to get there; when none does any more, another one has to be
//! found that does (`soak --mild --reaching MARK`).

use holdfast_simulation::plan::{Fault, Plan, Planned};
use holdfast_simulation::run::{self, Outcome};
use holdfast_simulation::world::excuses::Cause;
use holdfast_simulation::world::marks::Mark;

/// The seed breaks no rule, without the harsher faults: it failed before there were any.
#[track_caller]
fn holds(seed: u64) -> Held {
    held(run::plan(Plan::mild(seed)))
}

/// The seed breaks no rule, with all faults that it draws.
#[track_caller]
fn holds_with_all(seed: u64) -> Held {
    held(run::plan(Plan::of(seed)))
}

#[track_caller]
fn held(outcome: Outcome) -> Held {
    assert!(outcome.violation.is_none(), "{}", outcome.report());
    Held(outcome)
}

/// A seed that broke no rule.
struct Held(Outcome);

impl Held {
    /// And it gets where it once failed.
    #[track_caller]
    fn reaching(self, mark: Mark) -> Held {
        let reached = self.0.marks.count(mark);
        assert!(reached > 0, "seed {} does not reach {mark:?} any more", self.0.seed);
        self
    }

    /// And what was lost there for this cause is excused.
    #[track_caller]
    fn excusing(self, cause: Cause) {
        let excused = self.0.excused.times(cause);
        assert!(excused > 0, "seed {} excuses nothing for {cause:?} any more", self.0.seed);
    }
}

/// These seeds break no rule, and at least one of them gets there.
#[track_caller]
fn one_reaches(mark: Mark, seeds: &[u64]) {
    let reached = seeds.iter().map(|seed| holds(*seed).0.marks.count(mark)).sum::<u64>();
    assert!(reached > 0, "none of {seeds:?} reaches {mark:?} any more");
}

/// A closed session's record, which the store had told everybody, took the packets of the connection
/// that its client had opened from the same port since, at a director that died: the backend reset it.
#[test]
fn a_port_that_is_used_again_survives_the_death_of_its_director() {
    holds(10).reaching(Mark::DeathAfterReuse);
}

/// A director that had been away had a record of a connection that all others had forgotten, because it was
/// over, and died before it heard of that. The simulation took it for the loss of a session. (5069: with the
/// record of a young one, by the guarantee of tier 1.)
#[test]
fn a_record_that_outlives_its_connection_is_no_loss() {
    one_reaches(Mark::RecordOutlived, &[3850, 8832, 5069]);
}

/// A director that had been down found in its log sessions whose clients had closed meanwhile, and all others had
/// forgotten, or had such a record before them, and one that began to attract clients did not: the simulation missed
/// it by rule 7. Nobody can attract a client that is gone.
#[test]
fn who_lacks_the_session_of_a_client_that_is_gone_lacks_nothing() {
    let seeds = [482, 501, 1304, 2120, 4439, 5065, 5283, 6829, 7937, 8076, 8643];
    one_reaches(Mark::LackedNothing, &seeds);
}

/// A director died before its young session was due for the store, and with it the majority; then the home died
/// that had kept the session and could hand it to nobody. Only tables were judged at a death, and so nobody had
/// said that the session was lost.
#[test]
fn what_a_home_cannot_hand_over_dies_with_it() {
    let seeds = [2158, 5346, 7567, 9884, 4401, 6754, 8617, 9708, 1966, 8430];
    one_reaches(Mark::LastHomeDied, &seeds);
}

/// A client gave up a connection that nobody knew any more, opened its socket again, and its SYN came to the old
/// connection's backend over the same local port: that challenged it, and was reset. The loss had its excuse, but
/// was taken for one of the new connection.
#[test]
fn the_end_of_an_excused_connection_may_come_to_its_backend_late() {
    one_reaches(Mark::EndFollowed, &[3220, 6241, 6780]);
}

/// The only voter of a shard opened sessions while it was cut off from its learners, and then its disk failed: it
/// began anew without them. They counted as kept on disks.
#[test]
fn what_a_failed_disk_alone_had_is_lost() {
    holds(931).reaching(Mark::WriteFailed).excusing(Cause::Orphaned);
    holds(6399).reaching(Mark::WriteFailed).excusing(Cause::Orphaned);
}

/// A director was to come back while its disk was full, and was not tried again when there was room: two directors
/// had no majority until the end, and new UDP flows waited for an answer in vain.
#[test]
fn a_start_that_a_full_disk_hinders_is_tried_again() {
    holds(5223).reaching(Mark::StartHindered);
}

/// One director could not be asked by the others, and was heard by enough of them to count as living: a new UDP
/// flow could not be told from an old one for as long as its client tried.
#[test]
fn a_new_flow_waits_for_who_cannot_be_asked() {
    holds(6374).excusing(Cause::Unanswered);
}

/// Two directors were drained and the third one dead: the router lost all that a client sent, until its session had
/// expired. Only what was lost in the last seconds before the client gave up was an excuse.
#[test]
fn a_client_that_nobody_could_hear_for_the_idle_limit_has_lost_its_session() {
    holds(3624).reaching(Mark::ExpiredUnheard).excusing(Cause::Unserved);
}

/// A director that was declared down, but only cut off, had sessions that nobody else knew; the others
/// denied them with authority.
#[test]
fn who_is_cut_off_is_not_denied() {
    one_reaches(Mark::DownNotDenied, &[75, 119]);
}

/// A director came back before its last planned change had ended, and took what had been flushed for
/// that for flushed: it announced VIPs without the sessions of the time between.
#[test]
fn a_director_that_comes_back_soon_waits_for_a_flush_of_its_own() {
    holds(108).reaching(Mark::StartInPlannedChange);
}

/// A director died two milliseconds after it had passed on a SYN-ACK, before it told anybody of the session.
/// That nobody could know it was no excuse, because the session was not established at its director.
#[test]
fn a_connection_that_its_client_alone_holds_for_established_may_die_with_its_director() {
    holds(1083).excusing(Cause::Orphaned);
}

/// The record of an earlier use of a port was still open at a director that its successor's packets were
/// moved to: the close had not been told, because the shard had no leader (248), or because the director
/// that saw it was cut off (508, 542). The old connection's backend reset the new one's client.
#[test]
fn a_record_of_an_earlier_use_that_is_still_open_does_not_take_its_successors_packets() {
    one_reaches(Mark::EarlierUse, &[248, 508, 542]);
}

/// A frozen director had not heard of a connection's end, and sent the SYN of the next one to its backend,
/// which took it. The record kept its old name; when the director woke up that had opened a session for the
/// first copy of that SYN and then been frozen itself, that newer session took the place of the one in use.
#[test]
fn a_connection_that_an_old_record_leads_to_its_backend_has_a_name_of_its_own() {
    one_reaches(Mark::SynByEarlierUse, &[753, 112, 258]);
}

/// The machine of a shard's only voter died and came back without its memory. The control leader was that
/// voter's learner, went on believing in it, and did not see that the shard had nobody left: no director
/// that started again ever served.
#[test]
fn a_shard_that_lost_its_only_voter_is_formed_anew() {
    holds(711).reaching(Mark::FormedAnew);
}

/// A director died a moment after it had seen a packet, and came back at once: the store counted from the
/// last word that it had said, and expired the connection.
#[test]
fn what_a_director_saw_right_before_its_death_counts() {
    one_reaches(Mark::LastNewsDied, &[1005, 258]);
}

/// A director that was cut off, and as a learner did not know it, died: what it had opened meanwhile could be
/// in nobody's store. The simulation blamed the others.
#[test]
fn who_is_cut_off_promotes_nothing() {
    holds(380).excusing(Cause::Orphaned);
}

/// New UDP flows that are asked about found nobody who could say that they are new, for as long as a shard
/// that had lost its only voter was not formed anew. (And what that voter's machine alone had in its memory,
/// with everybody else dead, has an excuse.)
#[test]
fn new_flows_are_accepted_when_a_lost_shard_is_formed_anew() {
    holds(537).reaching(Mark::FormedAnew);
}

/// A director died in the millisecond after its SYN-ACK: its client was connected, its session half-open and
/// not registered yet.
#[test]
fn a_connection_may_lose_its_director_before_its_handshake_is_seen() {
    holds(771).excusing(Cause::Orphaned);
}

/// A SYN was repeated at another director, and the client's answer to the first backend came there before
/// the homes could tell of the first session: the second backend reset the client.
#[test]
fn an_answer_to_another_backend_is_not_forwarded() {
    one_reaches(Mark::OtherTwin, &[250, 1295, 5677, 423]);
}

/// A SYN on a session that was not yet known to be over went through to its backend, which took it for a
/// new connection; its repetition began a session with another backend.
#[test]
fn a_syn_that_went_by_an_old_session_makes_one_connection() {
    one_reaches(Mark::BegunOverOpen, &[173, 27, 258]);
}

/// A connection had expired at a director that was cut off while it went on elsewhere. Its backend, whose
/// last word that director knew, answered the probe first and was reset at once; its client's answer, a moment
/// later, showed that it had sent something that was lost.
#[test]
fn an_expired_connection_is_over_when_both_of_its_ends_are_at_rest() {
    one_reaches(Mark::WentOnAfterRest, &[29, 655, 1110]);
}

/// A director that was frozen (7375) or cut off (9038) forgot a half-open session that the store has. What it
/// then heard was that this one is established: that is news of nothing, so it lacked the session for good,
/// and announced VIPs without it.
#[test]
fn a_half_open_session_is_not_forgotten_by_who_is_cut_off() {
    one_reaches(Mark::HalfOpenKept, &[7375, 9038, 191, 577]);
}

/// A home kept a half-open session of a director that had died. It was past its limit when the client's SYN came
/// again and made another one, which gave way to it: one was reset, the other expired, and the client's next
/// segment found neither.
#[test]
fn nothing_gives_way_to_an_expired_twin() {
    one_reaches(Mark::ExpiredTwin, &[7460, 271, 1386]);
}

/// An owner had seen a packet in the last quarter of the idle timeout, had not told of it yet, and died: the
/// timeout was over before its death was known. The session expired; that director was back before it was missed,
/// and got what the client sent; those who still had the session said that they did not know: it was not served and
/// not ended, for half a minute.
#[test]
fn an_owner_that_dies_with_the_last_news_and_comes_back_is_told_of_what_expires() {
    one_reaches(Mark::LastNewsDied, &[1133, 6113]);
}

/// A director that was cut off had an older use of a port in mind, nobody told it of a later one, and it sent
/// the packets of that to a backend which reset the client: everything misfits that record, or what it knows
/// of the connection is a SYN. (5832: what it had forgotten of the older use's end the store had never been told, and
/// who still held that for open told it of it.)
#[test]
fn what_a_record_refutes_does_not_go_by_it() {
    let all_misfits = [423, 1808, 2259, 2355, 2774, 3128, 3968, 4554, 4806, 5391, 5599, 5832, 6080];
    one_reaches(Mark::Refuted, &all_misfits);
    let nobody_in_reach_knows = [6305, 6512, 6709, 7080, 7119, 7194, 8038, 8812, 8836];
    one_reaches(Mark::Refuted, &nobody_in_reach_knows);
}

/// A director in the majority still had an older use of a port open, whose client had gone on at one that was cut
/// off: it asked, and another one had that older use as well. It went by it, to the older one's backend (rule 1).
#[test]
fn what_others_confirm_of_an_earlier_use_is_not_news_of_the_later_one() {
    one_reaches(Mark::Refuted, &[5129]);
}

/// What a director had said of a session in its life before was no news to it when it came back with the
/// log; and of two reports within one step of the store's clock, the first was kept.
#[test]
fn who_starts_again_learns_the_last_numbers_it_told() {
    one_reaches(Mark::OwnEarlierLife, &[5644, 9059]);
}

/// Both ends closed, each by another director; the next connection's SYN went by the half-closed record of the
/// one to the same backend, and its SYN-ACK met the closed record of the other. Nobody gave it a record of its
/// own, and it was forgotten with the old one's.
#[test]
fn a_connection_that_begins_over_one_that_closes_has_a_record() {
    let seeds = [55, 758, 1613, 2224, 2362, 5677, 6250, 8519, 9327];
    one_reaches(Mark::BegunOverClosed, &seeds);
}

/// A director that had seen no SYN-ACK of a session's backend took the client's ACK for its own; it was of the
/// twin that nobody could tell of.
#[test]
fn nobody_guesses_whose_backend_a_client_has_answered() {
    one_reaches(Mark::OtherTwin, &[2941, 3456, 9817, 423]);
}

/// Only a director that died knew that a session was established; all others held it for half-open, and what its
/// client acknowledged went beyond the number that they knew of its backend: it was taken for an answer to
/// another backend, and dropped for ever.
#[test]
fn a_client_that_is_further_on_than_its_directors_know_goes_on() {
    one_reaches(Mark::FurtherOn, &[5769, 271, 2431]);
}

/// A session became known while as many packets as may waited for it, and the next one was dropped. (Its history has
/// changed, and no other seed is known that gets there: the packet core's own test of it does.)
#[test]
fn who_finds_a_full_queue_may_go_by_the_session_that_has_come() {
    holds(7260);
}

/// A director started again and had no quorum for that. It took the half of the ports that the start before
/// had used, and gave a port of a connection that its backend still had to another client.
#[test]
fn a_start_that_nobody_knows_of_keeps_away_from_the_ports_of_the_one_before() {
    one_reaches(Mark::OpenedUnannounced, &[6598, 406]);
}

/// Milliseconds after a connection had closed, its client's next one on the same port came back from another
/// director to one that had just seen the old one's end, and went to the old backend.
#[test]
fn a_record_of_what_just_ended_does_not_take_the_next_connection() {
    one_reaches(Mark::JustOver, &[5658, 258, 296]);
}

/// Two directors heard nothing of each other for half a minute. The one that all clients came to had not been told of
/// a session which the other one, drained, had to expire meanwhile: what its client said came to somebody who could
/// ask nobody. Only what the router lost counted as unheard.
#[test]
fn what_comes_to_somebody_who_can_ask_nobody_expires() {
    holds_with_all(2538).excusing(Cause::InVain);
}

/// The client had agreed with the session of a director that died, which nobody else knew. What made up for that was
/// taken back because another director knew a session of the same opening, with another backend's connection.
#[test]
fn a_twin_that_the_client_has_not_agreed_on_is_not_its_session() {
    holds_with_all(1743).excusing(Cause::Orphaned);
}

/// Both ends had parted at a director that was cut off, and it died while data that were lost on the way were still to
/// be repeated: nobody else could know them.
#[test]
fn what_only_a_dead_director_knew_of_a_closing_connection_is_lost() {
    holds(9059).excusing(Cause::Orphaned);
}

/// Both ends of a connection that had expired answered their probes at a director that had to ask about it, and their
/// answers waited: the client's was dropped, and the backend's was turned into its reset. The simulation knew what was
/// sent in the place of a client's packet only, and missed the backend's.
#[test]
fn a_reset_for_a_backend_may_be_in_the_place_of_what_it_had_said() {
    holds_with_all(7150).reaching(Mark::BackendResetInPlace);
}

/// A slow disk stalled, and its jobs followed one another: each took as long as when it was said, and none shared a
/// sync. So it was busy for a minute after it was fast again, and a director that started was not recorded (6783), or a
/// shard had no leader, because that disk's director could not vote, and a new UDP flow waited in vain (9935).
#[test]
fn a_disk_that_was_slow_and_stalled_catches_up() {
    holds_with_all(6783);
    holds_with_all(9935);
}

/// Of two directors one had started again, and did not know yet that this was recorded, because the log came to it by
/// a stream that stood still. It was declared down, and the other one, which had nobody to tell of its young sessions,
/// died.
#[test]
fn young_sessions_have_no_home_while_the_log_stands_still_that_makes_one() {
    holds_with_all(8774).reaching(Mark::HomesDeaf);
}

/// A router that hashes anew every 4 ms, in a world that is otherwise fair.
#[track_caller]
fn holds_before_a_restless_router(seed: u64) -> Held {
    let fair = Plan::fair(seed);
    let times = (fair.clients_from_us..fair.heal_us).step_by(4_000);
    let reshuffle = |at_us| Planned { at_us, until_us: at_us, fault: Fault::Reshuffle };
    held(run::plan(Plan {
        peer_us: (300, 2_000),
        replicate_after_ms: 300,
        resilient: false,
        faults: times.map(reshuffle).collect(),
        ..fair
    }))
}

/// The router moved a connection in its first milliseconds, while its registration was on the way to its homes:
/// everybody denied it, and it was reset.
#[test]
fn a_denial_while_the_registration_is_on_its_way_resets_nobody() {
    for seed in [10, 25, 26] {
        holds_before_a_restless_router(seed).reaching(Mark::WentOnAfterDenial);
    }
}

/// A client took its port again milliseconds after its connection had closed, and came to a director that had seen
/// only one end of that: what it had just heard it did not doubt, and the old backend reset the client.
#[test]
fn a_record_of_what_is_half_closed_does_not_take_the_next_connection() {
    for seed in [1, 4, 18] {
        holds_before_a_restless_router(seed).reaching(Mark::JustHalfOver);
    }
}

/// A second SYN had made a twin at another director, its backend denied what the client had agreed on with the first,
/// and the denial came to the director whose address the replies go to. A third one, which the client's packets came to
/// since, heard nothing of it, and believed its silence.
#[test]
fn what_one_director_was_denied_no_other_one_believes() {
    holds_with_all(5675).reaching(Mark::OtherTwin);
}
