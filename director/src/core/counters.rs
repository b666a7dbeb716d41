//! What the packet core counts: plain numbers of one worker, mirrored for readers at batch ends.
//!
//! Every received packet ends in exactly one place, so that at any batch end
//! `received + unsent = forwarded + answered + dropped + parked` ([`Counters::unaccounted`] is 0).

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reason::DropReason;

macro_rules! counts {
    ($($variant:ident $label:literal $help:literal;)*) => {
        /// Something that is counted (besides drops).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Count {
            $(#[doc = $help] $variant,)*
        }

        impl Count {
            /// All counts, in the order of their numbers.
            pub const ALL: &[Count] = &[$(Count::$variant,)*];

            /// The count's name for metrics: `snake_case`, without prefix and without `_total`.
            pub const fn label(self) -> &'static str {
                match self { $(Count::$variant => $label,)* }
            }

            /// What is counted, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Count::$variant => $help,)* }
            }
        }
    };
}

counts! {
    ReceivedPackets "received_packets" "Packets received.";
    ReceivedBytes "received_bytes" "Bytes received, Ethernet headers included.";
    ToBackendPackets "to_backend_packets" "Packets forwarded to backends.";
    ToBackendBytes "to_backend_bytes" "Bytes forwarded to backends, Ethernet headers included.";
    ToClientPackets "to_client_packets" "Packets forwarded to clients.";
    ToClientBytes "to_client_bytes" "Bytes forwarded to clients, Ethernet headers included.";
    AnsweredEcho "answered_echo" "Echo requests answered.";
    AnsweredReset "answered_reset" "Packets of denied sessions answered with a TCP reset.";
    AnsweredTooBig "answered_too_big" "Packets answered with ICMP fragmentation needed.";
    AnsweredTtl "answered_ttl" "Packets answered with ICMP time exceeded.";
    AnsweredProbe "answered_probe" "Packets of clients that are far from all that is known of their session, or perhaps of another backend's connection: their backend was asked for its numbers in their place.";
    ExpiredClientsReset "expired_clients_reset" "Clients that were at rest when their session expired, and were sent a reset.";
    ExpiredBackendsReset "expired_backends_reset" "Backends that were at rest when their session expired, and were sent a reset.";
    ProbesToClient "probes_to_client" "Probes sent to clients whose session expired.";
    ProbesToBackend "probes_to_backend" "Probes sent to backends whose session expired.";
    ExpiriesRefuted "expiries_refuted" "Packets that proved an expired session alive.";
    ResetsUnbelieved "resets_unbelieved" "TCP resets whose number neither side expects: forwarded, and the session goes on.";
    IcmpTranslated "icmp_translated" "ICMP errors translated and forwarded (counted as forwarded too).";
    SessionsOpenedTcp "sessions_opened_tcp" "TCP sessions opened here.";
    SessionsOpenedUdp "sessions_opened_udp" "UDP sessions opened here.";
    SessionsReplaced "sessions_replaced" "Sessions opened in place of a closing one with the same addresses and ports.";
    OpenedNextLip "opened_next_lip" "Sessions whose first local address had no free port for them.";
    OpenedNextBackend "opened_next_backend" "Sessions whose first backend had no free local port for them, or no next hop.";
    SharedLookups "shared_lookups" "Packets that this worker's own flow cache did not know.";
    ContendedLookups "contended_lookups" "Accesses to the shared session table that met a taken lock.";
    Parked "parked" "Packets put into the waiting room.";
    Released "released" "Packets that left the waiting room to be forwarded, answered or parked again.";
    Questions "questions" "Questions put to other directors.";
    QuestionsRepeated "questions_repeated" "Questions repeated because no answer had come.";
    AnswersFound "answers_found" "Answers that told the session.";
    AnswersDenied "answers_denied" "Answers that denied the session with authority.";
    AnswersUnknown "answers_unknown" "Answers that could not tell.";
    AnswersLate "answers_late" "Answers to questions that nobody waited for any more.";
    TwinsReset "twins_reset" "Half-open connections of backends reset, because another director had the session of the same opening (not counted as answered).";
    QuestionsRefused "questions_refused" "Questions that found no room on their way to the other directors: they come again.";
    RegistrationsDropped "registrations_dropped" "New or just established sessions that found no room on their way to their homes: a walk over all sessions makes up for them.";
    Unsent "unsent" "Packets counted as forwarded or answered that could not be transmitted (counted as dropped too).";
    UdpScheduledUnasked "udp_scheduled_unasked" "UDP flows scheduled here because the asking budget was used up, or because their datagram had no room to wait.";
}

