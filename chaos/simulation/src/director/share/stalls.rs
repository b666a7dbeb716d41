//! Disks that do nothing for a while: a driver that has to wait for its disk in the middle of its work does
//! nothing else until then, and what is for it waits as well. (On the simulated disk the wait itself is over at
//! once: what was waited for counts as written.)

use holdfast_state_store::simulation::{Driver, Input};

use super::{Disks, Share, Which};

/// The stalls of one process.
#[derive(Default)]
pub(super) struct Stalls {
    /// How often each driver has waited for its disk.
    waits: [u64; 2],
    /// What waits for a driver that waits.
    held: [Option<Vec<Input>>; 2],
    /// The groups that this director led when it last looked.
    led: Vec<bool>,
    /// Groups that it has given away because its disk did not answer.
    handed_over: u64,
}

impl Stalls {
    /// Whether a driver waits for its disk.
    pub(super) fn holds(&self, which: Which) -> bool {
        self.held[which as usize].is_some()
    }

    /// What a driver may take now, if it goes on.
    pub(super) fn go_on_with(&mut self, which: Which, input: Input) -> Option<Input> {
        match &mut self.held[which as usize] {
            None => Some(input),
            Some(waiting) => {
                waiting.push(input);
                None
            }
        }
    }

    /// Looks whether a driver has had to wait for its disk.
    pub(super) fn look(&mut self, which: Which, disks: &Disks) {
        let waits = disks.of(which).waits();
        let waited = std::mem::replace(&mut self.waits[which as usize], waits) != waits;
        if waited && disks.stalled.get() {
            self.held[which as usize] = Some(Vec::new());
        }
    }
}

impl Share {
    /// Groups that were given away because the disk did not answer.
    pub fn handed_over(&self) -> u64 {
        self.stalls.handed_over
    }

    pub(super) fn go_on_after_stall(&mut self, now_us: u64) {
        if self.disks.stalled.get() {
            return;
        }
        for which in [Which::Control, Which::Sessions] {
            let Some(waiting) = self.stalls.held[which as usize].take() else { continue };
            for input in waiting {
                self.take(which, input, now_us);
            }
            self.poll(which, now_us);
        }
    }

    pub(super) fn note_handed_over(&mut self) {
        let overdue = |n: usize| match n {
            0 => self.control.disk_is_overdue(),
            _ => self.sessions.as_ref().is_some_and(Driver::disk_is_overdue),
        };
        let leads: Vec<bool> = self.states.iter().map(|state| state.progress().leads).collect();
        let given =
            |(n, led): &(usize, &bool)| **led && !leads.get(*n).is_some_and(|l| *l) && overdue(*n);
        self.stalls.handed_over += self.stalls.led.iter().enumerate().filter(given).count() as u64;
        self.stalls.led = leads;
    }
}
