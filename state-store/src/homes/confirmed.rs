//! When a home's *no* counts.
//!
//! Owners number what they say to each home, and say how far back one has to have heard them to know
//! everything: since the batch with which their last telling of all their young sessions began. A
//! home that has missed nothing since then, and has heard of the owner a moment ago, knows all young
//! sessions of that owner that it is a home of. Knowing that of every live owner, it may deny.

use std::collections::BTreeMap;

use holdfast_schema::cluster::DirectorId;

/// Two batches of registrations (ms): what was on its way when the last owner confirmed is there.
pub const SETTLING_MS: u64 = 10;

/// How long (ms) an owner may be silent: three times the interval of [`super::saying::BEAT_MS`]. One
/// that cannot be heard may have sessions that this home was not told of.
pub const HEARD_MS: u64 = 150;

/// What is said of a batch besides its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heading {
    /// The owner's life; an older one says nothing that counts.
    pub incarnation: u64,
    /// The membership epoch that the owner goes by.
    pub epoch: u64,
    /// Counts the batches of this owner to this home, from 0.
    pub number: u64,
    /// Whoever has heard everything from this number on has been told everything.
    pub told: Option<u64>,
}

/// What one owner has said.
#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    incarnation: u64,
    /// The number the next batch must have.
    next: u64,
    /// Every batch from this one on has been heard.
    unbroken: u64,
    /// The epoch for which everything is said, and since when (ms).
    complete: Option<(u64, u64)>,
    heard_ms: u64,
}

/// Confirmations of all owners.
#[derive(Debug, Default)]
pub struct Confirmed {
    owners: BTreeMap<DirectorId, Owner>,
}

impl Confirmed {
    /// A batch of an owner has come. Some: everything has to be said again, because what came before
    /// the batch with that number was missed.
    pub fn batch(&mut self, now_ms: u64, owner: DirectorId, heading: &Heading) -> Option<u64> {
        let said = self.owners.entry(owner).or_default();
        if heading.incarnation > said.incarnation {
            *said = Owner { incarnation: heading.incarnation, ..Owner::default() };
        }
        // Stragglers of another connection, or of an earlier life: their loss was noticed already.
        if heading.incarnation < said.incarnation || heading.number < said.next {
            return None;
        }
        if heading.number > said.next {
            said.unbroken = heading.number;
            said.complete = None;
        }
        said.next = heading.number + 1;
        said.heard_ms = now_ms;
        match heading.told {
            Some(since) if since >= said.unbroken => {
                if said.complete.is_none_or(|(epoch, _)| epoch != heading.epoch) {
                    said.complete = Some((heading.epoch, now_ms));
                }
                None
            }
            Some(_) => {
                said.complete = None;
                Some(said.unbroken)
            }
            None => {
                said.complete = None;
                None
            }
        }
    }

    /// Whether this home may deny in `epoch`, given the live owners (itself left out) and their lives.
    pub fn has_authority(
        &self,
        now_ms: u64,
        epoch: u64,
        live: impl IntoIterator<Item = (DirectorId, u64)>,
    ) -> bool {
        live.into_iter().all(|(owner, incarnation)| {
            self.owners.get(&owner).is_some_and(|said| {
                said.incarnation == incarnation
                    && now_ms <= said.heard_ms + HEARD_MS
                    && said.complete.is_some_and(|(complete, since_ms)| {
                        complete == epoch && now_ms >= since_ms + SETTLING_MS
                    })
            })
        })
    }

    /// Forgets owners that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(DirectorId) -> bool) {
        self.owners.retain(|owner, _| is_member(*owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DirectorId = DirectorId(1);
    const B: DirectorId = DirectorId(2);

    fn heading(number: u64, told: Option<u64>) -> Heading {
        Heading { incarnation: 1, epoch: 4, number, told }
    }

    fn may_deny(confirmed: &Confirmed, now_ms: u64, epoch: u64) -> bool {
        confirmed.has_authority(now_ms, epoch, [(A, 1), (B, 1)])
    }

    #[test]
    fn all_live_owners_have_to_confirm_and_what_was_under_way_has_to_arrive() {
        let mut home = Confirmed::default();
        assert_eq!(home.batch(100, A, &heading(0, Some(0))), None);
        assert_eq!(home.batch(100, B, &heading(0, None)), None);
        assert!(!may_deny(&home, 120, 4), "B has not said everything");
        home.batch(130, B, &heading(1, Some(0)));
        assert!(!may_deny(&home, 130 + SETTLING_MS - 1, 4));
        assert!(may_deny(&home, 130 + SETTLING_MS, 4));
        assert!(!may_deny(&home, 150, 5), "another epoch");
        assert!(!home.has_authority(150, 4, [(A, 2), (B, 1)]), "another life of A");
    }

    #[test]
    fn an_owner_that_falls_silent_takes_the_authority_along() {
        let mut home = Confirmed::default();
        home.batch(0, A, &heading(0, Some(0)));
        assert!(home.has_authority(HEARD_MS, 4, [(A, 1)]));
        assert!(!home.has_authority(HEARD_MS + 1, 4, [(A, 1)]));
        home.batch(HEARD_MS + 5, A, &heading(1, Some(0)));
        assert!(home.has_authority(HEARD_MS + 5, 4, [(A, 1)]), "nothing was missed");
    }

    #[test]
    fn a_gap_takes_the_authority_until_everything_is_said_again() {
        let mut home = Confirmed::default();
        assert_eq!(home.batch(0, A, &heading(0, Some(0))), None);
        assert_eq!(home.batch(20, A, &heading(1, Some(0))), None);
        assert!(home.has_authority(50, 4, [(A, 1)]));
        assert_eq!(home.batch(60, A, &heading(3, Some(0))), Some(3), "2 was lost");
        assert!(!home.has_authority(60, 4, [(A, 1)]));
        assert_eq!(
            home.batch(61, A, &heading(4, Some(0))),
            Some(3),
            "it is asked for until it comes"
        );
        assert_eq!(home.batch(62, A, &heading(5, None)), None, "it is being said");
        assert_eq!(home.batch(63, A, &heading(6, Some(5))), None);
        assert!(home.has_authority(63 + SETTLING_MS, 4, [(A, 1)]));
        // Lost again while it was being said again.
        assert_eq!(home.batch(64, A, &heading(9, Some(7))), Some(9));
    }

    #[test]
    fn a_home_that_begins_in_the_middle_has_missed_everything() {
        let mut home = Confirmed::default();
        assert_eq!(home.batch(0, A, &heading(7, Some(0))), Some(7));
        assert_eq!(home.batch(1, A, &heading(6, Some(0))), None, "a straggler");
        assert!(!home.has_authority(20, 4, [(A, 1)]));
    }

    #[test]
    fn an_earlier_life_of_an_owner_is_not_listened_to() {
        let mut home = Confirmed::default();
        home.batch(0, A, &Heading { incarnation: 2, ..heading(0, Some(0)) });
        assert_eq!(home.batch(1, A, &heading(8, Some(9))), None);
        assert!(home.has_authority(20, 4, [(A, 2)]));
        home.batch(21, A, &Heading { incarnation: 3, ..heading(0, None) });
        assert!(!home.has_authority(22, 4, [(A, 2)]));
    }
}
