//! The traffic of the scenario: what clients send, what backends answer, and what is remembered of
//! each connection.

pub mod book;
pub mod bulk;
pub mod burst;
pub mod client;
pub mod drip;
pub mod echo;
pub mod messages;
pub mod record;
pub mod server;
pub mod udp;
pub mod wire;

#[cfg(test)]
mod tests;
