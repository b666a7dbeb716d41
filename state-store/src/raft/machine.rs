//! What a group's driver needs of its state machine.

use crate::membership::MemberView;
pub use crate::shard::Dirty;

/// Records of a state machine by key.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// A replicated state machine. Runs on the driver's thread.
pub trait Machine: Send + 'static {
    /// Applies a committed entry. An error stops this replica for good: skipping an entry would
    /// make it differ from the others.
    fn apply(&mut self, index: u64, data: &[u8]) -> Result<(), String>;

    /// What changed since the last time this was asked.
    fn take_dirty(&mut self) -> Dirty;

    /// Everything.
    fn image(&self) -> Records;

    /// Takes a snapshot's records in place of everything.
    fn install(&mut self, records: Records) -> Result<(), String>;

    /// Somebody who is told what is applied may have been attached. Tells everything; false: there is nobody.
    fn attached(&mut self) -> bool {
        false
    }

    /// How many sessions it holds.
    fn sessions(&self) -> u64 {
        0
    }

    /// Leader only, a few times a second: entries it wants to propose of itself.
    fn as_leader(&mut self, now_ms: u64) -> Vec<Vec<u8>>;

    /// Leader only: an entry that carries these batches of changes (perhaps none).
    fn wrap(&mut self, now_ms: u64, batches: Vec<Vec<u8>>) -> Vec<u8>;

    /// Whether a batch that a peer or this director proposes can be applied.
    fn acceptable(&self, batch: &[u8]) -> bool;

    /// The leadership has gone to somebody else, or came.
    fn role_changed(&mut self);

    /// Generation of this group that the control group wants, and the replica that begins it; none:
    /// there is only ever one.
    fn form(&self) -> Option<(u32, u64)>;

    /// The group is formed anew, and what this machine holds is not in it (unless this replica
    /// begins it): propose it again and forget it. What there is no room for now, [`Machine::go_on`]
    /// proposes later.
    fn carry_over(&mut self);

    /// Called with every tick.
    fn go_on(&mut self) {}

    /// The members, named by their replicas in this group.
    fn members(&self) -> Vec<MemberView>;
}
