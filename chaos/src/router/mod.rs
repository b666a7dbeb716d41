//! What is measured at the router: which director each connection is sent to, when routes change,
//! and when BFD gives a director up. Nothing here is the directors' own word.

pub mod bfd;
pub mod monitor;
pub mod paths;
pub mod trace;
