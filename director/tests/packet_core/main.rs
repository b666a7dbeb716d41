//! Packets in, packets out: the packet core against packets written and read by etherparse.

mod doubts;
mod drops;
mod expiry;
mod floods;
mod full_nat;
mod icmp;
mod misses;
mod properties;
mod sessions;
#[path = "../support/mod.rs"]
mod support;
mod twins;
