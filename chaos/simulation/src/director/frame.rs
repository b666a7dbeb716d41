//! Ethernet around IP packets, and the hashes that spread flows: over a router's paths, over a
//! director's receive queues.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::rng::mix;

/// Bytes of an Ethernet header.
pub const HEADER: usize = 14;

/// The router's MAC address.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xff, 1];

/// The MAC address of a director.
pub fn mac(director: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, director as u8]
}

/// The frame with this IPv4 packet, from the router to a director.
pub fn framed(director: u32, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + packet.len() + 128);
    frame.extend_from_slice(&mac(director));
    frame.extend_from_slice(&ROUTER_MAC);
    frame.extend_from_slice(&[8, 0]);
    frame.extend_from_slice(packet);
    frame
}

/// Addresses and ports of an IPv4 packet; ports are 0 where it has none.
pub fn tuple(packet: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4, u8)> {
    let byte = |at: usize| packet.get(at).copied();
    let protocol = byte(9)?;
    let length = usize::from(byte(0)? & 0xf) * 4;
    let addr = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let port = |at: usize| match protocol {
        6 | 17 => packet.get(at..at + 2).map_or(0, |p| u16::from_be_bytes([p[0], p[1]])),
        _ => 0,
    };
    let src = SocketAddrV4::new(addr(12)?, port(length));
    let dst = SocketAddrV4::new(addr(16)?, port(length + 2));
    Some((src, dst, protocol))
}

/// A hash of a packet's flow. An ICMP error is spread by its addresses alone, as routers do.
pub fn flow_hash(packet: &[u8], seed: u64) -> u64 {
    let Some((src, dst, protocol)) = tuple(packet) else { return 0 };
    let word = |at: &SocketAddrV4| u64::from(at.ip().to_bits()) << 16 | u64::from(at.port());
    mix(mix(seed ^ word(&src)) ^ word(&dst) ^ u64::from(protocol) << 56)
}

/// A socket as one number.
pub fn socket_number(at: &SocketAddrV4) -> u64 {
    u64::from(at.ip().to_bits()) << 16 | u64::from(at.port())
}
