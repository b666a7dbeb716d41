//! Rewriting: what happens to the bytes of a packet on its way through.

use holdfast_schema::flow::{FlowKey, Protocol};

use super::meta::{Meta, split_mut};
use crate::tables::NextHop;
use crate::wire::quote::Endpoints;
use crate::wire::{Delta, Quote, ethernet, ipv4};

/// Where a packet of a flow goes on. `other` is the key of the flow's other direction, so the packet
/// goes from where that ends to where it begins.
#[inline]
pub(super) fn endpoints(other: &FlowKey) -> Option<Endpoints> {
    Some(Endpoints {
        src: other.dst.v4_octets()?,
        dst: other.src.v4_octets()?,
        src_port: other.dst_port,
        dst_port: other.src_port,
    })
}

/// Rewrites a TCP segment or datagram: MACs, TTL - 1, addresses, ports, and the checksums by what
/// changed (RFC 1624), so that a packet damaged before stays recognisably damaged.
#[inline]
#[must_use]
pub(super) fn translate(
    frame: &mut [u8],
    meta: &Meta,
    protocol: Protocol,
    to: &Endpoints,
    hop: &NextHop,
) -> bool {
    let Some((mac, ip, l4)) = split_mut(frame, meta.ip_header_len) else { return false };
    let addresses = ipv4::rewrite(ip, to.src, to.dst, meta.ttl.saturating_sub(1));
    let Some(ports) = l4.first_chunk_mut::<4>() else { return false };
    let [s0, s1] = to.src_port.to_be_bytes();
    let [d0, d1] = to.dst_port.to_be_bytes();
    let new = [s0, s1, d0, d1];
    let changed = addresses.and(Delta::NONE.quad(*ports, new));
    *ports = new;
    match protocol {
        Protocol::Tcp => {
            let Some(header) = l4.first_chunk_mut::<20>() else { return false };
            let old = u16::from_be_bytes([header[16], header[17]]);
            [header[16], header[17]] = changed.apply(old).to_be_bytes();
        }
        Protocol::Udp => {
            let Some(header) = l4.first_chunk_mut::<8>() else { return false };
            let old = u16::from_be_bytes([header[6], header[7]]);
            [header[6], header[7]] = changed.apply_udp(old).to_be_bytes();
        }
    }
    ethernet::set_addresses(mac, hop.dst_mac, hop.src_mac);
    true
}

/// Rewrites an ICMP error. It goes from `to.src` to `to.dst` like packets of the flow that it
/// hinders, and the quoted packet went the other way. The error's own source is
/// replaced by the address that the receiver knows us by (RFC 5508 REQ-5 d): the path to a backend
/// may filter other sources, and clients need not see the addresses behind us.
#[must_use]
pub(super) fn translate_error(
    frame: &mut [u8],
    meta: &Meta,
    to: &Endpoints,
    hop: &NextHop,
) -> bool {
    let Some((mac, ip, l4)) = split_mut(frame, meta.ip_header_len) else { return false };
    // Padding behind the IP packet belongs to no checksum.
    let l4_len = usize::from(meta.total_len).saturating_sub(usize::from(meta.ip_header_len));
    let Some((icmp, body)) = l4.get_mut(..l4_len).and_then(|l4| l4.split_first_chunk_mut::<8>())
    else {
        return false;
    };
    let Ok(quote) = Quote::parse(body) else { return false };
    let quoted =
        Endpoints { src: to.dst, dst: to.src, src_port: to.dst_port, dst_port: to.src_port };
    let Some(changed) = quote.rewrite(body, &quoted) else { return false };
    let old = u16::from_be_bytes([icmp[2], icmp[3]]);
    [icmp[2], icmp[3]] = changed.apply(old).to_be_bytes();
    let _ = ipv4::rewrite(ip, to.src, to.dst, meta.ttl.saturating_sub(1));
    ethernet::set_addresses(mac, hop.dst_mac, hop.src_mac);
    true
}
