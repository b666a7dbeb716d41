//! Packets in, packets out: the packet core against packets written and read by etherparse.

mod drops;
mod full_nat;
mod icmp;
mod misses;
mod properties;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
