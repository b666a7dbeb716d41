//! Writes a cluster's configuration as the file that would make it.

use std::fmt::Write;

use super::format_millis;
use super::spec::{ClusterSpec, GroupSpec, HealthCheck, ListenerSpec, NewUdp, ReplicateAfter};
use super::spec::{HealthSpec, UnknownSession};
use crate::flow::Protocol;
use crate::session::ForwardingMode;

/// A TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl ClusterSpec {
    /// The cluster file that says the same: `parse_cluster(&spec.to_toml(), "")` gives `spec` back
    /// if it is valid.
    pub fn to_toml(&self) -> String {
        let pool: Vec<String> = self.lip_pool.iter().map(|p| quoted(&p.to_string())).collect();
        let mut out = String::from("kind = \"cluster\"\n");
        let _ = writeln!(out, "lip-pool = [{}]", pool.join(", "));
        let _ = writeln!(out, "lips-per-director = {}", self.lips_per_director);
        for listener in &self.listeners {
            listener.write(&mut out);
        }
        for group in &self.groups {
            group.write(&mut out);
        }
        out
    }
}

impl ListenerSpec {
    fn write(&self, out: &mut String) {
        let mode = match self.mode {
            ForwardingMode::FullNat => "full-nat",
            ForwardingMode::Dnat => "dnat",
            ForwardingMode::DsrL2 => "dsr-l2",
            ForwardingMode::DsrTunnel => "dsr-tunnel",
        };
        let after = match self.replicate_after {
            ReplicateAfter::Millis(millis) => duration(millis),
            ReplicateAfter::Never => quoted("never"),
        };
        let policy = match (self.protocol, self.unknown_session, self.new_udp) {
            (Protocol::Tcp, UnknownSession::Reset, _) => "unknown-session = \"reset\"",
            (Protocol::Tcp, UnknownSession::Drop, _) => "unknown-session = \"drop\"",
            (Protocol::Udp, _, NewUdp::Schedule) => "new-udp = \"schedule\"",
            (Protocol::Udp, _, NewUdp::Ask) => "new-udp = \"ask\"",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\n[[listener]]\nname = {}\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\ngroup = {}\n\
             mode = \"{mode}\"\nreplicate-after = {after}\nidle-timeout = {}\n{policy}\n",
            quoted(&self.name),
            self.vip,
            self.port,
            self.protocol,
            quoted(&self.group),
            duration(self.idle_timeout_ms),
        );
    }
}

impl GroupSpec {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "\n[[group]]\nname = {}", quoted(&self.name));
        let _ = writeln!(out, "health = {}", health(&self.health));
        for backend in &self.backends {
            let _ = write!(
                out,
                "\n[[group.backend]]\nname = {}\naddress = \"{}\"\nweight = {}\n",
                quoted(&backend.name),
                backend.address,
                backend.weight
            );
            if backend.draining {
                out.push_str("drain = true\n");
            }
        }
    }
}

fn duration(millis: u32) -> String {
    if millis == 0 { "0".to_owned() } else { quoted(&format_millis(millis)) }
}

fn health(spec: &HealthSpec) -> String {
    let mut out = String::from("{ ");
    let mut pair = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let comma = if out.len() > 2 { ", " } else { "" };
            let _ = write!(out, "{comma}{key} = {value}");
        }
    };
    let number = |n: &Option<u16>| n.map(|n| n.to_string());
    match &spec.check {
        HealthCheck::None => pair("type", Some(quoted("none"))),
        HealthCheck::Tcp { port } => {
            pair("type", Some(quoted("tcp")));
            pair("port", number(port));
        }
        HealthCheck::Http { port, path, host, status } => {
            pair("type", Some(quoted("http")));
            pair("port", number(port));
            pair("path", Some(quoted(path)));
            pair("host", host.as_deref().map(quoted));
            pair("status", number(status));
        }
    }
    pair("interval", Some(duration(spec.interval_ms)));
    pair("timeout", Some(duration(spec.timeout_ms)));
    pair("rise", Some(spec.rise.to_string()));
    pair("fall", Some(spec.fall.to_string()));
    out.push_str(" }");
    out
}
