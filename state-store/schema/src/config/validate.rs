//! The rules of a cluster's configuration that need no cluster to be judged.
//!
//! Readers use them for files, the control group for whatever comes over the admin API, so the
//! rules cannot be passed by. They are deterministic and linear (but for the few pool prefixes).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::spec::{ClusterSpec, GroupSpec, HealthCheck, ListenerSpec, ReplicateAfter};
use super::values::check_name;
use super::{closest, format_millis, limits};
use crate::flow::Protocol;
use crate::session::ForwardingMode;

/// A rule that the configuration breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError {
    /// Where.
    pub place: Place,
    /// What is wrong, with the names of all that is concerned.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// It is wrong only because Holdfast cannot do it yet.
    pub unsupported: bool,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A place in a [`ClusterSpec`], by position; the last part is the key's name in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A key at the top.
    Cluster(&'static str),
    /// A prefix of the LIP pool.
    LipPool(usize),
    /// A listener's key.
    Listener(usize, &'static str),
    /// A key of a group or of its health check.
    Group(usize, &'static str),
    /// A backend's key: group, backend.
    Backend(usize, usize, &'static str),
}

/// Every rule that the configuration breaks; empty: it is fine.
pub fn validate(spec: &ClusterSpec) -> Vec<SpecError> {
    let mut rules = Rules { spec, errors: Vec::new() };
    rules.sizes();
    rules.pool();
    rules.listeners();
    rules.groups();
    rules.errors
}

/// What is allowed but probably not meant.
pub fn warnings(spec: &ClusterSpec) -> Vec<SpecError> {
    let mut rules = Rules { spec, errors: Vec::new() };
    for (at, group) in spec.groups.iter().enumerate() {
        let name = &group.name;
        let takes = |b: &super::BackendSpec| b.weight > 0 && !b.draining;
        if group.backends.is_empty() {
            rules.add(
                Place::Group(at, "name"),
                format!("group \"{name}\" has no backends"),
                "new sessions of its listeners are dropped",
            );
        } else if !group.backends.iter().any(takes) {
            rules.add(
                Place::Group(at, "name"),
                format!("every backend of group \"{name}\" has weight 0 or drains"),
                "new sessions of its listeners are dropped",
            );
        }
        if !spec.listeners.iter().any(|l| l.group == *name) {
            let message = format!("no listener uses group \"{name}\"");
            rules.add(Place::Group(at, "name"), message, "name it in a listener, or remove it");
        } else if matches!(group.health.check, HealthCheck::Tcp { port: None })
            && rules.serves_only_udp(group)
        {
            let message = format!(
                "group \"{name}\" serves UDP only, but is checked by TCP connections to the same port"
            );
            let hint = "name the port that answers TCP: health = { type = \"tcp\", port = ... }, or type = \"none\"";
            rules.add(Place::Group(at, "health"), message, hint);
        }
    }
    rules.errors
}

struct Rules<'s> {
    spec: &'s ClusterSpec,
    errors: Vec<SpecError>,
}

impl Rules<'_> {
    fn add(&mut self, place: Place, message: String, hint: impl Into<String>) {
        self.errors.push(SpecError { place, message, hint: hint.into(), unsupported: false });
    }

    fn not_yet(&mut self, place: Place, message: String, hint: &str) {
        self.errors.push(SpecError { place, message, hint: hint.to_owned(), unsupported: true });
    }

    fn name(&mut self, place: Place, what: &str, name: &str) {
        if let Err(message) = check_name(name) {
            self.add(place, format!("the name of {what} {message}"), "for example `web-1`");
        }
    }

    fn millis(&mut self, place: Place, what: String, value: u32, range: &RangeInclusive<u32>) {
        if !range.contains(&value) {
            let shown = format_millis;
            let (from, to) = (shown(*range.start()), shown(*range.end()));
            let message = format!("{what} is {}; it must be from {from} to {to}", shown(value));
            self.add(place, message, "");
        }
    }

    fn number(&mut self, place: Place, what: String, value: u32, range: &RangeInclusive<u32>) {
        if !range.contains(&value) {
            let (from, to) = (range.start(), range.end());
            self.add(place, format!("{what} is {value}; it must be from {from} to {to}"), "");
        }
    }

    fn sizes(&mut self) {
        let backends = self.spec.groups.iter().map(|g| g.backends.len()).sum();
        for (key, what, count, most) in [
            ("listener", "listeners", self.spec.listeners.len(), limits::LISTENERS),
            ("group", "groups", self.spec.groups.len(), limits::GROUPS),
            ("group", "backends in all groups", backends, limits::BACKENDS),
            (
                "lip-pool",
                "prefixes in the LIP pool",
                self.spec.lip_pool.len(),
                limits::POOL_PREFIXES,
            ),
        ] {
            if count > most {
                let message = format!("{count} {what}; a cluster has {most} at the most");
                self.add(Place::Cluster(key), message, "spread them over several clusters");
            }
        }
    }

    fn pool(&mut self) {
        let spec = self.spec;
        let lips = u32::from(spec.lips_per_director);
        let place = Place::Cluster("lips-per-director");
        self.number(place, "`lips-per-director`".into(), lips, &limits::LIPS_PER_DIRECTOR);
        let mut size = 0u64;
        for (at, prefix) in spec.lip_pool.iter().enumerate() {
            size = size.saturating_add(prefix.size());
            if !prefix.address().is_ipv4() {
                let message = format!("`lip-pool` holds {prefix}; IPv6 is not there yet");
                self.not_yet(Place::LipPool(at), message, "IPv4 prefixes only, so far");
            } else if !unicast(prefix.address()) || prefix.length() == 0 {
                let message = format!("`lip-pool` holds {prefix}, which are no unicast addresses");
                self.add(Place::LipPool(at), message, "for example \"198.51.100.0/28\"");
            }
            for other in spec.lip_pool.iter().take(at.min(limits::POOL_PREFIXES)) {
                if prefix.overlaps(other) {
                    let message = format!("`lip-pool` holds {prefix} and {other}, which overlap");
                    self.add(Place::LipPool(at), message, "keep the larger one");
                }
            }
        }
        let place = Place::Cluster("lip-pool");
        if size > limits::POOL_ADDRESSES {
            let most = limits::POOL_ADDRESSES;
            let message = format!("`lip-pool` has {size} addresses; {most} at the most are of use");
            self.add(place, message, "longer prefixes");
        } else if size == 0 && !spec.listeners.is_empty() {
            let message = "`lip-pool` is empty, but full-nat listeners need LIPs".to_owned();
            self.add(place, message, "for example lip-pool = [\"198.51.100.0/28\"]");
        } else if size > 0 && size < u64::from(lips) {
            let message =
                format!("`lip-pool` has {size} addresses; one director alone needs {lips}");
            self.add(place, message, "a shorter prefix, or fewer `lips-per-director`");
        }
    }

    fn pool_holding(&self, address: IpAddr) -> Option<crate::prefix::Prefix> {
        let pool = self.spec.lip_pool.iter().take(limits::POOL_PREFIXES);
        pool.copied().find(|prefix| prefix.contains(address))
    }

    fn listeners(&mut self) {
        let spec = self.spec;
        let groups: HashSet<&str> = spec.groups.iter().map(|g| g.name.as_str()).collect();
        let mut names = HashSet::new();
        let mut fronts: HashMap<(IpAddr, u16, Protocol), &str> = HashMap::new();
        for (at, listener) in spec.listeners.iter().enumerate() {
            let ListenerSpec { name, vip, port, protocol, group, .. } = listener;
            let place = |key| Place::Listener(at, key);
            self.name(place("name"), "a listener", name);
            if !names.insert(name) {
                let message = format!("two listeners are called \"{name}\"");
                self.add(place("name"), message, "names of listeners are unique");
            }
            self.vip(at, listener);
            let what = format!("the port of listener \"{name}\"");
            self.number(place("port"), what, u32::from(*port), &limits::PORT);
            if let Some(other) = fronts.insert((*vip, *port, *protocol), name) {
                let front = SocketAddr::new(*vip, *port);
                let message =
                    format!("listeners \"{other}\" and \"{name}\" are both {protocol} {front}");
                self.add(place("port"), message, "another VIP, port or protocol");
            }
            if !groups.contains(group.as_str()) {
                let message =
                    format!("listener \"{name}\" sends to group \"{group}\", which does not exist");
                let hint = match closest(group, groups.iter().copied()) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => "add a [[group]] of this name".to_owned(),
                };
                self.add(place("group"), message, hint);
            }
            if listener.mode != ForwardingMode::FullNat {
                let mode = match listener.mode {
                    ForwardingMode::Dnat => "dnat",
                    ForwardingMode::DsrL2 => "dsr-l2",
                    _ => "dsr-tunnel",
                };
                let message = format!("mode \"{mode}\" of listener \"{name}\" is not there yet");
                self.not_yet(place("mode"), message, "only `full-nat` forwards so far");
            }
            if let ReplicateAfter::Millis(millis) = listener.replicate_after {
                let what = format!("`replicate-after` of listener \"{name}\"");
                self.millis(place("replicate-after"), what, millis, &limits::REPLICATE_AFTER_MS);
            }
            let what = format!("`idle-timeout` of listener \"{name}\"");
            let idle = listener.idle_timeout_ms;
            self.millis(place("idle-timeout"), what, idle, &limits::IDLE_TIMEOUT_MS);
        }
    }

    fn vip(&mut self, at: usize, listener: &ListenerSpec) {
        let ListenerSpec { name, vip, .. } = listener;
        let place = Place::Listener(at, "vip");
        if !vip.is_ipv4() {
            let message =
                format!("VIP {vip} of listener \"{name}\": IPv6 listeners are not there yet");
            self.not_yet(place, message, "an IPv4 VIP, so far");
        } else if !unicast(*vip) {
            let message = format!("VIP {vip} of listener \"{name}\" is no unicast address");
            self.add(place, message, "for example \"203.0.113.10\"");
        } else if let Some(prefix) = self.pool_holding(*vip) {
            let message =
                format!("VIP {vip} of listener \"{name}\" lies in the LIP pool ({prefix})");
            self.add(place, message, "VIPs and LIPs must be different addresses: move one of them");
        }
    }

    fn groups(&mut self) {
        let spec = self.spec;
        let vips: HashSet<IpAddr> = spec.listeners.iter().map(|l| l.vip).collect();
        let mut names = HashSet::new();
        for (at, group) in spec.groups.iter().enumerate() {
            let name = &group.name;
            self.name(Place::Group(at, "name"), "a group", name);
            if !names.insert(name) {
                let message = format!("two groups are called \"{name}\"");
                self.add(Place::Group(at, "name"), message, "names of groups are unique");
            }
            self.health(at, group);
            let mut backends = HashSet::new();
            let mut addresses: HashMap<SocketAddr, &str> = HashMap::new();
            for (nth, backend) in group.backends.iter().enumerate() {
                let place = |key| Place::Backend(at, nth, key);
                let full = format!("{name}/{}", backend.name);
                self.name(place("name"), "a backend", &backend.name);
                if !backends.insert(&backend.name) {
                    let message = format!("two backends are called \"{full}\"");
                    self.add(place("name"), message, "names are unique within a group");
                }
                if let Some(other) = addresses.insert(backend.address, &backend.name) {
                    let message = format!(
                        "backends \"{name}/{other}\" and \"{full}\" are both {}",
                        backend.address
                    );
                    self.add(place("address"), message, "one backend with a larger weight");
                }
                self.backend_address(place("address"), &full, backend.address, &vips);
                let what = format!("the weight of backend \"{full}\"");
                let weight = u32::from(backend.weight);
                self.number(place("weight"), what, weight, &limits::WEIGHT);
            }
        }
    }

    fn backend_address(
        &mut self,
        place: Place,
        name: &str,
        address: SocketAddr,
        vips: &HashSet<IpAddr>,
    ) {
        let ip = address.ip();
        if !ip.is_ipv4() {
            let message =
                format!("backend \"{name}\" is {address}; IPv6 backends are not there yet");
            self.not_yet(place, message, "an IPv4 address, so far");
        } else if !unicast(ip) || address.port() == 0 {
            let message =
                format!("backend \"{name}\" is {address}, which nobody can be reached at");
            self.add(place, message, "a unicast address and a port from 1 to 65535");
        } else if vips.contains(&ip) {
            let message = format!("backend \"{name}\" is {address}, but {ip} is a VIP");
            self.add(place, message, "its packets would come back to the directors");
        } else if let Some(prefix) = self.pool_holding(ip) {
            let message =
                format!("backend \"{name}\" is {address}, inside the LIP pool ({prefix})");
            self.add(place, message, "its packets would come back to the directors");
        }
    }

    fn health(&mut self, at: usize, group: &GroupSpec) {
        let place = |key| Place::Group(at, key);
        let (health, name) = (&group.health, &group.name);
        let what = |key: &str| format!("health `{key}` of group \"{name}\"");
        self.millis(
            place("interval"),
            what("interval"),
            health.interval_ms,
            &limits::HEALTH_INTERVAL_MS,
        );
        self.millis(
            place("timeout"),
            what("timeout"),
            health.timeout_ms,
            &limits::HEALTH_TIMEOUT_MS,
        );
        if health.timeout_ms > health.interval_ms {
            let (timeout, interval) = (health.timeout_ms, health.interval_ms);
            let message = format!(
                "{} ({}) is longer than its `interval` ({})",
                what("timeout"),
                format_millis(timeout),
                format_millis(interval)
            );
            self.add(place("timeout"), message, "a check ends before the next one begins");
        }
        self.number(place("rise"), what("rise"), u32::from(health.rise), &limits::HEALTH_COUNT);
        self.number(place("fall"), what("fall"), u32::from(health.fall), &limits::HEALTH_COUNT);
        if let HealthCheck::Tcp { port: Some(0) } | HealthCheck::Http { port: Some(0), .. } =
            health.check
        {
            self.add(place("port"), format!("{} is 0", what("port")), "1 to 65535");
        }
        let HealthCheck::Http { port, path, host, status } = &health.check else { return };
        // What goes into a request line or header must not be able to end it (RFC 9112 section 11).
        let bad = |c: char| c.is_control() || c.is_whitespace() || !c.is_ascii();
        if !path.starts_with('/') || path.contains(bad) {
            let message = format!("{} is \"{}\"", what("path"), path.escape_debug());
            self.add(place("path"), message, "it begins with `/` and holds no spaces");
        }
        if let Some(host) = host.as_deref().filter(|host| host.is_empty() || host.contains(bad)) {
            let message = format!("{} is \"{}\"", what("host"), host.escape_debug());
            self.add(place("host"), message, "a host name");
        }
        if let Some(status) = status {
            self.number(place("status"), what("status"), u32::from(*status), &limits::HTTP_STATUS);
        }
        if port.is_none() && self.serves_only_udp(group) {
            let message = format!(
                "group \"{name}\" serves UDP only, but is checked by HTTP on the same port"
            );
            self.add(place("health"), message, "name the port that answers HTTP with `port`");
        }
    }

    fn serves_only_udp(&self, group: &GroupSpec) -> bool {
        let mut users = self.spec.listeners.iter().filter(|l| l.group == group.name).peekable();
        users.peek().is_some() && users.all(|l| l.protocol == Protocol::Udp)
    }
}

/// Whether an address can be anybody's.
fn unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            // 0.0.0.0/8 and 240.0.0.0/4: RFC 6890 section 2.2.2.
            a.octets()[0] != 0 && a.octets()[0] < 224 && !a.is_loopback()
        }
        IpAddr::V6(a) => !(a.is_unspecified() || a.is_multicast() || a.is_loopback()),
    }
}
