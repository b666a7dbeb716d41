//! The router's routes over time, from `ip -ts -o monitor route`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::watch;

use super::paths::word_after;
use crate::clock::{monotonic_of, parse_utc};
use crate::command::{command, in_netns, run};

/// The interfaces a destination is sent to.
pub type Devices = BTreeSet<String>;

/// A destination has other interfaces now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When (monotonic ms).
    pub at_ms: u64,
    /// The destination.
    pub destination: String,
    /// The interfaces; none: the route is gone.
    pub devices: Devices,
}

/// All routes that BIRD gave to the router's kernel, and their changes since.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct History {
    /// What was there at first.
    pub first: BTreeMap<String, Devices>,
    /// What came after.
    pub changes: Vec<Change>,
}

impl History {
    /// The routes as they were at a time.
    pub fn at(&self, at_ms: u64) -> BTreeMap<String, Devices> {
        let mut routes = self.first.clone();
        for change in self.changes.iter().filter(|c| c.at_ms <= at_ms) {
            routes.insert(change.destination.clone(), change.devices.clone());
        }
        routes
    }

    /// The routes as they are.
    pub fn now(&self) -> BTreeMap<String, Devices> {
        self.at(u64::MAX)
    }

    /// When the last destination that was sent to `device` at `since` had left it; none: one still
    /// is, or none ever was.
    pub fn left(&self, device: &str, since_ms: u64) -> Option<u64> {
        let before = self.at(since_ms.saturating_sub(1));
        let sat = before.iter().filter(|(_, devices)| devices.contains(device));
        sat.map(|(destination, _)| {
            self.changes
                .iter()
                .filter(|c| c.at_ms >= since_ms && c.destination == *destination)
                .find(|c| !c.devices.contains(device))
                .map(|c| c.at_ms)
        })
        .collect::<Option<Vec<u64>>>()?
        .into_iter()
        .max()
    }

    /// How often the routes to these destinations changed from then on; where all of them did together, once.
    pub fn changes_since(&self, destinations: &[String], since_ms: u64) -> u64 {
        let mut routes = self.at(since_ms.saturating_sub(1));
        let mut counts: BTreeMap<&String, u64> = BTreeMap::new();
        for change in self.changes.iter().filter(|c| c.at_ms >= since_ms) {
            let before = routes.insert(change.destination.clone(), change.devices.clone());
            if destinations.contains(&change.destination)
                && before.as_ref() != Some(&change.devices)
            {
                *counts.entry(&change.destination).or_default() += 1;
            }
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// Whether any route changed between two times.
    pub fn changed(&self, from_ms: u64, until_ms: u64) -> bool {
        self.changes.iter().any(|c| (from_ms..until_ms).contains(&c.at_ms))
    }

    /// Whether one of these destinations is sent to a device now.
    pub fn serves(&self, device: &str, destinations: &[String]) -> bool {
        let now = self.now();
        destinations.iter().any(|d| now.get(d).is_some_and(|devices| devices.contains(device)))
    }

    /// The first and the last change since then that added or removed `device` anywhere.
    pub fn span(&self, device: &str, since_ms: u64) -> Option<(u64, u64)> {
        let mut routes = self.at(since_ms.saturating_sub(1));
        let mut times = self.changes.iter().filter(|c| c.at_ms >= since_ms).filter_map(|change| {
            let before = routes.insert(change.destination.clone(), change.devices.clone());
            let had = before.is_some_and(|devices| devices.contains(device));
            (had != change.devices.contains(device)).then_some(change.at_ms)
        });
        let first = times.next()?;
        Some((first, times.last().unwrap_or(first)))
    }
}

/// Reads a line of `ip -o route show`: destination and interfaces.
fn parse_route(line: &str) -> Option<(String, Devices)> {
    if word_after(line, "proto") != Some("bird") {
        return None;
    }
    let destination = line.split_whitespace().next()?.to_owned();
    let mut devices = Devices::new();
    let mut words = line.split_whitespace();
    while words.any(|w| w == "dev") {
        devices.extend(words.next().map(str::to_owned));
    }
    Some((destination, devices))
}

/// Reads a line of `ip -ts -o monitor route`; the time is Unix ms.
fn parse_event(line: &str) -> Option<(i64, String, Devices)> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
    let at = parse_utc(stamp)?;
    let rest = rest.trim_start();
    // With `-o` some versions repeat the label of the object in brackets.
    let rest = rest.strip_prefix("[ROUTE]").unwrap_or(rest);
    match rest.strip_prefix("Deleted ") {
        Some(gone) => parse_route(gone).map(|(destination, _)| (at, destination, Devices::new())),
        None => parse_route(rest).map(|(destination, devices)| (at, destination, devices)),
    }
}

/// Is told when routes change.
pub struct Watcher {
    history: Arc<Mutex<History>>,
    told: watch::Receiver<()>,
    /// How many changes it knows of.
    known: usize,
}

impl Watcher {
    /// Waits until routes to any of these destinations have changed; gives which. None: nobody watches the
    /// router any more.
    pub async fn changed(&mut self, destinations: &[String]) -> BTreeSet<String> {
        loop {
            let changed = self.unknown(destinations);
            if !changed.is_empty() || self.told.changed().await.is_err() {
                return changed;
            }
        }
    }

