//! Replays the fuzz corpus on the stable compiler: the same files through the same functions as the
//! libFuzzer targets in director/fuzz.
//!
//! `HOLDFAST_WRITE_CORPUS=1 cargo test -p holdfast-director --test fuzz_replay` writes the seeds anew.

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{IcmpEchoHeader, Icmpv4Type};
use support::packet::*;
use support::*;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Runs every file of a target's corpus; returns how many there were.
fn replay(target: &str, check: fn(&[u8])) -> usize {
    let folder = folder(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        // So that a failure names its file.
        let outcome = std::panic::catch_unwind(|| check(&data));
        assert!(outcome.is_ok(), "{} fails", path.display());
        count += 1;
    }
    count
}

#[test]
fn wire_corpus() {
    write_seeds();
    assert!(replay("wire", checks::wire) >= 8);
}

#[test]
fn core_corpus() {
    write_seeds();
    assert!(replay("core", checks::core) >= 8);
}

fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let (client, vip) = (at(CLIENT, 40_000), at(VIP, WEB));
    let options = vec![2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let syn = Packet {
        l4: L4::Tcp { flags: SYN, seq: 1, ack: 0, options },
        ip_options: vec![1, 1, 1, 0],
        ..Packet::tcp(client, vip, SYN, 1, 0)
    };
    let error = |quote: &Packet, dst| {
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
        icmp(CLIENT, dst, Icmpv4Type::DestinationUnreachable(needed), &quote.ip_bytes())[14..]
            .to_vec()
    };
    let echo = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
    let reply = Packet::tcp(at(BACKENDS[0], 8080), at(FOREIGN_LIP, 2000), ACK, 5, 6);
    vec![
        ("syn", syn.ip_bytes()),
        ("ack", Packet::tcp(client, vip, ACK, 2, 2).payload(b"data").ip_bytes()),
        ("rst", Packet::tcp(client, vip, RST, 2, 0).ip_bytes()),
        ("fin", Packet::tcp(client, vip, FIN | ACK, 2, 2).ip_bytes()),
        ("other_syn", Packet::tcp(client, vip, SYN, 99, 0).ip_bytes()),
        ("reply", reply.payload(b"data").ip_bytes()),
        ("dns", Packet::udp(client, at(VIP, DNS)).payload(b"query").ip_bytes()),
        ("game", Packet::udp(client, at(VIP, GAME)).payload(b"move").ip_bytes()),
        ("ttl", Packet { ttl: 1, ..Packet::tcp(client, vip, ACK, 2, 2) }.ip_bytes()),
        ("narrow_syn", Packet::tcp(client, at(VIP, NARROW_WEB), SYN, 1, 0).ip_bytes()),
        (
            "narrow_big",
            Packet::tcp(client, at(VIP, NARROW_WEB), ACK, 2, 2).payload(&[7; 1400]).ip_bytes(),
        ),
        ("echo", icmp(CLIENT, VIP, echo, b"hello")[14..].to_vec()),
        ("error_to_vip", error(&Packet::tcp(vip, client, ACK, 1, 1), VIP)),
        ("error_udp", error(&Packet::udp(at(VIP, DNS), client).payload(b"x"), VIP)),
        (
            "error_to_lip",
            error(
                &Packet::tcp(at(OWN_LIPS[0], 1024), at(BACKENDS[0], 8080), ACK, 1, 1),
                OWN_LIPS[0],
            ),
        ),
    ]
}

fn core_seeds() -> Vec<(String, Vec<u8>)> {
    use checks::{ANSWER, PACKET, PASS, RAW, UDP_ASK, step};
    let packets = packets();
    let packet = |name: &str| {
        let (_, bytes) = packets.iter().find(|(n, _)| *n == name).expect("a known name");
        step(PACKET, bytes)
    };
    let script = |names: &[&str]| -> Vec<u8> {
        names
            .iter()
            .flat_map(|name| match *name {
                "deny" => step(ANSWER, &[0]),
                "unknown" => step(ANSWER, &[1]),
                "tell" => step(ANSWER, &[2]),
                "wait" => step(PASS, &[6]),
                "expire" => step(PASS, &[25]),
                "udp_ask" => step(UDP_ASK, &[1]),
                name => packet(name),
            })
            .collect()
    };
    let mut seeds: Vec<(String, Vec<u8>)> = [
        ("connection", &["syn", "ack", "ack", "error_to_vip", "fin", "ack"][..]),
        ("reopened", &["syn", "syn", "rst", "other_syn", "ack"]),
        ("denied", &["ack", "wait", "ack", "deny", "ack"]),
        ("denied_reset", &["rst", "deny", "rst"]),
        ("told", &["ack", "error_to_vip", "tell", "ack", "error_to_vip"]),
        ("told_reply", &["reply", "tell", "reply", "ack"]),
        ("unknown", &["ack", "unknown", "ack", "expire"]),
        ("udp", &["dns", "dns", "error_udp", "udp_ask", "game", "deny", "game"]),
        ("udp_told", &["game", "tell", "game"]),
        ("narrow", &["narrow_syn", "narrow_big"]),
        ("ttl", &["syn", "ttl"]),
        ("echo", &["echo"]),
        ("error_to_lip", &["syn", "error_to_lip", "unknown"]),
        ("full_room", &["ack", "ack", "ack", "ack", "reply", "game", "error_udp", "expire"]),
    ]
    .iter()
    .map(|(name, names)| ((*name).to_owned(), script(names)))
    .collect();
    let raw = [RAW];
    for (name, bytes) in &packets {
        let frame = ethernet(MAC_ROUTER, MAC_ME, bytes);
        seeds.push((format!("raw_{name}"), step(raw[0], &frame)));
    }
    seeds
}

/// The seeds of the corpus, written if that is asked for.
fn write_seeds() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("HOLDFAST_WRITE_CORPUS").is_none() {
            return;
        }
        let wire = packets().into_iter().flat_map(|(name, ip)| {
            let l4 = ip[usize::from(ip[0] & 15) * 4..].to_vec();
            [(format!("{name}_ip"), ip), (format!("{name}_l4"), l4)]
        });
        for (target, seeds) in [("wire", wire.collect()), ("core", core_seeds())] {
            std::fs::create_dir_all(folder(target)).unwrap();
            for (name, bytes) in seeds {
                std::fs::write(folder(target).join(format!("seed_{name}")), bytes).unwrap();
            }
        }
    });
}
