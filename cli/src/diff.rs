//! The difference between two configurations, in words. Order does not matter in either.

use std::collections::BTreeMap;

use holdfast_schema::config::{
    BackendSpec, ClusterSpec, GroupSpec, HealthCheck, HealthSpec, ListenerSpec, ReplicateAfter,
    format_millis,
};
use serde::Serialize;

/// What happens to a thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// It is new.
    Added,
    /// It stays, but differs.
    Changed,
    /// It goes.
    Removed,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    /// What happens to it.
    pub change: Verb,
    /// `lip-pool`, `listener`, `group`, `backend`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// What it is, or what of it changes.
    pub details: Vec<String>,
}

/// What has to be done to come from `old` to `new`.
pub fn changes(old: &ClusterSpec, new: &ClusterSpec) -> Vec<Change> {
    let mut found = Vec::new();
    let mut top = Vec::new();
    for prefix in new.lip_pool.iter().filter(|p| !old.lip_pool.contains(p)) {
        top.push(format!("+{prefix}"));
    }
    for prefix in old.lip_pool.iter().filter(|p| !new.lip_pool.contains(p)) {
        top.push(format!("-{prefix}"));
    }
    if !top.is_empty() {
        found.push(changed("lip-pool", "", top));
    }
    let mut lips = Vec::new();
    differ(&mut lips, "", old.lips_per_director, new.lips_per_director);
    if !lips.is_empty() {
        found.push(changed("lips-per-director", "", lips));
    }
    let (was, is) = (by_name(&old.groups, |g| &g.name), by_name(&new.groups, |g| &g.name));
    compare(&mut found, "group", &was, &is, group, |old, new| {
        let mut details = Vec::new();
        differ(&mut details, "health", health(&old.health), health(&new.health));
        details
    });
    let (was, is) = (backends(old), backends(new));
    compare(&mut found, "backend", &was, &is, backend, backend_changes);
    let (was, is) = (by_name(&old.listeners, |l| &l.name), by_name(&new.listeners, |l| &l.name));
    compare(&mut found, "listener", &was, &is, listener, listener_changes);
    found
}

/// The differences for people, one a line, and a last line that counts them.
pub fn print(changes: &[Change]) -> String {
    let mut out = String::new();
    let width = changes.iter().map(|c| c.what.len() + c.name.len()).max().unwrap_or(0);
    for change in changes {
        let sign = match change.change {
            Verb::Added => '+',
            Verb::Changed => '~',
            Verb::Removed => '-',
        };
        let pad = " ".repeat(width - change.what.len() - change.name.len());
        let line =
            format!("{sign} {} {}{pad}  {}", change.what, change.name, change.details.join(", "));
        out += line.trim_end();
        out.push('\n');
    }
    let count = |verb| changes.iter().filter(|c| c.change == verb).count();
    let (added, changed, removed) =
        (count(Verb::Added), count(Verb::Changed), count(Verb::Removed));
    out + &format!("{added} to add, {changed} to change, {removed} to remove\n")
}

fn changed(what: &'static str, name: &str, details: Vec<String>) -> Change {
    Change { change: Verb::Changed, what, name: name.to_owned(), details }
}

fn by_name<T>(all: &[T], name: impl Fn(&T) -> &String) -> BTreeMap<String, &T> {
    all.iter().map(|one| (name(one).clone(), one)).collect()
}

fn backends(spec: &ClusterSpec) -> BTreeMap<String, &BackendSpec> {
    let of = |g: &'_ GroupSpec, b: &BackendSpec| format!("{}/{}", g.name, b.name);
    spec.groups.iter().flat_map(|g| g.backends.iter().map(move |b| (of(g, b), b))).collect()
}

fn compare<T>(
    found: &mut Vec<Change>,
    what: &'static str,
    was: &BTreeMap<String, &T>,
    is: &BTreeMap<String, &T>,
    describe: impl Fn(&T) -> String,
    differences: impl Fn(&T, &T) -> Vec<String>,
) {
    let whole = |change, name: &String, one: &T| Change {
        change,
        what,
        name: name.clone(),
        details: vec![describe(one)],
    };
    for (name, old) in was.iter().filter(|(name, _)| !is.contains_key(*name)) {
        found.push(whole(Verb::Removed, name, old));
    }
    for (name, new) in is {
        match was.get(name) {
            None => found.push(whole(Verb::Added, name, new)),
            Some(old) => {
                let details = differences(old, new);
                if !details.is_empty() {
                    found.push(changed(what, name, details));
                }
            }
        }
    }
}

/// Notes `key: old -> new` if they differ.
fn differ<T: PartialEq + ToString>(details: &mut Vec<String>, key: &str, old: T, new: T) {
    if old != new {
        let key = if key.is_empty() { String::new() } else { format!("{key}: ") };
        details.push(format!("{key}{} -> {}", old.to_string(), new.to_string()));
    }
}

