//! What is remembered of a connection: when it should have moved, when it did, how it ended.
//!
//! Pure: times are given in, in milliseconds of `CLOCK_MONOTONIC`.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

/// The kinds of connection.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Cohort {
    /// An exchange every quarter of a second.
    Echo,
    /// A byte from the backend every 2 s.
    Drip,
    /// Nothing for 20 s, then an exchange.
    Idle,
    /// A rate-limited download.
    Bulk,
    /// UDP: half are asked by the client, half are sent datagrams by the backend.
    Udp,
    /// Lives for a few seconds.
    Young,
}

impl Cohort {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Cohort::Echo => "echo",
            Cohort::Drip => "drip",
            Cohort::Idle => "idle",
            Cohort::Bulk => "bulk",
            Cohort::Udp => "udp",
            Cohort::Young => "young",
        }
    }

    /// Whether such connections end by themselves.
    pub fn passes(self) -> bool {
        matches!(self, Cohort::Bulk | Cohort::Young)
    }
}

/// Transport of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Progress that came later than it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stall {
    /// When it was due.
    pub due_ms: u64,
    /// When it came.
    pub came_ms: u64,
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at_ms: u64,
    /// What went wrong; none: it came to its proper end.
    pub error: Option<String>,
    /// The system's number for it, where the system said so.
    #[serde(default)]
    pub errno: Option<i32>,
}

/// No progress for this long beyond the expected gap: the connection is lost.
pub const LOST_AFTER_MS: u64 = 10_000;

/// How long silence may last until a connection counts as lost: [`LOST_AFTER_MS`], but longer where
/// a fault takes the service away for a known while.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patience(Vec<Span>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    from_ms: u64,
    until_ms: u64,
    patience_ms: u64,
}

impl Patience {
    /// The same at all times.
    pub fn of(patience_ms: u64) -> Patience {
        let mut patience = Patience::default();
        patience.between(0, u64::MAX, patience_ms);
        patience
    }

    /// Another one for progress that is due between two times.
    pub fn between(&mut self, from_ms: u64, until_ms: u64, patience_ms: u64) {
        self.0.push(Span { from_ms, until_ms, patience_ms });
    }

    /// How long progress may be late that was due then.
    fn at(&self, due_ms: u64) -> u64 {
        let spans = self.0.iter().filter(|s| (s.from_ms..s.until_ms).contains(&due_ms));
        spans.map(|s| s.patience_ms).max().unwrap_or(LOST_AFTER_MS)
    }

    /// Whether it was over before a stall was.
    fn ends(&self, stall: &Stall) -> bool {
        stall.came_ms >= stall.due_ms + self.at(stall.due_ms)
    }
}

/// A shorter excess is not noted: it is scheduling, not a stall.
const NOTED_FROM_MS: u64 = 5;

/// One connection (or UDP flow) from its opening on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its number, unique among all clients.
    pub id: u64,
    /// Its kind.
    pub cohort: Cohort,
    /// TCP or UDP.
    pub transport: Transport,
    /// The client's side, once known.
    pub local: Option<SocketAddrV4>,
    /// The VIP and port.
    pub remote: SocketAddrV4,
    /// When connect() was called (UDP: the first datagram was sent).
    pub opened_ms: u64,
    /// When connect() returned (UDP: the first datagram came back).
    pub connected_ms: Option<u64>,
    /// When the next progress is due.
    pub due_ms: u64,
    /// When the last one came.
    pub last_ms: Option<u64>,
    /// How many there were.
    pub progress: u64,
    /// Those that came late.
    pub stalls: Vec<Stall>,
    /// The backend that answered first.
    pub backend: Option<String>,
    /// When another backend answered.
    pub moved_ms: Vec<u64>,
    /// When something came back damaged.
    pub corrupt_ms: Vec<u64>,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

impl Record {
    /// A connection that is about to be opened.
    pub fn new(
        id: u64,
        cohort: Cohort,
        transport: Transport,
        remote: SocketAddrV4,
        now: u64,
    ) -> Record {
        Record {
            id,
            cohort,
            transport,
            local: None,
            remote,
            opened_ms: now,
            connected_ms: None,
            due_ms: now,
            last_ms: None,
            progress: 0,
            stalls: Vec::new(),
            backend: None,
            moved_ms: Vec::new(),
            corrupt_ms: Vec::new(),
            ended: None,
        }
    }

    /// connect() has returned. What came before was not a connection yet, so it was no stall; an opening
    /// that takes too long is a loss all the same ([`Record::lost_with`]).
    pub fn connected(&mut self, now: u64) {
        self.connected_ms = Some(now);
        self.due_ms = now;
    }

    /// Something came that proves the connection alive; the next is due at `next_due`.
    pub fn progress(&mut self, now: u64, next_due: u64) {
        if now >= self.due_ms + NOTED_FROM_MS {
            self.stalls.push(Stall { due_ms: self.due_ms, came_ms: now });
        }
        self.last_ms = Some(now);
        self.progress += 1;
        self.due_ms = next_due;
    }

