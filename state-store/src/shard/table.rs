//! Sessions of a shard by key, in slots that can be walked in budgeted steps.

use std::collections::HashMap;

use holdfast_schema::flow::FlowKey;

use crate::codec::disk::StoredSession;

/// Sessions by key. Slots are reused; a walk by slot number sees every session that stays.
#[derive(Default)]
pub struct Table {
    index: HashMap<FlowKey, u32, ahash::RandomState>,
    slots: Vec<Option<StoredSession>>,
    free: Vec<u32>,
}

impl Table {
    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The session with this key.
    pub fn get(&self, key: &FlowKey) -> Option<&StoredSession> {
        self.slots.get(*self.index.get(key)? as usize)?.as_ref()
    }

    /// The session with this key, to change.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut StoredSession> {
        self.slots.get_mut(*self.index.get(key)? as usize)?.as_mut()
    }

    /// Keeps a session in place of whatever had its key.
    pub fn insert(&mut self, session: StoredSession) {
        let key = session.record.key;
        if let Some(slot) = self.index.get(&key) {
            self.slots[*slot as usize] = Some(session);
            return;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(session);
                slot
            }
            None => {
                self.slots.push(Some(session));
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(key, slot);
    }

    /// Forgets the session with this key.
    pub fn remove(&mut self, key: &FlowKey) -> Option<StoredSession> {
        let slot = self.index.remove(key)?;
        self.free.push(slot);
        self.slots[slot as usize].take()
    }

    /// All sessions, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &StoredSession> {
        self.slots.iter().flatten()
    }

    /// The sessions of the next `budget` slots from `cursor` on, and the cursor behind them
    /// (0: the walk is over).
    pub fn walk(
        &self,
        cursor: usize,
        budget: usize,
    ) -> (impl Iterator<Item = &StoredSession>, usize) {
        let from = cursor.min(self.slots.len());
        let to = (from + budget).min(self.slots.len());
        let next = if to >= self.slots.len() { 0 } else { to };
        (self.slots[from..to].iter().flatten(), next)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self =
            Table { index: HashMap::with_hasher(self.index.hasher().clone()), ..Table::default() };
    }
}
