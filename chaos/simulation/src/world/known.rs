//! Who knows the session of a client.

use holdfast_schema::session::SessionRecord;

use super::World;
use super::excuses::{client, open};
use super::trace::FlowId;
use crate::director::Director;

impl World {
    /// Whether any process has a session of this client socket, which begins a connection now: an earlier one,
    /// open or over.
    pub(super) fn lingers(&self, flow: FlowId) -> bool {
        let mut processes = self.directors.iter().filter_map(|d| d.process.as_deref());
        processes.any(|process| {
            let mut lingers = false;
            process.table.for_each(0, |record, _| lingers |= client(record) == Some(flow));
            lingers
        })
    }

    /// Whether any process has an open session of this client socket that has not expired, in its table or as a
    /// home.
    pub(super) fn is_known(&self, flow: FlowId) -> bool {
        self.directors.iter().any(|director| self.is_known_at(director, flow, open))
    }

    /// Whether this one's process has such a session.
    pub(super) fn is_known_at(
        &self,
        director: &Director,
        flow: FlowId,
        such: impl Fn(&SessionRecord) -> bool,
    ) -> bool {
        let now_us = self.queue.now_us();
        let mut known = false;
        if let Some(process) = director.process.as_deref() {
            let of_it = |record: &SessionRecord| {
                client(record) == Some(flow)
                    && such(record)
                    && self.oracle.is_of_latest(flow, record)
            };
            let local_ms = director.clock.local_us(now_us) / 1_000;
            process.table.for_each(local_ms, |record, _| known |= of_it(record));
            known =
                known || process.young.records(local_ms).iter().any(|(record, _)| of_it(record));
        }
        known
    }
}
