//! Asking for a session that nobody here knows: when again, and what the answers amount to
//! (PROTOCOLS, a packet that nobody here knows).
//!
//! A pure machine. Times are microseconds of any steady clock; whoever drives it sends what
//! [`Asking::sends`] names, brings the answers, and looks at [`Asking::verdict`] whenever something
//! came or [`Asking::wake_us`] has passed.

use holdfast_schema::cluster::DirectorId;
use holdfast_schema::session::{Incarnation, Known, SessionRecord};

use super::Kept;
use super::whom::Whom;
use crate::MissVerdict;

/// Who has not answered by then is asked once more: a lost packet costs QUIC 25 ms.
pub const REPEAT_US: u64 = 5_000;

/// After the first record, others get this long to show a newer one, unless somebody agrees sooner.
pub const GRACE_US: u64 = 800;

/// Who doubts the record that he has asks whether there is a later one; after the first who has the same,
/// others get this long: time enough to be asked twice.
pub const LATER_US: u64 = 8_000;

/// What a director that is asked knows as a home and from its table. (Ask the home first: what is applied
/// goes from there into the table, never back.)
pub fn known(kept: Kept, table: Known) -> Answer {
    match (kept, table) {
        (Kept::Session(young), Known::Session(record)) => Answer::Found(later_of(young, record)),
        (Kept::Session(record), _) | (_, Known::Session(record)) => Answer::Found(record),
        (Kept::Unsure, _) | (_, Known::Unsure) => Answer::DontKnow,
        (Kept::Nobody { authority }, Known::Nobody) => {
            Answer::No { as_leader: false, as_home: authority }
        }
    }
}

/// Which of two uses of a key prevails; if they are the same one, with the latest of both.
fn later_of(kept: Box<SessionRecord>, new: Box<SessionRecord>) -> Box<SessionRecord> {
    let same = kept.incarnation == new.incarnation;
    let (mut best, other) = if new.prevails_over(&kept) { (new, kept) } else { (kept, new) };
    if same {
        best.merge(&other);
    }
    best
}

/// What one director answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has it.
    Found(Box<SessionRecord>),
    /// It does not have it.
    No {
        /// It led the shard, confirmed by a quorum after the question came.
        as_leader: bool,
        /// As a home it was told everything by every live director.
        as_home: bool,
    },
    /// It cannot be sure.
    DontKnow,
    /// The question did not get there.
    Failed,
}

/// What is known of one director that is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    Nothing,
    Failed,
    Found(Incarnation),
    No { as_leader: bool, as_home: bool },
    DontKnow,
}

struct Asked {
    id: DirectorId,
    heard: Heard,
}

/// One question on its way.
pub struct Asking {
    whom: Whom,
    asked: Vec<Asked>,
    best: Option<Box<SessionRecord>>,
    repeat_us: Option<u64>,
    until_us: u64,
    sent: bool,
    /// Who has which use of the key already, and doubts that it is the last.
    doubted: Option<(DirectorId, Incarnation)>,
}

impl Asking {
    /// A question that has to be decided within `patience_us`.
    pub fn start(now_us: u64, patience_us: u64, whom: Whom) -> Asking {
        let mut asked: Vec<Asked> = Vec::new();
        for id in whom.homes.iter().chain(&whom.leader).chain(&whom.others) {
            if asked.iter().all(|a| a.id != *id) {
                asked.push(Asked { id: *id, heard: Heard::Nothing });
            }
        }
        Asking {
            whom,
            asked,
            best: None,
            repeat_us: Some(now_us + REPEAT_US),
            until_us: now_us + patience_us,
            sent: false,
            doubted: None,
        }
    }

    /// The asker has this use of the key already, and fears that there is a later one: that others have
    /// the same decides nothing before all have answered, and that it has it itself nothing at all.
    #[must_use]
    pub fn beyond(self, asker: DirectorId, known: Option<Incarnation>) -> Asking {
        Asking { doubted: known.map(|known| (asker, known)), ..self }
    }

    /// Whether a use of the key is news to the asker.
    fn is_later(&self, incarnation: &Incarnation) -> bool {
        self.doubted.as_ref().is_none_or(|(_, known)| incarnation > known)
    }

