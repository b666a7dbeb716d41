//! What BIRD really announces, read from its control socket.
//!
//! [`reply`] parses the protocol, [`view`] reads meaning out of replies, [`client`] asks.

pub mod client;
pub mod reply;
pub mod view;

pub use client::{BirdError, BirdWatch};
pub use view::Exported;
