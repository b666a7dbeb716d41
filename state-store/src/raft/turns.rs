//! What takes long with many sessions: the image of a group for a follower, and telling a new sink
//! everything. One of each a poll, so that the heartbeats of all groups leave in between: a director
//! that leads all of them would else be silent until the last was done, and lead none.

use std::time::Duration;

use bytes::Bytes;

use super::driver::Driver;
use super::log::Prepared;
use super::machine::Machine;
use crate::codec;
use crate::codec::disk::MachineImage;

impl<M: Machine> Driver<M> {
    /// Whether something is left for the next poll.
    pub(super) fn waits(&self) -> bool {
        self.untold < self.groups.len()
            || self.groups.iter().any(|g| !g.halted() && g.raw.store().wants())
    }

    /// Makes one image and tells of one group, if there is need.
    pub(super) fn take_turns(&mut self, now: Duration) -> Result<(), String> {
        if let Some(group) = self.groups.get_mut(self.untold) {
            self.untold += 1;
            let told = group.machine.attached();
            group.state.set_told(told);
        }
        // By turns: no group waits for ever behind one that needs a new image again and again.
        for _ in 0..self.groups.len() {
            self.image_at = (self.image_at + 1) % self.groups.len();
            if self.prepare_snapshot(self.image_at, now) {
                return self.work(now);
            }
        }
        Ok(())
    }

    /// Makes the snapshot that a follower needs, as of what is applied now; false: none does.
    fn prepare_snapshot(&mut self, at: usize, now: Duration) -> bool {
        let group = &mut self.groups[at];
        let Some(to) = group.raw.store().take_wanted() else { return false };
        // Whoever needed it may have been removed since.
        let known = group.raw.raft.prs().get(to).is_some();
        if group.halted() || !group.leads() || !known {
            return false;
        }
        let log = group.raw.store();
        let (index, conf) = (log.applied(), log.conf().clone());
        let term = match log.term_of(index) {
            Ok(term) => term,
            Err(e) => {
                group.halt(&e.to_string());
                return false;
            }
        };
        let records = group.machine.image();
        let image = Bytes::from(codec::encode(&MachineImage { records }));
        group.raw.mut_store().prepared = Some(Prepared { index, term, conf, image, made: now });
        group.raw.raft.send_append(to);
        true
    }
}
