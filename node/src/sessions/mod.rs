//! Sessions between the packet path and the store: the loop that tells the store what it must know
//! ([`sweep`]), the questions of the packet path ([`misses`]), and the questions of operators
//! ([`query`], [`gather`]).

pub mod gather;
pub mod misses;
pub mod query;
pub mod sweep;
