//! Groups of replicas on raft-rs, and the threads that drive them.
//!
//! One driver serves all session groups, another one the control group. A driver is a core that is
//! stepped ([`Driver::take`], [`Driver::poll`]); its thread ([`start`]) is a thin shell around it, a
//! plain thread, so that a busy tokio runtime does not delay it. Each has a storage thread, which
//! writes what its driver decides: a stalled disk delays what waits for it, but no tick and no
//! heartbeat.
//! Heartbeats between directors are elsewhere altogether ([`crate::peer`]).

mod disk;
mod driver;
mod feed;
mod group;
mod inflight;
mod lead;
mod log;
mod logger;
pub mod machine;
mod outbox;
mod reads;
mod ready;
mod reform;
mod shell;
mod status;
mod tail;
#[cfg(test)]
pub(crate) mod tests;
mod turns;
mod writer;

pub use disk::{Disk, Ended, Job, Part, Report, Writer};
pub use driver::{Driver, DriverConfig, Input, Peers, Routes};
pub use feed::Feed;
pub use group::{Group, Place, bootstrap, found_empty, stored_place};
pub use shell::{Handle, Running, Surroundings, inputs, start};
pub use status::{GroupState, Progress};

use std::time::Duration;

/// The tick of all groups.
pub const TICK: Duration = Duration::from_millis(50);
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Ticks without a leader before a follower asks for votes; the most is twice as many.
const ELECTION_TICKS: usize = 10;
/// Most bytes of entries in one message.
const MESSAGE_BYTES: u64 = 512 << 10;
/// Append messages in flight to one follower.
const INFLIGHT: usize = 16;
/// Bytes of entries a leader takes before a majority has them.
const UNCOMMITTED_BYTES: u64 = 32 << 20;
/// A learner that lacks at most this many entries may become a voter.
const CAUGHT_UP_ENTRIES: u64 = 256;

fn config(replica: u64, applied: u64) -> raft::Config {
    raft::Config {
        id: replica,
        election_tick: ELECTION_TICKS,
        heartbeat_tick: HEARTBEAT_TICKS,
        applied,
        max_size_per_msg: MESSAGE_BYTES,
        max_inflight_msgs: INFLIGHT,
        check_quorum: true,
        pre_vote: true,
        // raft-rs 0.7 would put entries that a follower needs again behind an empty message that is
        // still waiting, without looking at its index; the follower then acknowledges what it has not.
        batch_append: false,
        max_uncommitted_size: UNCOMMITTED_BYTES,
        max_committed_size_per_ready: 4 << 20,
        ..raft::Config::default()
    }
}
