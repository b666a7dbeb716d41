//! The two kinds of file that operators write, told apart by their first key `kind`:
//! `node` (what one machine is) and `cluster` (what the cluster serves).
//!
//! [`spec`] holds the types. Reading reports every error with its line and a hint, not just the first.

pub mod spec;

pub use spec::*;
