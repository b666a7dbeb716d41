//! What the benchmarks on a veth pair share.

#[path = "../../tests/common/cluster.rs"]
pub mod cluster;
#[path = "../../tests/common/mod.rs"]
pub mod link;
pub mod reflector;
pub mod traffic;
