//! The vocabulary of Holdfast as types.
//!
//! Everything that more than one part of Holdfast has to agree on lives here: what a flow is
//! ([`flow`]), which bucket and shard it leads to ([`bucket`]), what is remembered of a session
//! ([`session`]), what the cluster is ([`cluster`]), what operators write ([`config`]), and what
//! the admin API says ([`admin`]). There is no I/O, no clock and no thread in this crate.
#![forbid(unsafe_code)]

pub mod admin;
pub mod bucket;
pub mod cluster;
pub mod config;
pub mod flow;
pub mod homes;
pub mod prefix;
pub mod session;
