//! The daemon `holdfastd` and its guard.
//!
//! [`daemon`] puts the parts together around [`node::Node`]. Cores decide, shells do I/O: the cores
//! here are [`guard::watch`], [`announce::machine`] with [`announce::steps`] and
//! [`announce::wish`], [`health::aggregate`] with [`health::judge`], and [`netlink::hops`].
#![deny(unsafe_code)]

pub mod admin;
pub mod announce;
pub mod bird;
pub mod caution;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod essential;
pub mod forward;
pub mod guard;
pub mod health;
pub mod install;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod os;
pub mod peers;
pub mod planned;
pub mod privileges;
pub mod quarantine;
pub mod readiness;
pub mod remembered;
pub mod sessions;
pub mod shm;
pub mod summary;
pub mod tables;
