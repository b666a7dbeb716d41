//! Listeners, groups and backends with everything at its default.

use std::net::{IpAddr, SocketAddr};

use super::spec::{
    BackendSpec, GroupSpec, HealthSpec, ListenerSpec, NewUdp, ReplicateAfter, UnknownSession,
};
use crate::flow::Protocol;
use crate::session::{ForwardingMode, default_idle_timeout_ms};

impl ListenerSpec {
    /// A listener of which only the necessary is said.
    pub fn new(
        name: impl Into<String>,
        vip: IpAddr,
        port: u16,
        protocol: Protocol,
        group: impl Into<String>,
    ) -> ListenerSpec {
        ListenerSpec {
            name: name.into(),
            vip,
            port,
            protocol,
            mode: ForwardingMode::FullNat,
            group: group.into(),
            replicate_after: ReplicateAfter::Millis(3_000),
            idle_timeout_ms: default_idle_timeout_ms(protocol),
            unknown_session: default_unknown_session(protocol),
            new_udp: NewUdp::Schedule,
        }
    }
}

impl GroupSpec {
    /// A group without backends.
    pub fn new(name: impl Into<String>) -> GroupSpec {
        GroupSpec { name: name.into(), health: HealthSpec::default(), backends: Vec::new() }
    }
}

impl BackendSpec {
    /// A backend with the default weight.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> BackendSpec {
        BackendSpec { name: name.into(), address, weight: 100, draining: false }
    }
}

/// What packets of unknown sessions get when the listener does not say.
pub(super) fn default_unknown_session(protocol: Protocol) -> UnknownSession {
    match protocol {
        Protocol::Tcp => UnknownSession::Reset,
        Protocol::Udp => UnknownSession::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClusterSpec, parse_cluster};

    #[test]
    fn they_are_the_defaults_of_the_key_table() {
        let text = r#"
            kind = "cluster"
            lip-pool = ["198.51.100.0/28"]
            [[listener]]
            name = "t"
            vip = "203.0.113.1"
            port = 80
            group = "g"
            [[listener]]
            name = "u"
            vip = "203.0.113.1"
            port = 53
            protocol = "udp"
            group = "g"
            [[group]]
            name = "g"
            [[group.backend]]
            name = "b"
            address = "10.0.0.1:80"
        "#;
        let vip = "203.0.113.1".parse().unwrap();
        let mut group = GroupSpec::new("g");
        group.backends.push(BackendSpec::new("b", "10.0.0.1:80".parse().unwrap()));
        let expected = ClusterSpec {
            lip_pool: vec!["198.51.100.0/28".parse().unwrap()],
            listeners: vec![
                ListenerSpec::new("t", vip, 80, Protocol::Tcp, "g"),
                ListenerSpec::new("u", vip, 53, Protocol::Udp, "g"),
            ],
            groups: vec![group],
            ..ClusterSpec::default()
        };
        assert_eq!(parse_cluster(text, "c.toml"), Ok(expected));
    }
}