/// A JSON word of an enum of the schema: `full-nat`.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// `3s`, `0` or `never`.
pub fn replicate_after(after: ReplicateAfter) -> String {
    match after {
        ReplicateAfter::Millis(millis) => format_millis(millis),
        ReplicateAfter::Never => "never".to_owned(),
    }
}

fn listener(l: &ListenerSpec) -> String {
    let front = std::net::SocketAddr::new(l.vip, l.port);
    format!("{} {front} to group {}", l.protocol, l.group)
}

fn listener_changes(old: &ListenerSpec, new: &ListenerSpec) -> Vec<String> {
    let mut details = Vec::new();
    differ(&mut details, "vip", old.vip, new.vip);
    differ(&mut details, "port", old.port, new.port);
    differ(&mut details, "protocol", old.protocol, new.protocol);
    differ(&mut details, "group", old.group.clone(), new.group.clone());
    differ(&mut details, "mode", word(&old.mode), word(&new.mode));
    let after = replicate_after;
    differ(&mut details, "replicate-after", after(old.replicate_after), after(new.replicate_after));
    let idle = |l: &ListenerSpec| format_millis(l.idle_timeout_ms);
    differ(&mut details, "idle-timeout", idle(old), idle(new));
    differ(&mut details, "unknown-session", word(&old.unknown_session), word(&new.unknown_session));
    differ(&mut details, "new-udp", word(&old.new_udp), word(&new.new_udp));
    details
}

fn group(g: &GroupSpec) -> String {
    format!("health {}", health(&g.health))
}

/// A health check in a few words: `http :8080/healthz every 2s`.
pub fn health(health: &HealthSpec) -> String {
    let port = |port: &Option<u16>| port.map(|p| format!(" :{p}")).unwrap_or_default();
    let check = match &health.check {
        HealthCheck::None => return "none".to_owned(),
        HealthCheck::Tcp { port: p } => format!("tcp{}", port(p)),
        HealthCheck::Http { port: p, path, host, status } => {
            let host = host.as_ref().map(|h| format!(" host {h}")).unwrap_or_default();
            let status = status.map(|s| format!(" status {s}")).unwrap_or_default();
            format!("http{} {path}{host}{status}", port(p))
        }
    };
    let (every, within) = (format_millis(health.interval_ms), format_millis(health.timeout_ms));
    format!("{check} every {every} within {within}, rise {} fall {}", health.rise, health.fall)
}

fn backend(b: &BackendSpec) -> String {
    let drains = if b.draining { ", draining" } else { "" };
    format!("{} weight {}{drains}", b.address, b.weight)
}

fn backend_changes(old: &BackendSpec, new: &BackendSpec) -> Vec<String> {
    let mut details = Vec::new();
    differ(&mut details, "address", old.address, new.address);
    differ(&mut details, "weight", old.weight, new.weight);
    differ(&mut details, "drain", old.draining, new.draining);
    details
}

#[cfg(test)]
mod tests {
    use holdfast_schema::config::{parse_cluster, reference::EXAMPLE_CLUSTER};

    use super::*;

    fn example() -> ClusterSpec {
        parse_cluster(EXAMPLE_CLUSTER, "example").unwrap()
    }

    #[test]
    fn equal_configurations_have_no_difference_whatever_their_order() {
        let mut other = example();
        other.groups[0].backends.reverse();
        assert_eq!(changes(&example(), &other), []);
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let mut new = example();
        new.lip_pool = vec!["198.18.0.0/28".parse().unwrap()];
        new.lips_per_director = 3;
        new.listeners[0].port = 444;
        new.listeners[0].replicate_after = ReplicateAfter::Never;
        new.groups[0].health = HealthSpec::default();
        new.groups[0].backends[0].name = "web-9".into();
        new.groups[0].backends[1].weight = 7;
        new.groups[0].backends[1].draining = true;
        let text = print(&changes(&example(), &new));
        let expected = "\
~ lip-pool            +198.18.0.0/28, -198.51.100.0/28
~ lips-per-director   2 -> 3
~ group web           health: http :8080 /healthz every 2s within 1s, rise 2 fall 3 -> tcp every 2s within 1s, rise 2 fall 3
- backend web/web-1   10.0.0.11:443 weight 100
~ backend web/web-2   weight: 50 -> 7, drain: false -> true
+ backend web/web-9   10.0.0.11:443 weight 100
~ listener web        port: 443 -> 444, replicate-after: 3s -> never
1 to add, 5 to change, 1 to remove
";
        assert_eq!(text, expected);
        let all = changes(&ClusterSpec::default(), &example());
        assert!(all.iter().filter(|c| c.what != "lip-pool").all(|c| c.change == Verb::Added));
        assert_eq!(all.len(), 5);
    }
}
