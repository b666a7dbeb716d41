//! What the store's parts send each other.

use bytes::Bytes;
use holdfast_schema::cluster::DirectorId;
use holdfast_state_store::codec::wire::{Address, Form, Proposal};
use holdfast_state_store::peer::Lane;
use holdfast_state_store::simulation::Peers;
use parking_lot::Mutex;

/// A message of the store.
#[derive(Clone, Debug)]
pub enum Mail {
    /// Raft messages, or changes for a leader.
    Message(Lane, Bytes),
    /// A snapshot: of which replica, header, image.
    Snapshot(Address, Bytes, Bytes),
    /// It has arrived.
    Arrived(Address),
    /// A command for the control group's leader.
    Command(Box<Proposal>),
    /// Commit no-ops through these shards.
    Barrier(u64, Vec<u16>),
    /// The index of one.
    BarrierAt(u64, u16, u64),
    /// How are your replicas configured?
    AskForms,
    /// So.
    Forms(Vec<Form>),
}

/// What is sent, until somebody takes it.
#[derive(Default)]
pub struct Out(Mutex<Vec<(DirectorId, Mail)>>);

impl Out {
    /// Sends.
    pub fn push(&self, to: DirectorId, mail: Mail) {
        self.0.lock().push((to, mail));
    }

    /// Takes what was sent.
    pub fn take(&self) -> Vec<(DirectorId, Mail)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Peers for Out {
    fn send(&self, to: DirectorId, lane: Lane, message: Bytes) {
        self.push(to, Mail::Message(lane, message));
    }

    fn send_snapshot(&self, to: DirectorId, address: Address, header: Bytes, image: Bytes) {
        self.push(to, Mail::Snapshot(address, header, image));
    }
}
