//! What a disk writes behind what has waited for it: in runs. The store's writer has all that it finds waiting share a
//! sync, and how long that takes is decided when it begins: what queues behind a slow disk is not slow when it is
//! fast again.

/// Most jobs that share a sync (raft/writer.rs of the store).
const JOBS: u32 = 64;

/// The run that was begun or announced last.
#[derive(Default)]
pub struct Runs {
    begins_us: u64,
    ends_us: u64,
    jobs: u32,
}

impl Runs {
    /// A disk that has stalled goes on.
    pub fn go_on(&mut self, now_us: u64) {
        *self = Runs { begins_us: now_us, ends_us: now_us + 1, jobs: 0 };
    }

    /// When (us) a job is done; a disk that writes nothing else takes so long for it.
    pub fn done_at(&mut self, now_us: u64, takes_us: u64) -> u64 {
        if self.ends_us <= now_us {
            return now_us + takes_us;
        }
        if self.begins_us <= now_us || self.jobs == JOBS {
            *self = Runs { begins_us: self.ends_us, ends_us: self.ends_us + takes_us, jobs: 0 };
        }
        self.jobs += 1;
        self.ends_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_shares_a_sync_and_runs_follow_one_another() {
        let mut runs = Runs::default();
        assert_eq!((runs.done_at(5, 10), runs.done_at(6, 100)), (15, 106), "nothing waits");
        runs.go_on(1_000);
        let done: Vec<u64> = (0..=JOBS).map(|_| runs.done_at(1_000, 100)).collect();
        assert!(done[..64].iter().all(|at| *at == 1_101) && done[64] == 1_201, "{done:?}");
        assert_eq!(runs.done_at(1_050, 7), 1_201, "it joins the run that has not begun");
        assert_eq!(runs.done_at(1_150, 7), 1_208, "and none that has");
        assert_eq!(runs.done_at(1_208, 7), 1_215);
    }

    #[test]
    fn a_slow_disk_has_caught_up_soon_after_it_is_fast_again() {
        let mut runs = Runs::default();
        runs.go_on(0);
        // More than it could write one by one.
        for at_us in (0..10_000_000).step_by(20_000) {
            let done_us = runs.done_at(at_us, 100_000);
            assert!(done_us <= at_us + 200_001, "{at_us}: {done_us}");
        }
        assert_eq!(runs.done_at(10_300_000, 50), 10_300_050);
    }
}
