//! The two kinds of file that operators write, told apart by their first key `kind`:
//! `node` (what one machine is) and `cluster` (what the cluster serves).
//!
//! [`spec`] holds the types, [`keys`] the one table of every key (the readers, the defaults and
//! the reference in docs/configuration.md all come from it), [`mod@validate`] the rules that no single
//! key can break. Reading reports every error with its line and a hint, not just the first.

mod cluster_file;
mod defaults;
mod duration;
mod error;
pub mod keys;
pub mod limits;
mod node_file;
mod read;
pub mod reference;
pub mod spec;
mod suggest;
pub mod validate;
mod values;
mod write;

pub use cluster_file::{CheckedCluster, check_cluster, parse_cluster};
pub use duration::{DurationError, format_millis, parse_millis};
pub use error::{ConfigError, ConfigErrors};
pub use node_file::parse_node;
pub use read::{FileKind, kind_of};
pub use spec::*;
pub use suggest::closest;
pub use validate::{Place, SpecError, validate, warnings};
pub use values::{WordError, check_name};
