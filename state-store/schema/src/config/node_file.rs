//! Reads a node file.

use std::net::SocketAddr;

use super::error::ConfigErrors;
use super::limits;
use super::read::{FileKind, Table, read_file};
use super::spec::{AnnounceSpec, NodeSpec, XdpMode};

/// Reads a node file (`kind = "node"`). `file` is how errors name it.
pub fn parse_node(text: &str, file: &str) -> Result<NodeSpec, ConfigErrors> {
    read_file(text, file, FileKind::Node, node)
}

fn node(top: &Table<'_, '_>) -> Option<NodeSpec> {
    top.one_of("kind");
    let id = top.name("id");
    let peer_address = top.socket("peer-address").filter(|address| peer_reachable(top, address));
    let interface = top.interface("interface");
    let data_dir = top.path("data-dir");
    let workers = top.integer("workers");
    let xdp_mode = top.one_of("xdp-mode").map(|word| match word {
        "native" => XdpMode::Native,
        "skb" => XdpMode::Skb,
        _ => XdpMode::Auto,
    });
    let admin_socket = socket_path(top, "admin-socket");
    let metrics_address = top.socket("metrics-address");
    let max_sessions = top.integer("max-sessions");
    let max_young_sessions = top.integer("max-young-sessions");
    let asks_per_second = top.integer("asks-per-second");
    let asks_per_second_and_prefix = top.integer("asks-per-second-and-prefix");
    let guard_timeout_ms = top.millis("guard-timeout");
    let udp_ask_ms = top.millis("udp-ask");
    let announce = top.table("announce").and_then(|table| announce(&table, interface.as_deref()));
    Some(NodeSpec {
        id: id?,
        peer_address: peer_address?,
        data_dir: data_dir?,
        interface: interface?,
        workers: workers.and_then(|n| u16::try_from(n).ok())?,
        xdp_mode: xdp_mode?,
        admin_socket: admin_socket?,
        metrics_address,
        max_sessions: max_sessions?,
        asks_per_second: asks_per_second?,
        asks_per_second_and_prefix: asks_per_second_and_prefix?,
        max_young_sessions: max_young_sessions.or(max_sessions.map(|most| most / 4))?,
        announce,
        guard_timeout_ms: guard_timeout_ms?,
        udp_ask_ms: udp_ask_ms?,
    })
}

fn announce(table: &Table<'_, '_>, interface: Option<&str>) -> Option<AnnounceSpec> {
    let bird_socket = socket_path(table, "bird-socket");
    let device = table.interface("device");
    if device.is_some() && device.as_deref() == interface {
        table.wrong("device", "is the interface that carries the traffic", "a name that is free");
    }
    let routing_table = |key| {
        let number = table.integer(key)?;
        if (253..=255).contains(&number) {
            let message = format!("is {number}, one of the kernel's own tables");
            table.wrong(key, &message, "a table of its own, such as 4242");
        }
        Some(number)
    };
    let (announced, blackhole) = (routing_table("table"), routing_table("blackhole-table"));
    if announced.is_some() && announced == blackhole {
        let hint = "BIRD would announce the blackholes; give them another table";
        table.wrong("blackhole-table", "is the same as `table`", hint);
    }
    table.finish();
    Some(AnnounceSpec {
        bird_socket: bird_socket?,
        device: device?,
        table: announced?,
        blackhole_table: blackhole?,
    })
}

fn socket_path(table: &Table<'_, '_>, key: &str) -> Option<std::path::PathBuf> {
    let path = table.path(key)?;
    let (long, most) = (path.as_os_str().len(), limits::SOCKET_PATH_BYTES);
    if long > most {
        let message = format!("is {long} bytes long; the path of a unix socket has {most} at most");
        table.wrong(key, &message, "a shorter path");
    }
    Some(path)
}

fn peer_reachable(top: &Table<'_, '_>, address: &SocketAddr) -> bool {
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_multicast() {
        let message = format!("is {address}, which no other director can send to");
        top.wrong("peer-address", &message, "an address of this machine that the others reach");
        return false;
    }
    true
}