impl Count {
    /// How many counts there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// All counts and drops, of one worker or (added up) of several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counters {
    counts: [u64; Count::COUNT],
    drops: [u64; DropReason::COUNT],
    parked: u64,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { counts: [0; Count::COUNT], drops: [0; DropReason::COUNT], parked: 0 }
    }
}

impl Counters {
    /// One count.
    #[inline]
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// Packets dropped for one reason.
    #[inline]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_packets(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Packets that are in the waiting room now.
    pub fn parked(&self) -> u64 {
        self.parked
    }

    /// Packets forwarded, in both directions.
    pub fn forwarded_packets(&self) -> u64 {
        self.count(Count::ToBackendPackets) + self.count(Count::ToClientPackets)
    }

    /// Packets answered by this director itself.
    pub fn answered_packets(&self) -> u64 {
        self.count(Count::AnsweredEcho)
            + self.count(Count::AnsweredReset)
            + self.count(Count::AnsweredProbe)
            + self.count(Count::ExpiredClientsReset)
            + self.count(Count::ExpiredBackendsReset)
            + self.count(Count::AnsweredTooBig)
            + self.count(Count::AnsweredTtl)
    }

    /// Packets whose fate nobody counted; always 0 at a batch end.
    pub fn unaccounted(&self) -> i128 {
        i128::from(self.count(Count::ReceivedPackets)) + i128::from(self.count(Count::Unsent))
            - i128::from(self.forwarded_packets())
            - i128::from(self.answered_packets())
            - i128::from(self.dropped_packets())
            - i128::from(self.parked)
    }

    #[inline]
    pub(super) fn add(&mut self, count: Count, n: u64) {
        self.counts[count as usize] += n;
    }

    #[inline]
    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    pub(super) fn drop_many(&mut self, reason: DropReason, n: u64) {
        self.drops[reason as usize] += n;
    }

    #[inline]
    pub(super) fn set_parked(&mut self, n: u64) {
        self.parked = n;
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        for (to, from) in self.drops.iter_mut().zip(&other.drops) {
            *to += from;
        }
        self.parked += other.parked;
    }
}

/// The mirror of one worker's [`Counters`]: written by that worker at batch ends, read by anybody.
/// A reader may see one batch half counted; each number by itself never goes backwards (but for
/// `parked`).
#[derive(Debug)]
#[repr(align(128))]
pub struct SharedCounters {
    counts: [AtomicU64; Count::COUNT],
    drops: [AtomicU64; DropReason::COUNT],
    parked: AtomicU64,
}

impl Default for SharedCounters {
    fn default() -> SharedCounters {
        SharedCounters {
            counts: [const { AtomicU64::new(0) }; Count::COUNT],
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            parked: AtomicU64::new(0),
        }
    }
}

impl SharedCounters {
    /// Mirrors a worker's counters.
    #[inline]
    pub fn publish(&self, from: &Counters) {
        for (to, from) in self.counts.iter().zip(&from.counts) {
            to.store(*from, Ordering::Relaxed);
        }
        for (to, from) in self.drops.iter().zip(&from.drops) {
            to.store(*from, Ordering::Relaxed);
        }
        self.parked.store(from.parked, Ordering::Relaxed);
    }

    /// One count as mirrored last.
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// What was mirrored last.
    pub fn read(&self) -> Counters {
        let mut counters = Counters::default();
        for (to, from) in counters.counts.iter_mut().zip(&self.counts) {
            *to = from.load(Ordering::Relaxed);
        }
        for (to, from) in counters.drops.iter_mut().zip(&self.drops) {
            *to = from.load(Ordering::Relaxed);
        }
        counters.parked = self.parked.load(Ordering::Relaxed);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_unique() {
        let labels: BTreeSet<_> = Count::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Count::COUNT);
    }

    #[test]
    fn the_mirror_shows_everything() {
        let mut counters = Counters::default();
        for (at, count) in Count::ALL.iter().enumerate() {
            counters.add(*count, at as u64 + 1);
        }
        for reason in DropReason::ALL {
            counters.drop(*reason);
        }
        counters.set_parked(9);
        let shared = SharedCounters::default();
        shared.publish(&counters);
        assert_eq!(shared.read(), counters);
        let mut twice = counters.clone();
        twice += &counters;
        assert_eq!(twice.dropped(DropReason::Internal), 2);
        assert_eq!(twice.parked(), 18);
    }
}
