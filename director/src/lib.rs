//! See the workspace README.

#![deny(unsafe_code)]

pub mod core;
pub mod director;
pub mod session;
pub mod tables;
pub mod wire;
pub mod worker;
#[allow(unsafe_code)] // rings, packet memory, system calls; every block says why it holds
pub mod xdp;
