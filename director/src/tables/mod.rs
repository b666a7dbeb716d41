//! What a director forwards by: listeners, backends, LIPs, next hops. Immutable; a change makes a new
//! [`ForwardingTables`] that is swapped in between batches.
#![forbid(unsafe_code)]

mod build;
mod configured;
#[cfg(test)]
pub(crate) mod fixture;
mod forwarding;
mod maglev;
mod next_hops;
mod ports;
#[cfg(test)]
mod tests;

pub use configured::Configured;
pub use forwarding::{BackendEntry, ForwardingTables, ListenerEntry, PortsFree};
pub use maglev::Maglev;
pub use next_hops::{NextHop, NextHops};
pub use ports::{Candidates, PORT_TRIES, PortCursors};