    /// Whether an answer is what its asker doubts, from itself.
    fn is_own_doubt(&self, from: DirectorId, answer: &Answer) -> bool {
        let Answer::Found(record) = answer else { return false };
        self.doubted == Some((from, record.incarnation))
    }

    /// Whom to send the question to now: everybody first, then once more whoever is silent.
    pub fn sends(&mut self, now_us: u64) -> Vec<DirectorId> {
        let again = self.repeat_us.is_some_and(|at| now_us >= at);
        if self.sent && !again {
            return Vec::new();
        }
        self.sent = true;
        if again {
            self.repeat_us = None;
        }
        let silent = |a: &&Asked| matches!(a.heard, Heard::Nothing | Heard::Failed);
        self.asked.iter().filter(silent).map(|a| a.id).collect()
    }

    /// An answer has come.
    pub fn answer(&mut self, now_us: u64, from: DirectorId, answer: Answer) {
        let answer = match self.is_own_doubt(from, &answer) {
            true => Answer::DontKnow,
            false => answer,
        };
        let first = match &answer {
            Answer::Found(record) => {
                let told = |a: &Asked| matches!(&a.heard, Heard::Found(i) if self.is_later(i));
                self.is_later(&record.incarnation) && !self.asked.iter().any(told)
            }
            _ => false,
        };
        let Some(asked) = self.asked.iter_mut().find(|a| a.id == from) else { return };
        asked.heard = match answer {
            // The attempt before may have got there.
            Answer::Failed if asked.heard != Heard::Nothing => return,
            Answer::Failed => Heard::Failed,
            Answer::DontKnow => Heard::DontKnow,
            Answer::No { as_leader, as_home } => Heard::No { as_leader, as_home },
            Answer::Found(record) => {
                let incarnation = record.incarnation;
                if first {
                    self.until_us = self.until_us.min(now_us + GRACE_US);
                } else if self.doubted.is_some_and(|(_, known)| known == incarnation) {
                    self.until_us = self.until_us.min(now_us + LATER_US);
                }
                // Not the first to arrive counts, but the newest identity; of twins, the one that
                // client and backend have agreed on; of the same, who has seen the latest.
                self.best = Some(match self.best.take() {
                    Some(best) => later_of(best, record),
                    None => record,
                });
                Heard::Found(incarnation)
            }
        };
    }

    /// When to look again, if nothing comes before.
    pub fn wake_us(&self) -> u64 {
        self.repeat_us.unwrap_or(u64::MAX).min(self.until_us)
    }

    /// What came of it; none: not decided yet.
    pub fn verdict(&self, now_us: u64) -> Option<MissVerdict> {
        let waiting = |done: fn(&Heard) -> bool| !self.asked.iter().all(|a| done(&a.heard));
        if let Some(best) = &self.best {
            let agree = |a: &&Asked| a.heard == Heard::Found(best.incarnation);
            let agreed = self.asked.iter().filter(agree).count() >= 2;
            let agreed = agreed && self.is_later(&best.incarnation);
            let decided = agreed || now_us >= self.until_us || !waiting(|h| *h != Heard::Nothing);
            return decided.then(|| MissVerdict::Found(best.clone()));
        }
        let open = waiting(|h| !matches!(h, Heard::Nothing | Heard::Failed));
        (!open || now_us >= self.until_us).then(|| self.denial())
    }