    /// The next progress is due sooner than was said, because the client speaks now.
    pub fn speaks(&mut self, now: u64) {
        self.due_ms = self.due_ms.min(now);
    }

    /// The name in an answer: the first one stays.
    pub fn answered_by(&mut self, name: &str, now: u64) {
        match &self.backend {
            None => self.backend = Some(name.to_owned()),
            Some(first) if first == name => {}
            Some(_) => self.moved_ms.push(now),
        }
    }

    /// Something came back damaged.
    pub fn corrupt(&mut self, now: u64) {
        self.corrupt_ms.push(now);
    }

    /// It broke.
    pub fn failed(&mut self, now: u64, error: impl Into<String>, errno: Option<i32>) {
        self.end(Ended { at_ms: now, error: Some(error.into()), errno });
    }

    /// It came to its proper end.
    pub fn finished(&mut self, now: u64) {
        self.end(Ended { at_ms: now, error: None, errno: None });
    }

    fn end(&mut self, ended: Ended) {
        // The first end counts.
        self.ended.get_or_insert(ended);
    }

    /// When it ended, if it has.
    pub fn ended_ms(&self) -> Option<u64> {
        self.ended.as_ref().map(|e| e.at_ms)
    }

    /// When it was lost, judged at `now` with the usual patience.
    pub fn lost_ms(&self, now: u64) -> Option<u64> {
        self.lost_with(&Patience::default(), now)
    }

    /// When it was lost, judged at `now`: by an error, by a close, or by too long without progress
    /// beyond the expected gap. What comes after that makes it no less lost.
    ///
    /// The time of a silent loss is a second after progress was due: that tells which step broke it,
    /// also for an answer that was under way when the step began.
    pub fn lost_with(&self, patience: &Patience, now: u64) -> Option<u64> {
        let error = self.ended.as_ref().filter(|e| e.error.is_some()).map(|e| e.at_ms);
        // Silence before an error counts too: whoever hears nothing for 10 s is lost then, not when a
        // late reset says so. A proper end owes nothing any more.
        let heard_until = match &self.ended {
            // Whoever has no connection yet cannot lose one; young ones are judged by the whole.
            None if self.connected_ms.is_none() && self.cohort != Cohort::Young => None,
            None => Some(now),
            Some(ended) => ended.error.as_ref().map(|_| ended.at_ms),
        };
        let waits = heard_until.map(|came_ms| Stall { due_ms: self.due_ms, came_ms });
        let stalls = self.opening().into_iter().chain(self.stalls.iter().copied()).chain(waits);
        let silence = stalls.into_iter().find(|s| patience.ends(s)).map(|s| s.due_ms + 1_000);
        error.into_iter().chain(silence).min()
    }

    /// How long a young one took to be opened. (Others are opened in quiet times, and are waited for.)
    fn opening(&self) -> Option<Stall> {
        let came_ms = self.connected_ms.filter(|_| self.cohort == Cohort::Young)?;
        Some(Stall { due_ms: self.opened_ms, came_ms })
    }

    /// Whether it could not be opened, or not within what patience there was.
    pub fn unopened(&self, patience: &Patience) -> bool {
        self.connected_ms.is_none() || self.opening().is_some_and(|s| patience.ends(&s))
    }

    /// Why it was lost, for people.
    pub fn loss(&self) -> String {
        match self.ended.as_ref().and_then(|e| e.error.as_deref()) {
            Some(error) => error.to_owned(),
            None if self.connected_ms.is_none() => "nobody answered its opening".to_owned(),
            None => "it fell silent".to_owned(),
        }
    }

