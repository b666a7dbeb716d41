//! What survives the death of a process: its disks, and what it notes there of itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_state_store::codec::disk::ControlRecord;
use holdfast_state_store::codec::wire::Address;
use holdfast_state_store::simulation::{
    Place, Records, SimulatedDisk, bootstrap, control_records, found_empty,
};

use super::Which;

/// What a director notes of itself, through to the disk.
#[derive(Clone, Default)]
pub struct Identity {
    /// How often it has started.
    pub incarnation: u64,
    /// Its replica of the session groups; 0: it waits for a new one.
    pub replica: u64,
    /// The generation of each shard.
    pub generations: Vec<u32>,
    /// The cluster as last noted.
    pub cluster: Option<Arc<ClusterState>>,
    /// Whether the last run ended clean.
    pub clean: bool,
    /// Whether it has lost what it remembered of sessions and goes on as the same replica: what a director
    /// never does, but for a negative control.
    pub forgot: bool,
}

/// What survives the death of a process: disks, and what is written there.
#[derive(Clone)]
pub struct Disks {
    /// Who this is.
    pub identity: Rc<RefCell<Identity>>,
    /// The control group's.
    pub control: SimulatedDisk,
    /// The session groups'.
    pub sessions: SimulatedDisk,
    /// They do nothing now.
    pub stalled: Rc<Cell<bool>>,
}

impl Disks {
    /// The disks of a member that has not started yet. The first director founds the groups.
    pub fn new(me: DirectorId, record: &ControlRecord) -> Disks {
        let (control, sessions) = (SimulatedDisk::new(), SimulatedDisk::new());
        let founds = me.0 == 1;
        let place = |group, replica| Place { group, generation: 1, replica };
        let found = |disk: &SimulatedDisk, place, records: &Records| match founds {
            true => bootstrap(&disk.database(), place, records),
            false => found_empty(&disk.database(), place),
        };
        let replica = record.cluster.members[&me].replica.0;
        let written =
            found(&control, place(Address::CONTROL, u64::from(me.0)), &control_records(record));
        written.expect("an empty disk takes it");
        for shard in 0..record.cluster.shard_count {
            found(&sessions, place(shard, replica), &Records::new())
                .expect("an empty disk takes it");
        }
        let identity = Identity {
            incarnation: 1,
            replica,
            generations: vec![1; usize::from(record.cluster.shard_count)],
            cluster: Some(Arc::new(record.cluster.clone())),
            clean: true,
            forgot: false,
        };
        Disks {
            identity: Rc::new(RefCell::new(identity)),
            control,
            sessions,
            stalled: Rc::default(),
        }
    }

    /// One of the two.
    pub fn of(&self, which: Which) -> &SimulatedDisk {
        match which {
            Which::Control => &self.control,
            Which::Sessions => &self.sessions,
        }
    }

    /// The process has died.
    pub fn lose_process(&self) {
        self.control.lose_process();
        self.sessions.lose_process();
    }

    /// The machine has died: of what was not synced, so many batches are left. What it remembered of
    /// sessions cannot be trusted any more, and it begins anew.
    pub fn lose_machine(&self, left: usize, new_number: bool) {
        self.control.lose_machine(left);
        self.lose_sessions(new_number);
    }

    /// What it remembered of sessions cannot be trusted any more.
    pub fn lose_sessions(&self, new_number: bool) {
        self.sessions.replace();
        let mut identity = self.identity.borrow_mut();
        identity.forgot |= !new_number;
        if new_number {
            identity.replica = 0;
        }
    }
}
