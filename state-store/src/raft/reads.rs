//! ReadIndex: a leader's proof that it still leads, and a follower's that it has caught up.

use std::time::Duration;

use tokio::sync::oneshot;

use super::status::GroupState;

/// An unanswered round is given up after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rounds of one replica.
pub struct Reads {
    /// The last round's number.
    last: u64,
    /// Asked since the last round began.
    gathering: Vec<oneshot::Sender<()>>,
    rounds: Vec<Round>,
}

struct Round {
    number: u64,
    since: Duration,
    /// The index it was confirmed at.
    index: Option<u64>,
    waiters: Vec<oneshot::Sender<()>>,
    catches_up: bool,
}

impl Reads {
    /// Rounds with the numbers that follow this one. Anywhere: an answer to this replica's previous
    /// life must not confirm a round of this one.
    pub fn after(last: u64) -> Reads {
        Reads { last, gathering: Vec::new(), rounds: Vec::new() }
    }

    /// Somebody wants this replica's leadership confirmed. Dropping the sender is a no.
    pub fn ask(&mut self, waiter: oneshot::Sender<()>) {
        self.gathering.push(waiter);
    }

    /// Whether somebody waits for a round to begin.
    pub fn gathering(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Whether a round to see if this replica has caught up is under way.
    pub fn catching_up(&self) -> bool {
        self.rounds.iter().any(|r| r.catches_up)
    }

    /// Begins a round for everybody who asked; the bytes name it in the whole group.
    pub fn begin(&mut self, replica: u64, catches_up: bool, now: Duration) -> Vec<u8> {
        self.last = self.last.wrapping_add(1);
        let waiters = std::mem::take(&mut self.gathering);
        let number = self.last;
        self.rounds.push(Round { number, since: now, index: None, waiters, catches_up });
        let mut name = replica.to_be_bytes().to_vec();
        name.extend_from_slice(&number.to_be_bytes());
        name
    }

    /// A round was confirmed at `index`.
    pub fn confirmed(&mut self, name: &[u8], index: u64) {
        let number = name.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if let Some(round) = self.rounds.iter_mut().find(|r| Some(r.number) == number) {
            round.index = Some(index);
        }
    }

    /// This replica has applied up to `applied`.
    pub fn applied(&mut self, applied: u64, state: &GroupState) {
        let mut at = 0;
        while at < self.rounds.len() {
            if self.rounds[at].index.is_some_and(|index| index <= applied) {
                let round = self.rounds.swap_remove(at);
                if round.catches_up {
                    state.set_caught_up(true);
                }
                for waiter in round.waiters {
                    // Whoever asked may have given up.
                    let _ = waiter.send(());
                }
            } else {
                at += 1;
            }
        }
    }

    /// Gives up rounds that nobody answered.
    pub fn expire(&mut self, now: Duration) {
        self.rounds.retain(|r| now.saturating_sub(r.since) < PATIENCE);
    }

    /// Everybody gets a no.
    pub fn fail_all(&mut self) {
        self.gathering.clear();
        self.rounds.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_the_previous_life_confirms_nothing() {
        let (state, now) = (GroupState::default(), Duration::ZERO);
        let mut before = Reads::after(1 << 40);
        let late = before.begin(1, true, now);
        let mut reads = Reads::after(2 << 40);
        let own = reads.begin(1, true, now);
        assert_ne!(late, own);
        reads.confirmed(&late, 5);
        reads.applied(5, &state);
        assert!(reads.catching_up() && !state.caught_up());
        reads.confirmed(&own, 5);
        reads.applied(5, &state);
        assert!(!reads.catching_up() && state.caught_up());
    }

    #[test]
    fn numbers_begin_again_at_the_end() {
        let mut reads = Reads::after(u64::MAX);
        assert_eq!(reads.begin(1, false, Duration::ZERO)[8..], [0; 8]);
    }
}
