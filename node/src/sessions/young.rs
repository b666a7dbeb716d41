//! The thread that takes from the workers what they put down: questions about unknown sessions, and
//! new sessions, which it tells to their homes. A question wakes it, because a packet waits for the answer; for new
//! sessions it comes by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_director::core::Count;
use holdfast_director::session::{SessionTable, YoungWalk};
use holdfast_schema::session::SessionRecord;
use holdfast_state_store::Registrar;

use super::misses::Misses;
use crate::clock::mono_ms;
use crate::forward::Forwarder;
use crate::node::Node;

/// Time between two visits, if nobody asks.
const IDLE: Duration = Duration::from_micros(500);

/// Questions and new sessions taken at a visit: one kind must not keep the other waiting.
const QUESTIONS: usize = 256;
const OPENED: usize = 512;

/// Slots that a walk over all sessions looks at, at a visit.
const SLOTS: usize = 2_048;

/// Runs until the daemon stops.
pub fn run(node: &Arc<Node>, misses: &Misses) {
    let Some(forwarder) = node.forwarder.get() else { return };
    let table = forwarder.sessions().clone();
    let mut telling = Telling::default();
    let mut more = false;
    while !node.stopping.load(Ordering::Relaxed) {
        if !more {
            forwarder.wait_for_questions(IDLE);
        }
        let ask = |worker, question| misses.ask(worker, question);
        more = forwarder.take_questions(QUESTIONS, ask);
        if let Some(registrar) = node.store.registrar() {
            telling.visit(forwarder, &table, &registrar);
        }
    }
}

/// How far the telling of new sessions is.
#[derive(Default)]
struct Telling {
    walk: Option<YoungWalk>,
    records: Vec<SessionRecord>,
    lost: u64,
}

impl Telling {
    fn visit(&mut self, forwarder: &Forwarder, table: &Arc<SessionTable>, registrar: &Registrar) {
        let now_ms = mono_ms();
        self.records.clear();
        let take = |slot| self.records.extend(table.young(slot, now_ms));
        let mut behind = forwarder.take_young(OPENED, take);
        loop {
            if self.records.len() >= 2 * OPENED {
                behind = true;
                break;
            }
            let Some(slot) = table.next_said_again() else { break };
            self.records.extend(table.young(slot, now_ms));
        }
        if !self.records.is_empty() {
            registrar.opened(&self.records);
        }
        // Before anything is said: a home that lacks what was lost must not deny.
        let lost = forwarder.count(Count::RegistrationsDropped);
        if lost != self.lost {
            self.lost = lost;
            registrar.missed();
        }
        if registrar.begins_walk() {
            self.walk = Some(YoungWalk::default());
        }
        self.walk_on(table, registrar, now_ms);
        registrar.send(behind);
    }

    fn walk_on(&mut self, table: &SessionTable, registrar: &Registrar, now_ms: u64) {
        let Some(walk) = &mut self.walk else { return };
        let Some(room) = registrar.room() else {
            self.walk = None;
            return;
        };
        self.records.clear();
        let most = room.min(OPENED);
        let complete = walk.step(table, now_ms, SLOTS, most, |record| self.records.push(record));
        registrar.walked(&self.records, complete);
        if complete {
            self.walk = None;
        }
    }
}
