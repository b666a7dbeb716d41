//! The admin API on a unix socket: who may open the socket may administer.

mod cluster;
mod config;
pub mod error;
pub mod server;
mod sessions;
pub mod settled;
mod status;
