//! The events of a host, until somebody takes them.

use std::net::SocketAddr;

use super::event::{ConnectionId, Event, EventKind};

/// Events, oldest first.
#[derive(Clone, Default, Debug)]
pub(super) struct Log {
    events: Vec<Event>,
}

impl Log {
    /// Notes something between a host's own socket and another one.
    pub(super) fn note(
        &mut self,
        at_us: u64,
        connection: Option<ConnectionId>,
        (local, remote): (SocketAddr, SocketAddr),
        kind: EventKind,
    ) {
        self.events.push(Event { at_us, connection, local, remote, kind });
    }

    pub(super) fn drain(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}
