//! Reads a cluster file.

use std::collections::HashMap;
use std::ops::Range;

use super::defaults::default_unknown_session;
use super::error::{ConfigError, ConfigErrors};
use super::read::{FileKind, Table, read_file};
use super::spec::{
    BackendSpec, ClusterSpec, GroupSpec, HealthCheck, HealthSpec, ListenerSpec, NewUdp,
    ReplicateAfter, UnknownSession,
};
use super::validate::{Place, SpecError, validate, warnings};
use crate::flow::Protocol;
use crate::session::{ForwardingMode, default_idle_timeout_ms};

/// A cluster file without errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedCluster {
    /// What it says.
    pub spec: ClusterSpec,
    /// What is allowed but probably not meant.
    pub warnings: Vec<ConfigError>,
}

/// Reads a cluster file (`kind = "cluster"`). `file` is how errors name it.
pub fn parse_cluster(text: &str, file: &str) -> Result<ClusterSpec, ConfigErrors> {
    check_cluster(text, file).map(|checked| checked.spec)
}

/// Reads a cluster file and says what is questionable about it.
pub fn check_cluster(text: &str, file: &str) -> Result<CheckedCluster, ConfigErrors> {
    read_file(text, file, FileKind::Cluster, |top| {
        let mut reader = Reader::default();
        reader.cluster(top);
        for error in validate(&reader.spec) {
            if reader.unnamed_group && matches!(error.place, Place::Listener(_, "group")) {
                continue; // Its group may be the one whose name could not be read.
            }
            top.report.wrong(&reader.span(&error), error.message, error.hint);
        }
        let warnings = warnings(&reader.spec)
            .into_iter()
            .map(|w| top.report.note(&reader.span(&w), w.message, w.hint))
            .collect();
        Some(CheckedCluster { spec: reader.spec, warnings })
    })
}

/// What was read so far: listeners and backends that could be read, groups that at least have a
/// name, so that the rules between them are checked even while other errors are open.
#[derive(Default)]
struct Reader {
    spec: ClusterSpec,
    spans: HashMap<Place, Range<usize>>,
    unnamed_group: bool,
}

impl Reader {
    fn span(&self, error: &SpecError) -> Range<usize> {
        self.spans.get(&error.place).cloned().unwrap_or(0..0)
    }

    fn cluster(&mut self, top: &Table<'_, '_>) {
        top.one_of("kind");
        for (prefix, span) in top.prefixes("lip-pool").unwrap_or_default() {
            self.spans.insert(Place::LipPool(self.spec.lip_pool.len()), span);
            self.spec.lip_pool.push(prefix);
        }
        self.spans.insert(Place::Cluster("lip-pool"), top.span_of("lip-pool"));
        let lips = top.integer("lips-per-director").and_then(|n| u16::try_from(n).ok());
        self.spec.lips_per_director = lips.unwrap_or(self.spec.lips_per_director);
        let key = "lips-per-director";
        self.spans.insert(Place::Cluster(key), top.span_of(key));
        for key in ["listener", "group"] {
            self.spans.insert(Place::Cluster(key), top.span_of(key));
        }
        for table in top.tables("listener") {
            if let Some(listener) = complete(&table, listener) {
                let at = self.spec.listeners.len();
                for key in ["name", "vip", "port", "protocol", "group", "mode"]
                    .into_iter()
                    .chain(["replicate-after", "idle-timeout"])
                {
                    self.spans.insert(Place::Listener(at, key), table.span_of(key));
                }
                self.spec.listeners.push(listener);
            }
        }
        for table in top.tables("group") {
            self.group(&table);
        }
    }

    fn group(&mut self, table: &Table<'_, '_>) {
        let name = table.name("name");
        table.one_of("kind");
        let at = self.spec.groups.len();
        for key in ["name", "health", "backend"] {
            self.spans.insert(Place::Group(at, key), table.span_of(key));
        }
        let health = match table.table("health") {
            Some(health_table) => {
                for key in ["type", "interval", "timeout", "rise", "fall", "port", "path", "host"]
                    .into_iter()
                    .chain(["status"])
                {
                    self.spans.insert(Place::Group(at, key), health_table.span_of(key));
                }
                complete(&health_table, health)
            }
            None => None,
        };
        let mut backends = Vec::new();
        for backend_table in table.tables("backend") {
            if let Some(backend) = complete(&backend_table, backend) {
                for key in ["name", "address", "weight"] {
                    let place = Place::Backend(at, backends.len(), key);
                    self.spans.insert(place, backend_table.span_of(key));
                }
                backends.push(backend);
            }
        }
        table.finish();
        match name {
            Some(name) => self.spec.groups.push(GroupSpec {
                name,
                health: health.unwrap_or_default(),
                backends,
            }),
            None => self.unnamed_group = true,
        }
    }
}

