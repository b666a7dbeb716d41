//! What a deterministic simulation of a cluster needs of the store: its cores, and a disk in memory.
//!
//! A simulated director has a [`SimulatedDisk`] for the control group and one for the session groups,
//! opens [`Group`]s from them, and steps a [`Driver`] for each. Nothing here has a thread, a clock or
//! randomness of its own: with the same seed in [`DriverConfig`], the same inputs at the same times
//! give the same messages.
//!
//! - [`Driver::take`] what arrives, then [`Driver::poll`], and again at [`Driver::next`];
//! - what it sends goes to the given [`Peers`]; the other side sorts it with [`message`] and
//!   [`snapshot`];
//! - what it has written waits in the disk ([`SimulatedDisk::outstanding`]) until
//!   [`SimulatedDisk::write_next`]; then it is polled.

mod disk;
#[cfg(test)]
mod tests;

pub use crate::raft::machine::{Machine, Records};
pub use crate::raft::{
    Disk, Driver, DriverConfig, Feed, Group, GroupState, Input, Peers, Place, Progress, Routes,
    TICK, bootstrap, found_empty, stored_place,
};
pub use crate::storage::Database;
pub use crate::store::arrived::{Arrived, message, snapshot};
pub use crate::store::machines::{
    ControlMachine, ShardContext, ShardMachine, SinkSlot, control_records,
};
pub use crate::store::member::{control_routes, session_routes};
pub use crate::store::published::{Published, View};
pub use crate::store::survey::{Lost, SURVEY, Survey};
pub use disk::SimulatedDisk;
