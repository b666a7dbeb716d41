//! See the workspace README.

pub mod wire;
