//! The retransmission timer (RFC 6298, without the measurement of round trips).

/// What has to be done when the timer has run out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expiry {
    /// Nothing yet.
    NotDue,
    /// Send again.
    Again,
    /// There was no answer for too long.
    GiveUp,
}

/// Doubles its interval each time it runs out; gives up when it has waited long enough.
#[derive(Clone, Debug)]
pub(super) struct Retransmission {
    first_us: u64,
    most_us: u64,
    give_up_us: u64,
    interval_us: u64,
    since_us: u64,
    deadline_us: Option<u64>,
}

impl Retransmission {
    pub(super) fn new(first_us: u64, most_us: u64, give_up_us: u64) -> Retransmission {
        let (interval_us, since_us) = (first_us, 0);
        Retransmission { first_us, most_us, give_up_us, interval_us, since_us, deadline_us: None }
    }

    /// When it runs out.
    pub(super) fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// Something was sent that needs an answer.
    pub(super) fn start(&mut self, now_us: u64) {
        if self.deadline_us.is_none() {
            self.interval_us = self.first_us;
            self.since_us = now_us;
            self.deadline_us = Some(now_us + self.interval_us);
        }
    }

    /// Something was answered; whether more is outstanding.
    pub(super) fn progress(&mut self, now_us: u64, outstanding: bool) {
        self.deadline_us = None;
        if outstanding {
            self.start(now_us);
        }
    }

    /// Whether it has run out, and what that means. It runs again if it says [`Expiry::Again`].
    pub(super) fn expire(&mut self, now_us: u64) -> Expiry {
        match self.deadline_us {
            Some(deadline_us) if deadline_us <= now_us => {}
            _ => return Expiry::NotDue,
        }
        if now_us - self.since_us >= self.give_up_us {
            self.deadline_us = None;
            return Expiry::GiveUp;
        }
        self.interval_us = (self.interval_us * 2).min(self.most_us);
        // The last wait ends at the bound.
        let bound_us = self.since_us + self.give_up_us;
        self.deadline_us = Some((now_us + self.interval_us).min(bound_us));
        Expiry::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_and_gives_up() {
        let mut timer = Retransmission::new(100, 500, 2_000);
        timer.start(1_000);
        timer.start(1_050); // runs already
        let mut sent = Vec::new();
        let mut now = 1_000;
        loop {
            now += 1;
            match timer.expire(now) {
                Expiry::NotDue => {}
                Expiry::Again => sent.push(now - 1_000),
                Expiry::GiveUp => break,
            }
        }
        assert_eq!(sent, [100, 300, 700, 1_200, 1_700]);
        assert_eq!(now, 3_000);
        assert_eq!(timer.deadline_us(), None);
    }

    #[test]
    fn an_answer_begins_anew() {
        let mut timer = Retransmission::new(100, 500, 2_000);
        timer.start(0);
        assert_eq!(timer.expire(100), Expiry::Again);
        assert_eq!(timer.deadline_us(), Some(300));
        timer.progress(150, true);
        assert_eq!(timer.deadline_us(), Some(250));
        timer.progress(160, false);
        assert_eq!(timer.expire(10_000), Expiry::NotDue);
    }
}
