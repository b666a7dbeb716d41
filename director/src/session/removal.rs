//! Removal with prejudice: sessions that end although their packets go on.
//!
//! A listener or backend that is drained stays in the configuration until its sessions are over. So
//! when one of them goes while it has sessions, an operator has forced it, and the sessions go with it:
//! another machine may have the backend's address tomorrow. Every director ends its own and takes none
//! of them from others any more (a slower director tells of them, and the store keeps them until they
//! expire there). Their next packets are those of unknown sessions.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_schema::cluster::{BackendId, ListenerId};
use holdfast_schema::flow::FlowKey;

use super::handle::Session;
use super::index::Wait;
use super::key::PackedKey;
use super::open::OpenError;
use super::sync::fence;
use super::table::SessionTable;
use super::{Side, Slot};
use crate::tables::Configured;

/// How many records are looked at in one stay as a guest: freed slots cannot be used meanwhile.
const STAY: u32 = 4_096;

impl SessionTable {
    /// Takes up which listeners and backends there are. Sessions of those that were removed end, and are
    /// turned away from now on. To be called when the workers have been given the tables: an open by
    /// older ones is refused, and tried again by the new ones. Walks the slab if anything was removed.
    /// Returns how many ended.
    pub fn configure(&self, configured: &Arc<Configured>) -> usize {
        let before = std::mem::replace(&mut *self.configured.write(), configured.clone());
        if !configured.removes_since(&before) {
            return 0;
        }
        let removed = |listener, backend| configured.removed(listener, backend);
        self.refused.lock().forget(|record| removed(record.listener, record.backend));
        // With the fence in `check_published`: whoever publishes a session sees that it is over, or we see
        // the session.
        fence(Ordering::SeqCst);
        let ended = self.remove_where(|session| removed(session.listener(), session.backend()));
        self.counts.removed.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Refuses what is of a listener or backend that was removed.
    pub(super) fn check_configured(
        &self,
        listener: ListenerId,
        backend: BackendId,
        wait: Wait,
    ) -> Result<(), OpenError> {
        let configured = match wait {
            Wait::Yes => self.configured.read(),
            Wait::No => self.configured.try_read().ok_or_else(|| self.contended())?,
        };
        match configured.removed(listener, backend) {
            true => Err(OpenError::Removed),
            false => Ok(()),
        }
    }

    /// The same about a session that was just published.
    pub(super) fn check_published(&self, slot: Slot, wait: Wait) -> Result<(), OpenError> {
        fence(Ordering::SeqCst);
        let session = self.session(slot);
        self.check_configured(session.listener(), session.backend(), wait)
    }

    /// Ends a session at once. False if `key` is not its client key any more.
    pub fn remove(&self, slot: Slot, key: &FlowKey) -> bool {
        let _guest = self.slab.epochs.guest();
        let Some(version) = self.record(slot).live() else { return false };
        self.matches(slot, Side::Client, &PackedKey::new(key))
            && self.free(slot, version, Wait::Yes)
    }

    /// Ends at once all sessions that `condemned` names. Returns how many.
    pub fn remove_where(&self, condemned: impl Fn(&Session<'_>) -> bool) -> usize {
        let end = self.slab.high_water();
        let mut removed = 0;
        for first in (0..end).step_by(STAY as usize) {
            let _guest = self.slab.epochs.guest();
            for slot in (first..end.min(first + STAY)).map(Slot) {
                // Freeing by version: a record that was rewritten meanwhile is left alone.
                if let Some(version) = self.record(slot).live()
                    && condemned(&self.session(slot))
                    && self.free(slot, version, Wait::Yes)
                {
                    removed += 1;
                }
            }
        }
        removed
    }
}
