//! Sessions between the packet path and the store: the loop that tells the store what it must know
//! ([`sweep`]), the one that tells homes of new sessions and takes the questions of the packet path
//! ([`young`], [`misses`]), and the questions of operators ([`query`], [`gather`]).

pub mod flushes;
pub mod gather;
pub mod misses;
pub mod query;
pub mod sweep;
pub mod young;