    /// Its stalls, in order; one that goes on has come when the record was taken, at `now`.
    pub fn waits(&self, now: u64) -> impl Iterator<Item = Stall> + '_ {
        let waits = (self.ended.is_none() && now > self.due_ms)
            .then_some(Stall { due_ms: self.due_ms, came_ms: now });
        self.stalls.iter().copied().chain(waits)
    }

    /// The longest excess over the expected gap of which any part lies between `from` and `until`;
    /// `now` is when the record was taken, for progress that is overdue.
    pub fn worst_stall_ms(&self, from: u64, until: u64, now: u64) -> u64 {
        self.waits(now)
            .filter(|s| s.came_ms >= from && s.due_ms <= until)
            .map(|s| s.came_ms - s.due_ms)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut r =
            Record::new(1, Cohort::Echo, Transport::Tcp, "203.0.113.10:1".parse().unwrap(), 1000);
        r.connected(3000);
        r
    }

    #[test]
    fn silence_before_a_late_error_is_the_loss() {
        let mut r = record();
        r.progress(3001, 3251);
        r.failed(60_000, "reset", None);
        assert_eq!(r.lost_ms(100_000), Some(4251));
        let mut soon = record();
        soon.progress(3001, 3251);
        soon.failed(3300, "reset", None);
        assert_eq!(soon.lost_ms(100_000), Some(3300));
    }

    #[test]
    fn a_stall_is_the_excess_over_the_gap() {
        let mut r = record();
        r.progress(3001, 3251);
        r.progress(3254, 3504); // 3 ms late: scheduling
        r.progress(4504, 4754); // 1 s late
        assert_eq!(r.stalls, [Stall { due_ms: 3504, came_ms: 4504 }]);
        assert_eq!(r.worst_stall_ms(0, 10_000, 4504), 1000);
        assert_eq!(r.worst_stall_ms(4000, 10_000, 4504), 1000, "begun before, felt within");
        assert_eq!(r.worst_stall_ms(4505, 10_000, 4600), 0, "over before");
        assert_eq!(r.worst_stall_ms(0, 3400, 4504), 0, "begun after");
        assert_eq!(r.worst_stall_ms(5000, 10_000, 5054), 300, "still waiting");
        assert_eq!(r.lost_ms(5054), None);
    }

    #[test]
    fn silence_counts_as_lost_even_if_it_ends() {
        let mut r = record();
        r.progress(3000, 3250);
        assert_eq!(r.lost_ms(13_249), None);
        assert_eq!(r.lost_ms(13_250), Some(4_250));
        r.progress(14_000, 14_250);
        assert_eq!(r.lost_ms(14_001), Some(4_250));
        assert_eq!(r.loss(), "it fell silent");
    }

    #[test]
    fn a_fault_that_takes_the_service_away_is_waited_for_longer() {
        let mut r = record();
        r.progress(3000, 3250);
        let mut patience = Patience::default();
        patience.between(3_000, 4_000, 30_000);
        assert_eq!(r.lost_with(&patience, 33_249), None);
        assert_eq!(r.lost_with(&patience, 33_250), Some(4_250));
        r.progress(20_000, 20_250);
        assert_eq!(r.lost_with(&patience, 20_001), None);
        assert_eq!(r.lost_with(&patience, 30_250), Some(21_250), "outside of the span");
        assert_eq!(r.lost_with(&Patience::of(60_000), 30_250), None);
    }

    #[test]
    fn an_error_is_a_loss_and_a_proper_end_is_none() {
        let mut r = record();
        r.failed(5000, "connection reset by peer", None);
        r.finished(6000);
        assert_eq!(r.lost_ms(90_000), Some(5000));
        assert_eq!(r.loss(), "connection reset by peer");
        let mut r = record();
        r.finished(5000);
        assert_eq!(r.lost_ms(90_000), None);
        assert_eq!(r.worst_stall_ms(0, 100_000, 90_000), 0, "an ended one waits for nothing");
    }

    #[test]
    fn connecting_slowly_is_no_stall() {
        let r = record();
        assert_eq!(r.worst_stall_ms(0, 9000, 3000), 0);
        let never =
            Record::new(1, Cohort::Young, Transport::Tcp, "203.0.113.10:1".parse().unwrap(), 1000);
        assert_eq!(never.lost_ms(10_999), None);
        assert_eq!(never.lost_ms(11_000), Some(2_000));
        assert_eq!(never.loss(), "nobody answered its opening");
    }

    #[test]
    fn a_young_one_that_is_opened_too_late_is_lost() {
        let opened_after = |cohort, ms: u64, patience: &Patience| {
            let remote = "203.0.113.10:1".parse().unwrap();
            let mut r = Record::new(1, cohort, Transport::Tcp, remote, 1_000);
            r.connected(1_000 + ms);
            r.finished(1_000 + ms);
            (r.lost_with(patience, 90_000), r.unopened(patience))
        };
        let usual = Patience::default();
        assert_eq!(opened_after(Cohort::Young, 9_999, &usual), (None, false));
        assert_eq!(opened_after(Cohort::Young, 10_000, &usual), (Some(2_000), true));
        assert_eq!(opened_after(Cohort::Young, 30_000, &Patience::of(40_000)), (None, false));
        assert_eq!(opened_after(Cohort::Bulk, 10_000, &usual), (None, false), "it is waited for");
    }

    #[test]
    fn the_first_name_stays() {
        let mut r = record();
        r.answered_by("b1", 10);
        r.answered_by("b1", 20);
        r.answered_by("b2", 30);
        r.answered_by("b1", 40);
        assert_eq!((r.backend.as_deref(), r.moved_ms.as_slice()), (Some("b1"), &[30][..]));
    }

    #[test]
    fn a_client_that_speaks_early_expects_its_answer_now() {
        let mut r = record();
        r.progress(3000, 23_000);
        r.speaks(8000);
        assert_eq!(r.worst_stall_ms(0, 30_000, 8100), 100);
        r.progress(8200, 28_200);
        assert_eq!(r.stalls, [Stall { due_ms: 8000, came_ms: 8200 }]);
    }
}