    /// What it means that nobody has it.
    fn denial(&self) -> MissVerdict {
        let denies = |a: &Asked| matches!(a.heard, Heard::No { .. });
        if self.asked.is_empty() || !self.asked.iter().all(denies) {
            return MissVerdict::DontKnow;
        }
        let said = |id: &DirectorId, what: fn(&Heard) -> bool| {
            self.asked.iter().any(|a| a.id == *id && what(&a.heard))
        };
        let home = |h: &Heard| matches!(h, Heard::No { as_home: true, .. });
        let leader = |h: &Heard| matches!(h, Heard::No { as_leader: true, .. });
        let sure = self.whom.settled
            && !self.whom.homes.is_empty()
            && self.whom.homes.iter().all(|id| said(id, home))
            && self.whom.leader.iter().any(|id| said(id, leader));
        match sure {
            true => MissVerdict::NoWithAuthority,
            false => MissVerdict::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_schema::session::{HalfSeen, SessionFlags};
    use proptest::prelude::*;

    use super::*;
    use crate::shard::tests::record;

    const A: DirectorId = DirectorId(1);
    const B: DirectorId = DirectorId(2);
    const C: DirectorId = DirectorId(3);
    const L: DirectorId = DirectorId(4);
    /// Is asked nothing.
    const D: DirectorId = DirectorId(5);
    const PATIENCE: u64 = 18_000;

    fn whom() -> Whom {
        Whom { homes: vec![A, B, C], leader: Some(L), others: vec![A], settled: true }
    }

    fn found(record: &SessionRecord) -> Answer {
        Answer::Found(Box::new(record.clone()))
    }

    fn no(as_leader: bool, as_home: bool) -> Answer {
        Answer::No { as_leader, as_home }
    }

    fn verdict_of(whom: Whom, answers: &[(DirectorId, Answer)], at_us: u64) -> Option<MissVerdict> {
        let mut asking = Asking::start(0, PATIENCE, whom);
        asking.sends(0);
        for (from, answer) in answers {
            asking.answer(10, *from, answer.clone());
        }
        asking.verdict(at_us)
    }

    #[test]
    fn everybody_is_asked_once_and_the_silent_once_more() {
        let mut asking = Asking::start(0, PATIENCE, whom());
        assert_eq!(asking.sends(0), [A, B, C, L]);
        assert!(asking.sends(1).is_empty());
        assert_eq!(asking.wake_us(), REPEAT_US);
        asking.answer(2, A, no(false, true));
        asking.answer(3, C, Answer::Failed);
        assert_eq!(asking.sends(REPEAT_US), [B, C, L]);
        assert_eq!(asking.wake_us(), PATIENCE);
        assert!(asking.sends(REPEAT_US + 1).is_empty());
        assert_eq!(asking.verdict(PATIENCE - 1), None);
        assert_eq!(asking.verdict(PATIENCE), Some(MissVerdict::DontKnow));
    }

    #[test]
    fn two_that_agree_decide_at_once_and_a_lone_one_after_a_moment() {
        let one = record(1, 5, 0);
        let lone = [(A, found(&one))];
        assert_eq!(verdict_of(whom(), &lone, 20), None, "another may know a newer one");
        assert!(matches!(verdict_of(whom(), &lone, 10 + GRACE_US), Some(MissVerdict::Found(_))));
        let agreed = [(A, found(&one)), (C, found(&one))];
        assert!(matches!(verdict_of(whom(), &agreed, 20), Some(MissVerdict::Found(_))));
        let rest =
            [(A, found(&one)), (B, Answer::Failed), (C, Answer::DontKnow), (L, no(true, false))];
        assert!(matches!(verdict_of(whom(), &rest, 20), Some(MissVerdict::Found(_))));
    }

    #[test]
    fn a_no_has_authority_if_all_homes_and_the_leader_have_it_and_nothing_moved() {
        let all = |a, b, c, l| vec![(A, a), (B, b), (C, c), (L, l)];
        let sure = all(no(false, true), no(false, true), no(false, true), no(true, false));
        assert_eq!(verdict_of(whom(), &sure, 20), Some(MissVerdict::NoWithAuthority));
        let moved = Whom { settled: false, ..whom() };
        assert_eq!(verdict_of(moved, &sure, 20), Some(MissVerdict::Nobody));
        let leaderless = Whom { leader: None, ..whom() };
        assert_eq!(verdict_of(leaderless, &sure, 20), Some(MissVerdict::Nobody));
        let withheld = all(no(false, true), no(false, false), no(false, true), no(true, true));
        assert_eq!(verdict_of(whom(), &withheld, 20), Some(MissVerdict::Nobody));
        let deposed = all(no(false, true), no(false, true), no(false, true), no(false, true));
        assert_eq!(verdict_of(whom(), &deposed, 20), Some(MissVerdict::Nobody));
        let unsure = all(no(false, true), Answer::DontKnow, no(false, true), no(true, true));
        assert_eq!(verdict_of(whom(), &unsure, 20), Some(MissVerdict::DontKnow));
        // The leader may be a home itself.
        let small = Whom { homes: vec![A, B], leader: Some(B), others: vec![], settled: true };
        let both = [(A, no(false, true)), (B, no(true, true))];
        assert_eq!(verdict_of(small, &both, 20), Some(MissVerdict::NoWithAuthority));
        let nobody = Whom { settled: true, ..Whom::default() };
        assert_eq!(verdict_of(nobody, &[], 20), Some(MissVerdict::DontKnow));
    }

    #[test]
    fn the_newest_opening_counts_and_of_twins_the_established_one() {
        let agreed = record(1, 5, 0);
        let mut twin = record(1, 6, 0);
        twin.flags = SessionFlags::CLIENT_OPENED;
        let mut reopened = record(1, 7, 0);
        reopened.incarnation.isn += 1;
        reopened.flags = SessionFlags::CLIENT_OPENED;
        let pick = |first: &SessionRecord, second: &SessionRecord| {
            let answers = [(A, found(first)), (B, found(second))];
            match verdict_of(whom(), &answers, PATIENCE) {
                Some(MissVerdict::Found(best)) => best.incarnation,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(pick(&agreed, &twin), agreed.incarnation);
        assert_eq!(pick(&twin, &agreed), agreed.incarnation);
        assert_eq!(pick(&agreed, &reopened), reopened.incarnation);
        assert_eq!(pick(&reopened, &agreed), reopened.incarnation);
    }

    /// Every replica has the record of the earlier use; only a home has heard of the later one.
    #[test]
    fn who_doubts_what_all_have_is_told_of_a_later_one() {
        let earlier = record(1, 5, 0);
        let mut later = record(1, 7, 0);
        later.incarnation.isn += 1;
        let mut asking = Asking::start(0, PATIENCE, whom()).beyond(D, Some(earlier.incarnation));
        asking.sends(0);
        asking.answer(10, A, found(&earlier));
        asking.answer(10, L, found(&earlier));
        assert_eq!(asking.verdict(20), None, "others may know a later one");
        asking.answer(1_000, B, found(&later));
        assert_eq!(asking.verdict(1_000), None, "and another a still later one");
        let told = asking.verdict(1_000 + GRACE_US);
        assert!(
            matches!(told, Some(MissVerdict::Found(best)) if best.incarnation == later.incarnation)
        );
        // It stays with the earlier one when all have answered, or some are silent.
        for (silent, at_us) in [(false, 20), (true, 10 + LATER_US)] {
            let mut asking =
                Asking::start(0, PATIENCE, whom()).beyond(D, Some(earlier.incarnation));
            asking.sends(0);
            for who in [A, B, L] {
                asking.answer(10, who, found(&earlier));
            }
            assert_eq!(asking.verdict(10 + LATER_US - 1), None);
            if !silent {
                asking.answer(20, C, no(false, true));
            }
            let told = asking.verdict(at_us);
            assert!(
                matches!(told, Some(MissVerdict::Found(r)) if r.incarnation == earlier.incarnation)
            );
        }
    }

    /// The asker is a home of its key, or leads its shard.
    #[test]
    fn who_doubts_its_own_record_does_not_agree_with_itself() {
        let earlier = record(1, 5, 0);
        let asked_by_itself = || {
            let mut asking =
                Asking::start(0, PATIENCE, whom()).beyond(A, Some(earlier.incarnation));
            asking.sends(0);
            asking.answer(10, A, found(&earlier));
            asking
        };
        let mut denied = asked_by_itself();
        for who in [B, C, L] {
            denied.answer(10, who, no(true, true));
        }
        assert_eq!(denied.verdict(10), Some(MissVerdict::DontKnow), "and it has no authority");
        let silent = asked_by_itself();
        assert_eq!(
            silent.verdict(10 + LATER_US),
            None,
            "time for the others, as if it had nothing"
        );
        assert_eq!(silent.verdict(PATIENCE), Some(MissVerdict::DontKnow));
        let told = |incarnation: Incarnation, from| {
            let mut asking = asked_by_itself();
            asking.answer(20, from, found(&SessionRecord { incarnation, ..earlier.clone() }));
            match asking.verdict(20 + LATER_US) {
                Some(MissVerdict::Found(best)) => best.incarnation,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(earlier.incarnation, B), earlier.incarnation, "somebody else has it too");
        let later = Incarnation { stamp: 7, isn: 8, ..earlier.incarnation };
        assert_eq!(told(later, A), later, "it has heard of a later one itself");
    }

    #[test]
    fn of_one_session_the_latest_of_each_direction_is_told() {
        let half = |age_ms, seq| HalfSeen { age_ms, seq, ack: 1 };
        let mut told = record(1, 5, 0);
        (told.client, told.backend_seen) = (half(9_000, 10), half(2_000, 20));
        let mut carried = told.clone();
        carried.owner = B;
        (carried.client, carried.backend_seen) = (half(5, 11), half(9_000, 19));
        let mut blind = told.clone();
        (blind.client, blind.backend_seen) =
            (half(9_000, 10), HalfSeen { age_ms: 1, seq: 0, ack: 0 });
        let mut latest = told.clone();
        (latest.client, latest.owner) = (carried.client, B);
        let all =
            [(A, found(&told)), (B, found(&carried)), (C, found(&blind)), (L, Answer::DontKnow)];
        for first in 0..3 {
            let mut answers = all.clone();
            answers.swap(0, first);
            let mut asking = Asking::start(0, PATIENCE, whom()).beyond(D, Some(told.incarnation));
            asking.sends(0);
            for (from, answer) in answers {
                asking.answer(10, from, answer);
            }
            assert_eq!(asking.verdict(20), Some(MissVerdict::Found(Box::new(latest.clone()))));
        }
        let kept = Kept::Session(Box::new(told.clone()));
        assert_eq!(known(kept, Known::Session(Box::new(carried))), found(&latest));
    }

    #[test]
    fn what_is_known_is_told_and_what_is_unsure_is_not_denied() {
        let (old, new) = (record(1, 5, 0), record(1, 6, 0));
        let kept = |r: &SessionRecord| Kept::Session(Box::new(r.clone()));
        let table = |r: &SessionRecord| Known::Session(Box::new(r.clone()));
        let nobody = |authority| Kept::Nobody { authority };
        assert_eq!(known(kept(&old), table(&new)), found(&new));
        assert_eq!(known(kept(&new), table(&old)), found(&new));
        assert_eq!(known(kept(&old), Known::Unsure), found(&old));
        assert_eq!(known(Kept::Unsure, table(&old)), found(&old));
        assert_eq!(known(Kept::Unsure, Known::Nobody), Answer::DontKnow);
        assert_eq!(known(nobody(true), Known::Unsure), Answer::DontKnow);
        assert_eq!(known(nobody(true), Known::Nobody), no(false, true));
        assert_eq!(known(nobody(false), Known::Nobody), no(false, false));
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            Just(found(&record(1, 5, 0))),
            (any::<bool>(), any::<bool>()).prop_map(|(l, h)| no(l, h)),
            Just(Answer::DontKnow),
            Just(Answer::Failed),
        ]
    }

    proptest! {
        /// It always ends in time; whoever says that he has it is believed; a sure no takes everybody.
        #[test]
        fn it_ends_in_time_and_never_denies_what_somebody_has(
            answers in proptest::collection::vec((1u32..6, any_answer(), 0u64..4_000), 0..12),
        ) {
            let mut asking = Asking::start(0, PATIENCE, whom());
            let mut now = 0;
            let mut verdict = None;
            let mut known = false;
            for (from, answer, later) in answers {
                now += later;
                asking.sends(now);
                verdict = asking.verdict(now);
                if verdict.is_some() {
                    break;
                }
                known |= matches!(answer, Answer::Found(_)) && from <= 4;
                asking.answer(now, DirectorId(from), answer);
            }
            let verdict = verdict.or_else(|| asking.verdict(now.max(PATIENCE)));
            prop_assert!(verdict.is_some());
            prop_assert_eq!(known, matches!(verdict, Some(MissVerdict::Found(_))));
            prop_assert!(asking.wake_us() <= PATIENCE);
        }
    }
}