    /// Takes up the changes that it does not know of.
    fn unknown(&mut self, destinations: &[String]) -> BTreeSet<String> {
        let history = self.history.lock().expect("no holder panics");
        let new = history.changes.get(self.known..).unwrap_or_default();
        self.known = history.changes.len();
        let of = new.iter().map(|c| &c.destination).filter(|d| destinations.contains(d));
        of.cloned().collect()
    }
}

/// Watches a router's routes while it exists.
pub struct Monitor {
    history: Arc<Mutex<History>>,
    told: watch::Receiver<()>,
    // Ends with us.
    _child: Child,
}

impl Monitor {
    /// Begins to watch.
    pub async fn start(router: &str) -> Result<Monitor> {
        let mut child = command(&in_netns(router, &["ip", "-ts", "-o", "monitor", "route"]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `ip monitor`")?;
        let out = child.stdout.take().context("its output is piped")?;
        let history = Arc::new(Mutex::new(History::default()));
        let to = history.clone();
        let (tell, told) = watch::channel(());
        tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some((unix, destination, devices)) = parse_event(&line) {
                    let at_ms = monotonic_of(unix);
                    to.lock().expect("no holder panics").changes.push(Change {
                        at_ms,
                        destination,
                        devices,
                    });
                    tell.send(()).ok();
                }
            }
        });
        let shown = run(&["ip", "-n", router, "-o", "route", "show"]).await?;
        let first = shown.lines().filter_map(parse_route).collect();
        history.lock().expect("no holder panics").first = first;
        Ok(Monitor { history, told, _child: child })
    }

    /// One who is told of what changes from now on.
    pub fn watcher(&self) -> Watcher {
        let known = self.history.lock().expect("no holder panics").changes.len();
        Watcher { history: self.history.clone(), told: self.told.clone(), known }
    }

