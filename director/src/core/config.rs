//! The limits of one worker's packet core.

/// Limits of a [`Core`](super::Core). Rates and sizes are one worker's share, see
/// [`CoreConfig::for_workers`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreConfig {
    /// How many sessions the worker's own flow cache has room for.
    pub flow_cache_sessions: u32,
    /// Packets that may wait.
    pub waiting_packets: u32,
    /// Flows that may wait.
    pub waiting_flows: u32,
    /// Packets of one flow that may wait.
    pub waiting_packets_a_flow: u32,
    /// Bytes of a packet that may wait; also the room for an answer in its place.
    pub waiting_bytes: u32,
    /// How long (ns) a packet may wait.
    pub wait_ns: u64,
    /// After which time (ns) a question is repeated.
    pub repeat_ns: u64,
    /// How long (ns) a denial is remembered.
    pub remember_denial_ns: u64,
    /// How long (ns) after a client was refused first another denial resets it: longer than the news of a session
    /// are on their way to its homes, and shorter than a client waits before it tries again (200 ms in Linux).
    pub confirm_denial_ns: u64,
    /// Questions a second, on average.
    pub asks_per_second: u32,
    /// Questions at once.
    pub ask_burst: u32,
    /// Questions a second about clients of one /24.
    pub prefix_asks_per_second: u32,
    /// Questions at once about clients of one /24.
    pub prefix_ask_burst: u32,
    /// ICMP errors a second (RFC 1812 section 4.3.2.8).
    pub icmp_errors_per_second: u32,
    /// ICMP errors at once.
    pub icmp_error_burst: u32,
    /// Unix time (ms) at which the monotonic clock was 0; for the stamps of new sessions.
    pub unix_ms_at_zero: u64,
}

impl CoreConfig {
    /// The defaults of a director with that many sessions and workers, shared out equally.
    ///
    /// Waiting room and asking rate belong together: 20,000 questions a second wait 20 ms each, so
    /// 400 flows wait at a time, and bursts bring more.
    pub fn for_workers(max_sessions: u32, workers: u16) -> CoreConfig {
        let workers = u32::from(workers.max(1));
        let share = |whole: u32, least: u32| whole.div_ceil(workers).max(least);
        CoreConfig {
            // The receive side scaling is never quite even.
            flow_cache_sessions: share(max_sessions, 1024)
                .saturating_mul(2)
                .min(max_sessions.max(1024)),
            waiting_packets: share(4096, 512),
            waiting_flows: share(2048, 256),
            waiting_packets_a_flow: 32,
            waiting_bytes: 2048,
            wait_ns: 20_000_000,
            repeat_ns: 5_000_000,
            remember_denial_ns: 100_000_000,
            confirm_denial_ns: 150_000_000,
            asks_per_second: share(20_000, 1_000),
            ask_burst: share(2_000, 200),
            prefix_asks_per_second: share(5_000, 500),
            prefix_ask_burst: share(1_000, 100),
            icmp_errors_per_second: share(1_000, 100),
            icmp_error_burst: share(200, 20),
            unix_ms_at_zero: 0,
        }
    }
}

/// How often a director asks others about unknown sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskLimits {
    /// Questions a second.
    pub per_second: u32,
    /// Of them about clients of one /24.
    pub prefix_per_second: u32,
}

impl Default for AskLimits {
    fn default() -> AskLimits {
        AskLimits { per_second: 20_000, prefix_per_second: 5_000 }
    }
}

impl CoreConfig {
    /// These limits of a whole director, shared out over so many workers. At once it asks as much as in
    /// a tenth of a second, about a prefix as in a fifth.
    #[must_use]
    pub fn with_asks(self, asks: &AskLimits, workers: u16) -> CoreConfig {
        let share = |whole: u32| whole.div_ceil(u32::from(workers.max(1))).max(1);
        CoreConfig {
            asks_per_second: share(asks.per_second),
            ask_burst: share(asks.per_second / 10),
            prefix_asks_per_second: share(asks.prefix_per_second),
            prefix_ask_burst: share(asks.prefix_per_second / 5),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directors_asking_rate_is_shared_out() {
        let one = CoreConfig::for_workers(1_000_000, 1);
        assert_eq!(one.clone().with_asks(&AskLimits::default(), 1), one, "the defaults agree");
        let asks = AskLimits { per_second: 400, prefix_per_second: 50 };
        let four = CoreConfig::for_workers(1_000_000, 4).with_asks(&asks, 4);
        assert_eq!((four.asks_per_second, four.ask_burst), (100, 10));
        assert_eq!((four.prefix_asks_per_second, four.prefix_ask_burst), (13, 3));
    }

    #[test]
    fn shares_add_up_and_never_vanish() {
        let one = CoreConfig::for_workers(1_000_000, 1);
        let four = CoreConfig::for_workers(1_000_000, 4);
        assert_eq!(four.asks_per_second * 4, one.asks_per_second);
        assert_eq!(one.flow_cache_sessions, 1_000_000);
        let many = CoreConfig::for_workers(10, 64);
        assert!(many.flow_cache_sessions >= 1024 && many.waiting_packets >= 512);
        assert!(one.waiting_flows >= one.ask_burst, "a burst of questions has room to wait");
    }
}
