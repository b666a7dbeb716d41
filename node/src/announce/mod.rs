//! When this director attracts traffic, and how much.
//!
//! [`machine`] decides (pure): joining, serving, draining ([`steps`]), being cut off. [`wish`] says
//! which routes that means (pure). [`shell`] carries it out: guard, routes, commands to the
//! cluster, with [`flush`] waiting for the other directors and [`others`] judging whether they serve.

pub mod flush;
pub mod machine;
pub mod others;
pub mod shell;
pub mod steps;
pub mod wish;
