//! What a driver thread shows of its groups to everybody else.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use raft::eraftpb::ConfState;

use crate::codec::wire::Form;

/// The state of one group's replica. Written by its driver thread only.
#[derive(Default, Debug)]
pub struct GroupState {
    leader: AtomicU64,
    term: AtomicU64,
    committed: AtomicU64,
    applied: AtomicU64,
    sessions: AtomicU64,
    leads: AtomicBool,
    caught_up: AtomicBool,
    told: AtomicBool,
    replica: AtomicU64,
    generation: AtomicU32,
    conf: Mutex<ConfState>,
    halted: Mutex<Option<String>>,
}

/// Numbers that change with every entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The leader's replica; 0: none known.
    pub leader: u64,
    /// Term.
    pub term: u64,
    /// Committed index.
    pub committed: u64,
    /// Applied index.
    pub applied: u64,
    /// Sessions in the machine.
    pub sessions: u64,
    /// Whether this replica leads.
    pub leads: bool,
}

impl GroupState {
    pub(super) fn publish(&self, p: Progress) {
        self.leader.store(p.leader, Ordering::Relaxed);
        self.term.store(p.term, Ordering::Relaxed);
        self.committed.store(p.committed, Ordering::Relaxed);
        self.sessions.store(p.sessions, Ordering::Relaxed);
        self.leads.store(p.leads, Ordering::Relaxed);
        // Whoever reads this index also sees what a sink that was told all was told up to it.
        self.applied.store(p.applied, Ordering::Release);
    }

    pub(super) fn set_conf(&self, conf: ConfState) {
        *self.conf.lock() = conf;
    }

    pub(super) fn set_replica(&self, replica: u64) {
        self.replica.store(replica, Ordering::Relaxed);
    }

    /// Said last: whoever reads it sees nothing older than this generation afterwards.
    pub(super) fn set_generation(&self, generation: u32) {
        self.generation.store(generation, Ordering::Release);
    }

    pub(super) fn set_caught_up(&self, caught_up: bool) {
        self.caught_up.store(caught_up, Ordering::Relaxed);
    }

    pub(super) fn halt(&self, why: &str) {
        self.halted.lock().get_or_insert_with(|| why.to_owned());
    }

    /// The numbers.
    pub fn progress(&self) -> Progress {
        Progress {
            leader: self.leader.load(Ordering::Relaxed),
            term: self.term.load(Ordering::Relaxed),
            committed: self.committed.load(Ordering::Relaxed),
            applied: self.applied.load(Ordering::Acquire),
            sessions: self.sessions.load(Ordering::Relaxed),
            leads: self.leads.load(Ordering::Relaxed),
        }
    }

    /// The configuration last applied here.
    pub fn conf(&self) -> ConfState {
        self.conf.lock().clone()
    }

    /// How the group is configured, as far as this replica knows.
    pub fn form(&self) -> Form {
        let (generation, conf) = (self.generation(), self.conf());
        let (voters, outgoing) = (conf.voters, conf.voters_outgoing);
        Form { generation, applied: self.progress().applied, voters, outgoing }
    }

    /// Whether this replica hears a leader, and can do something about what it says.
    pub fn led(&self) -> bool {
        self.progress().leader != 0 && self.halted.lock().is_none()
    }

    /// This replica.
    pub fn replica(&self) -> u64 {
        self.replica.load(Ordering::Relaxed)
    }

    /// The generation of the group that this replica is in. To be read first.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether this replica has caught up with its leader once since it started.
    pub fn caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_told(&self, told: bool) {
        self.told.store(told, Ordering::Release);
    }

    /// Whether the sink has been told everything once: groups tell a new one by turns, and others go on meanwhile.
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Whether the sink knows all that this replica could deny: what it has not, the group has not.
    pub fn sink_knows_all(&self) -> bool {
        self.caught_up() && self.told() && self.halted().is_none()
    }

    /// Why this replica stopped working, if it did.
    pub fn halted(&self) -> Option<String> {
        self.halted.lock().clone()
    }
}