/// What `read` makes of the table, unless it reported an error.
fn complete<T>(table: &Table<'_, '_>, read: impl FnOnce(&Table<'_, '_>) -> Option<T>) -> Option<T> {
    let before = table.report.count();
    let read = read(table);
    table.finish();
    read.filter(|_| table.report.count() == before)
}

fn listener(table: &Table<'_, '_>) -> Option<ListenerSpec> {
    let name = table.name("name");
    let vip = table.address("vip");
    let port = table.integer("port").and_then(|n| u16::try_from(n).ok());
    let protocol =
        table.one_of("protocol").map(|w| if w == "udp" { Protocol::Udp } else { Protocol::Tcp });
    let group = table.name("group");
    let mode = table.one_of("mode").map(|_| ForwardingMode::FullNat);
    table.one_of("scheduler");
    let replicate_after = table.millis_or_never("replicate-after").map(|after| match after {
        Some(millis) => ReplicateAfter::Millis(millis),
        None => ReplicateAfter::Never,
    });
    let idle_timeout_ms = table.millis("idle-timeout");
    let unknown_session = table.one_of("unknown-session").map(|word| match word {
        "drop" => UnknownSession::Drop,
        _ => UnknownSession::Reset,
    });
    let new_udp = table.one_of("new-udp").map(|word| match word {
        "ask" => NewUdp::Ask,
        _ => NewUdp::Schedule,
    });
    let protocol = protocol?;
    if protocol == Protocol::Tcp && table.has("new-udp") {
        table.wrong("new-udp", "means nothing with protocol = \"tcp\"", "leave it away");
    }
    if protocol == Protocol::Udp && unknown_session == Some(UnknownSession::Reset) {
        let hint = "UDP has no resets; leave it away";
        table.wrong("unknown-session", "cannot be \"reset\" with protocol = \"udp\"", hint);
    }
    Some(ListenerSpec {
        name: name?,
        vip: vip?,
        port: port?,
        protocol,
        mode: mode?,
        group: group?,
        replicate_after: replicate_after?,
        idle_timeout_ms: idle_timeout_ms.unwrap_or_else(|| default_idle_timeout_ms(protocol)),
        unknown_session: unknown_session.unwrap_or_else(|| default_unknown_session(protocol)),
        new_udp: new_udp?,
    })
}

fn health(table: &Table<'_, '_>) -> Option<HealthSpec> {
    let kind = table.one_of("type");
    let interval_ms = table.millis("interval");
    let timeout_ms = table.millis("timeout");
    let count = |key| table.integer(key).and_then(|n| u8::try_from(n).ok());
    let (rise, fall) = (count("rise"), count("fall"));
    let port = table.integer("port").and_then(|n| u16::try_from(n).ok());
    let (path, host) = (table.text("path"), table.text("host"));
    let status = table.integer("status").and_then(|n| u16::try_from(n).ok());
    let kind = kind?;
    let meaningless: &[&str] = match kind {
        "tcp" => &["path", "host", "status"],
        "none" => &["port", "path", "host", "status"],
        _ => &[],
    };
    for key in meaningless.iter().filter(|key| table.has(key)) {
        let hint = if *key == "port" { "leave it away" } else { "did you mean type = \"http\"?" };
        table.wrong(key, &format!("means nothing with type = \"{kind}\""), hint);
    }
    let interval_ms = interval_ms?;
    Some(HealthSpec {
        check: match kind {
            "tcp" => HealthCheck::Tcp { port },
            "http" => HealthCheck::Http {
                port,
                path: path.unwrap_or_else(|| "/".to_owned()),
                host,
                status,
            },
            _ => HealthCheck::None,
        },
        interval_ms,
        timeout_ms: timeout_ms.unwrap_or(interval_ms.min(HealthSpec::default().timeout_ms)),
        rise: rise?,
        fall: fall?,
    })
}

fn backend(table: &Table<'_, '_>) -> Option<BackendSpec> {
    let (name, address) = (table.name("name"), table.socket("address"));
    let (weight, drain) = (table.integer("weight"), table.boolean("drain"));
    Some(BackendSpec {
        name: name?,
        address: address?,
        weight: weight.and_then(|n| u16::try_from(n).ok())?,
        draining: drain?,
    })
}
