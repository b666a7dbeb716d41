//! The decision to let go: pure, fed with heartbeats and elapsed time.

use crate::shm::SLOTS;

/// How long one look at the heartbeats counts at the most, in polls. A guard that was itself kept
/// from running (the whole machine was) has not watched the daemon meanwhile, so it must not blame it.
const MOST_POLLS_A_LOOK: u64 = 4;

#[derive(Clone, Copy, Default)]
struct Seen {
    beat: u64,
    unchanged_ns: u64,
}

/// Watches heartbeats. A slot whose word is 0 has not begun to beat and is not judged.
pub struct Watch {
    timeout_ns: u64,
    most_a_look_ns: u64,
    seen: [Seen; SLOTS],
}

impl Watch {
    /// Lets go after `timeout_ns` of silence; looks happen every `poll_ns`.
    pub fn new(timeout_ns: u64, poll_ns: u64) -> Watch {
        Watch {
            timeout_ns,
            most_a_look_ns: poll_ns * MOST_POLLS_A_LOOK,
            seen: [Seen::default(); SLOTS],
        }
    }

    /// One look, `elapsed_ns` after the last one. Tells the slot that has been silent for too long.
    pub fn look(&mut self, elapsed_ns: u64, mut beat: impl FnMut(usize) -> u64) -> Option<usize> {
        let watched = elapsed_ns.min(self.most_a_look_ns);
        let mut silent = None;
        for (slot, seen) in self.seen.iter_mut().enumerate() {
            let now = beat(slot);
            if now == 0 || now != seen.beat {
                *seen = Seen { beat: now, unchanged_ns: 0 };
                continue;
            }
            seen.unchanged_ns += watched;
            if seen.unchanged_ns > self.timeout_ns && silent.is_none() {
                silent = Some(slot);
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn silence_of_a_begun_slot_is_noticed_in_time() {
        let mut watch = Watch::new(50 * MS, 5 * MS);
        let mut at = 0;
        // Slot 2 beats until 100 ms and is silent afterwards; slot 1 goes on; the rest never began.
        let noticed = loop {
            at += 5;
            let silent = watch.look(5 * MS, |slot| match slot {
                1 => at,
                2 => at.min(100),
                _ => 0,
            });
            if let Some(slot) = silent {
                assert_eq!(slot, 2);
                break at;
            }
        };
        assert!((150..=160).contains(&noticed), "{noticed}");
    }

    #[test]
    fn a_stall_of_the_whole_machine_is_not_blamed_on_the_daemon() {
        let mut watch = Watch::new(50 * MS, 5 * MS);
        assert_eq!(watch.look(5 * MS, |_| 1), None);
        // Everybody slept for ten seconds; the guard happens to run first.
        assert_eq!(watch.look(10_000 * MS, |_| 1), None);
        assert_eq!(watch.look(5 * MS, |_| 2), None);
        // But a daemon that stays silent afterwards is found out.
        let looks = (0..20).take_while(|_| watch.look(5 * MS, |_| 2).is_none()).count();
        assert!(looks <= 11, "{looks}");
    }

    proptest! {
        /// While every slot changes within the timeout, the guard never lets go, whatever the rhythm.
        #[test]
        fn beating_slots_are_never_released(steps in proptest::collection::vec((1u64..40, 0u8..3), 1..300)) {
            let mut watch = Watch::new(50 * MS, 5 * MS);
            let (mut beat, mut since) = (1u64, 0u64);
            for (elapsed_ms, beats) in steps {
                since += elapsed_ms;
                if beats > 0 || since > 45 {
                    beat += 1;
                    since = 0;
                }
                prop_assert_eq!(watch.look(elapsed_ms * MS, |_| beat), None);
            }
        }
    }
}