    /// What has been seen so far.
    pub fn history(&self) -> History {
        self.history.lock().expect("no holder panics").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(list: &[&str]) -> Devices {
        list.iter().map(|d| (*d).to_owned()).collect()
    }

    fn change(at_ms: u64, destination: &str, list: &[&str]) -> Change {
        Change { at_ms, destination: destination.into(), devices: devices(list) }
    }

    fn history() -> History {
        History {
            first: BTreeMap::from([
                ("vip".into(), devices(&["d1", "d2", "d3"])),
                ("lip1".into(), devices(&["d1"])),
                ("lip2".into(), devices(&["d2"])),
            ]),
            changes: vec![
                change(100, "vip", &["d2", "d3"]),
                change(130, "lip1", &["d2", "d3"]),
                change(900, "lip1", &["d1"]),
                change(950, "vip", &["d1", "d2", "d3"]),
            ],
        }
    }

    #[test]
    fn a_device_has_been_left_when_the_last_route_has() {
        let h = history();
        assert_eq!(h.left("d1", 90), Some(130));
        assert_eq!(h.left("d2", 90), None, "it never was");
        assert_eq!(h.left("d4", 90), None, "it had nothing");
        assert_eq!(h.left("d1", 951), None, "after it came back");
        assert_eq!(h.span("d1", 800), Some((900, 950)));
        assert_eq!(h.span("d1", 0), Some((100, 950)));
        assert_eq!(h.span("d3", 0), Some((130, 900)));
        assert!(h.serves("d1", &["vip".into()]));
        assert_eq!(h.at(500)["lip1"], devices(&["d2", "d3"]));
        assert!(h.changed(100, 101) && !h.changed(101, 130));
    }

    #[test]
    fn changes_of_all_destinations_together_count_once() {
        let mut h = history();
        h.first.insert("vip2".into(), devices(&["d1", "d2", "d3"]));
        h.changes.push(change(951, "vip2", &["d1", "d2", "d3"]));
        let both = ["vip".to_owned(), "vip2".to_owned()];
        assert_eq!(h.changes_since(&both, 100), 2, "a route that is told again has not changed");
        assert_eq!(h.changes_since(&both, 101), 1);
        assert_eq!(h.changes_since(&both[1..], 0), 0);
    }

    #[tokio::test]
    async fn who_watches_is_told_once_of_each_change_that_concerns_him() {
        let history = Arc::new(Mutex::new(history()));
        let (tell, told) = watch::channel(());
        let mut watcher = Watcher { history: history.clone(), told, known: 4 };
        let vip = ["vip".to_owned()];
        let soon = std::time::Duration::from_millis(50);
        let add = |change| {
            history.lock().unwrap().changes.push(change);
            tell.send(()).unwrap();
        };
        add(change(960, "lip1", &["d2"]));
        assert!(tokio::time::timeout(soon, watcher.changed(&vip)).await.is_err(), "not his");
        add(change(970, "vip", &["d2"]));
        add(change(980, "vip", &["d3"]));
        assert_eq!(watcher.changed(&vip).await, BTreeSet::from(["vip".to_owned()]));
        assert!(tokio::time::timeout(soon, watcher.changed(&vip)).await.is_err(), "he knows");
        drop(tell);
        assert!(watcher.changed(&vip).await.is_empty());
    }

    #[test]
    fn lines_of_ip_monitor() {
        let replaced = "[2026-11-21T11:45:10.093373] 203.0.113.10 proto bird metric 32 \\\tnexthop via \
                        10.71.1.2 dev d1 weight 1 \\\tnexthop via 10.71.3.2 dev d3 weight 1 ";
        let at = parse_utc("2026-11-21 11:45:10.093").unwrap();
        let vip = "203.0.113.10".to_owned();
        assert_eq!(parse_event(replaced), Some((at, vip.clone(), devices(&["d1", "d3"]))));
        let single =
            "[2026-11-21T11:45:10.093341] 203.0.113.10 via 10.71.2.2 dev d2 proto bird metric 32 ";
        assert_eq!(parse_event(single), Some((at, vip.clone(), devices(&["d2"]))));
        let gone = "[2026-11-21T11:45:10.093341] Deleted 203.0.113.10 via 10.71.2.2 dev d2 proto bird metric 32 ";
        assert_eq!(parse_event(gone), Some((at, vip, devices(&[]))));
        let other = "[2026-11-21T11:45:10.093341] 10.71.4.0/24 dev d4 proto kernel scope link src 10.71.4.1 ";
        assert_eq!(parse_event(other), None, "not BIRD's");
        assert_eq!(parse_event("nonsense"), None);
    }
}
