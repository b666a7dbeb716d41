//! What the end-to-end tests share: a lab that goes away by itself, commands in its namespaces, and
//! waiting for conditions.
//!
//! The tests drive the real binaries. `HOLDFAST_BIN_DIR` says where they are; without it they are
//! looked for beside the test binary (`target/release`).
#![forbid(unsafe_code)]

pub mod lab;
pub mod run;
pub mod traces;
pub mod web;

pub use lab::{Director, Lab, folder};
pub use run::{Background, Finished, binary, eventually, run};
