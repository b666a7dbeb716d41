//! The table of every key of both kinds of file.
//!
//! The readers look up here what a key may be and what it is when it is absent, and the reference
//! (docs/configuration.md) is printed from here; so neither can say something else than the other.

use std::ops::RangeInclusive;

use super::limits;

/// One TOML table of a file.
#[derive(Debug)]
pub struct Section {
    /// How it is written in the file, `[[listener]]`; empty for the top of the file.
    pub title: &'static str,
    /// What it describes.
    pub intro: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// Keys that are known but not there yet.
    pub refused: &'static [Refused],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What holds when it is absent.
    pub presence: Presence,
    /// What it means.
    pub meaning: &'static str,
}

/// What a value may be.
#[derive(Debug)]
pub enum Kind {
    /// Letters, digits, `.`, `_`, `-`.
    Name,
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer(RangeInclusive<u32>),
    /// A duration (ms).
    Millis(RangeInclusive<u32>),
    /// A duration (ms) or `"never"`.
    MillisOrNever(RangeInclusive<u32>),
    /// One of these words; and words that are known but not there yet.
    OneOf(&'static [&'static str], &'static [Refused]),
    /// An IPv4 address.
    Address,
    /// `ADDRESS:PORT`.
    Socket,
    /// A list of prefixes.
    Prefixes,
    /// An absolute path.
    Path,
    /// The name of a network interface.
    Interface,
    /// A table.
    Table(&'static Section),
    /// Any number of tables.
    Tables(&'static Section),
}

/// What holds when a key is absent.
#[derive(Debug)]
pub enum Presence {
    /// That is an error.
    Required,
    /// This value (TOML).
    Default(&'static str),
    /// What these words say.
    Absent(&'static str),
}

/// Something known that is not there yet.
#[derive(Debug)]
pub struct Refused {
    /// The key or value.
    pub name: &'static str,
    /// What to do without it, as a sentence.
    pub instead: &'static str,
}

const NOT_YET_FULL_NAT: &str = "only `full-nat` forwards so far";
const NOT_YET_DEFAULT_GROUP: &str = "only `default` groups so far";
const NOT_YET_MAGLEV: &str = "only `maglev` schedules so far";
const NOT_YET_CLIENT_ADDRESS: &str =
    "backends see the LIP as the client so far; leave the key away";

/// A node file: what one machine is.
pub static NODE: Section = Section {
    title: "",
    intro: "What one machine is. Read by `holdfastd --config FILE` when it starts.",
    keys: &[
        Key {
            name: "kind",
            kind: Kind::OneOf(&["node"], &[]),
            presence: Presence::Required,
            meaning: "Says which kind of file this is. Write it first.",
        },
        Key {
            name: "id",
            kind: Kind::Name,
            presence: Presence::Required,
            meaning: "The director's name, unique in the cluster: the NAME of `holdfast node add NAME`.",
        },
        Key {
            name: "peer-address",
            kind: Kind::Socket,
            presence: Presence::Required,
            meaning: "Where the other directors reach this one (QUIC over UDP), and what it listens on.",
        },
        Key {
            name: "interface",
            kind: Kind::Interface,
            presence: Presence::Required,
            meaning: "The interface that carries VIP and LIP traffic. The XDP program is attached to it.",
        },
        Key {
            name: "data-dir",
            kind: Kind::Path,
            presence: Presence::Default("\"/var/lib/holdfast\""),
            meaning: "The data directory: identity, Raft log, checkpoints. Never copy it to another machine.",
        },
        Key {
            name: "workers",
            kind: Kind::Integer(limits::WORKERS),
            presence: Presence::Default("1"),
            meaning: "How many receive queues of `interface` have a worker: one thread and one AF_XDP socket each.",
        },
        Key {
            name: "xdp-mode",
            kind: Kind::OneOf(&["auto", "native", "skb"], &[]),
            presence: Presence::Default("\"auto\""),
            meaning: "How the XDP program is attached. `auto`: native, or SKB mode where the driver cannot; `native`: native or do not start; `skb`: SKB mode.",
        },
        Key {
            name: "admin-socket",
            kind: Kind::Path,
            presence: Presence::Default("\"/run/holdfast/admin.sock\""),
            meaning: "The unix socket of the admin API that the command `holdfast` talks to. Who may open it may change everything.",
        },
        Key {
            name: "metrics-address",
            kind: Kind::Socket,
            presence: Presence::Absent("no metrics are served"),
            meaning: "Where `/metrics` is served over HTTP (Prometheus).",
        },
        Key {
            name: "max-sessions",
            kind: Kind::Integer(limits::MAX_SESSIONS),
            presence: Presence::Default("1000000"),
            meaning: "Most sessions this director can hold, its own and replicated ones. The memory is taken at start (about 300 bytes each).",
        },
        Key {
            name: "max-young-sessions",
            kind: Kind::Integer(limits::MAX_YOUNG_SESSIONS),
            presence: Presence::Absent("a quarter of `max-sessions`"),
            meaning: "Most young sessions of other directors that this one keeps in memory as their home (about 500 bytes each, taken as they come). Beyond that it turns the newest away and says for a while that it cannot be sure.",
        },
        Key {
            name: "asks-per-second",
            kind: Kind::Integer(limits::ASKS_PER_SECOND),
            presence: Presence::Default("20000"),
            meaning: "How many questions about packets of unknown sessions this director puts to others a second. Above that such packets are dropped and counted; known sessions do not notice.",
        },
        Key {
            name: "asks-per-second-and-prefix",
            kind: Kind::Integer(limits::ASKS_PER_SECOND),
            presence: Presence::Default("5000"),
            meaning: "Of them, how many about clients of one /24.",
        },
        Key {
            name: "guard-timeout",
            kind: Kind::Millis(limits::GUARD_TIMEOUT_MS),
            presence: Presence::Default("\"50ms\""),
            meaning: "How long the control loop or a worker may be silent before the guard withdraws the routes.",
        },
        Key {
            name: "udp-ask",
            kind: Kind::Millis(limits::UDP_ASK_MS),
            presence: Presence::Default("\"10s\""),
            meaning: "For how long after a membership or announcement change unknown UDP flows ask the other directors before they are scheduled.",
        },
        Key {
            name: "announce",
            kind: Kind::Table(&ANNOUNCE),
            presence: Presence::Absent("nothing is announced; the director attracts no traffic"),
            meaning: "How routes are announced.",
        },
    ],
    refused: &[],
};

/// `[announce]` of a node file.
pub static ANNOUNCE: Section = Section {
    title: "[announce]",
    intro: "How VIP and LIP routes reach the router: the guard holds them in a routing table of their own on a TUN device, and BIRD announces that table.",
    keys: &[
        Key {
            name: "bird-socket",
            kind: Kind::Path,
            presence: Presence::Default("\"/run/bird/bird.ctl\""),
            meaning: "BIRD's control socket.",
        },
        Key {
            name: "device",
            kind: Kind::Interface,
            presence: Presence::Default("\"hf0\""),
            meaning: "Name of the TUN device. It vanishes, and the routes with it, when its holder dies.",
        },
        Key {
            name: "table",
            kind: Kind::Integer(limits::ROUTING_TABLE),
            presence: Presence::Default("4242"),
            meaning: "The routing table that BIRD learns from.",
        },
        Key {
            name: "blackhole-table",
            kind: Kind::Integer(limits::ROUTING_TABLE),
            presence: Presence::Default("4243"),
            meaning: "The routing table with the blackholes that keep the kernel from answering for VIPs and LIPs.",
        },
    ],
    refused: &[],
};

/// A cluster file: what the cluster serves.
pub static CLUSTER: Section = Section {
    title: "",
    intro: "What the cluster serves. Given to `holdfast apply -f FILE`, which shows the difference and makes it so on all directors.",
    keys: &[
        Key {
            name: "kind",
            kind: Kind::OneOf(&["cluster"], &[]),
            presence: Presence::Required,
            meaning: "Says which kind of file this is. Write it first.",
        },
        Key {
            name: "lip-pool",
            kind: Kind::Prefixes,
            presence: Presence::Default("[]"),
            meaning: "Prefixes that LIPs are taken from. They must be routed to the directors by nobody else and lie in no subnet a director is connected to. Needed as soon as there is a listener.",
        },
        Key {
            name: "lips-per-director",
            kind: Kind::Integer(limits::LIPS_PER_DIRECTOR),
            presence: Presence::Default("2"),
            meaning: "How many LIPs each director gets. One LIP carries about 63,000 sessions to each backend.",
        },
        Key {
            name: "listener",
            kind: Kind::Tables(&LISTENER),
            presence: Presence::Absent("no listeners"),
            meaning: "The listeners.",
        },
        Key {
            name: "group",
            kind: Kind::Tables(&GROUP),
            presence: Presence::Absent("no groups"),
            meaning: "The server groups.",
        },
    ],
    refused: &[],
};

/// `[[listener]]` of a cluster file.
pub static LISTENER: Section = Section {
    title: "[[listener]]",
    intro: "VIP, port and protocol that clients connect to, and how that traffic is treated.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            meaning: "Unique among the listeners.",
        },
        Key {
            name: "vip",
            kind: Kind::Address,
            presence: Presence::Required,
            meaning: "The virtual IP that clients connect to. It lies in no subnet a director is connected to and not in the LIP pool.",
        },
        Key {
            name: "port",
            kind: Kind::Integer(limits::PORT),
            presence: Presence::Required,
            meaning: "The port that clients connect to.",
        },
        Key {
            name: "protocol",
            kind: Kind::OneOf(&["tcp", "udp"], &[]),
            presence: Presence::Default("\"tcp\""),
            meaning: "The transport protocol.",
        },
        Key {
            name: "group",
            kind: Kind::Name,
            presence: Presence::Required,
            meaning: "The server group whose backends get the sessions.",
        },
        Key {
            name: "mode",
            kind: Kind::OneOf(
                &["full-nat"],
                &[
                    Refused { name: "dnat", instead: NOT_YET_FULL_NAT },
                    Refused { name: "dsr-l2", instead: NOT_YET_FULL_NAT },
                    Refused { name: "dsr-tunnel", instead: NOT_YET_FULL_NAT },
                ],
            ),
            presence: Presence::Default("\"full-nat\""),
            meaning: "How packets reach the backends. `full-nat`: source becomes a LIP, destination the backend.",
        },
        Key {
            name: "scheduler",
            kind: Kind::OneOf(
                &["maglev"],
                &[
                    Refused { name: "round-robin", instead: NOT_YET_MAGLEV },
                    Refused { name: "weighted-round-robin", instead: NOT_YET_MAGLEV },
                    Refused { name: "least-connections", instead: NOT_YET_MAGLEV },
                    Refused { name: "random", instead: NOT_YET_MAGLEV },
                    Refused { name: "source-hash", instead: NOT_YET_MAGLEV },
                ],
            ),
            presence: Presence::Default("\"maglev\""),
            meaning: "How a new session finds its backend. `maglev`: consistent hashing with weights.",
        },
        Key {
            name: "replicate-after",
            kind: Kind::MillisOrNever(limits::REPLICATE_AFTER_MS),
            presence: Presence::Default("\"3s\""),
            meaning: "Age from which an established session is replicated and so survives its director. 0: at once. `\"never\"`: not at all (DNS-like UDP); such sessions end with their director, drained or dead.",
        },
        Key {
            name: "idle-timeout",
            kind: Kind::Millis(limits::IDLE_TIMEOUT_MS),
            presence: Presence::Absent("`\"15m\"` for TCP, `\"2m\"` for UDP"),
            meaning: "How long an established session may go without a packet before it is forgotten. It is, within a quarter of this and eight seconds more. But if its director ended meanwhile, it counts as idle from that moment only, which may take the same time once more; and while there is no quorum nothing is forgotten. Both ends of a TCP connection that is at rest then get a reset.",
        },
        Key {
            name: "unknown-session",
            kind: Kind::OneOf(&["reset", "drop"], &[]),
            presence: Presence::Absent("`\"reset\"` for TCP; UDP has nothing but `\"drop\"`"),
            meaning: "What a packet of a TCP session gets that every director denies, twice: the second time 150 ms or more after the first, since the news of a new session may still be on their way. A RST, or nothing. The first time it is nothing in any case.",
        },
        Key {
            name: "new-udp",
            kind: Kind::OneOf(&["schedule", "ask"], &[]),
            presence: Presence::Default("\"schedule\""),
            meaning: "What the first datagram of an unknown UDP flow gets: a backend at once, or a question to the other directors first. UDP only.",
        },
    ],
    refused: &[
        Refused { name: "toa", instead: NOT_YET_CLIENT_ADDRESS },
        Refused { name: "uoa", instead: NOT_YET_CLIENT_ADDRESS },
        Refused { name: "proxy-protocol", instead: NOT_YET_CLIENT_ADDRESS },
        Refused { name: "client-address", instead: NOT_YET_CLIENT_ADDRESS },
    ],
};

/// `[[group]]` of a cluster file.
pub static GROUP: Section = Section {
    title: "[[group]]",
    intro: "A set of backends.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            meaning: "Unique among the groups.",
        },
        Key {
            name: "kind",
            kind: Kind::OneOf(
                &["default"],
                &[
                    Refused { name: "virtual", instead: NOT_YET_DEFAULT_GROUP },
                    Refused { name: "primary-backup", instead: NOT_YET_DEFAULT_GROUP },
                ],
            ),
            presence: Presence::Default("\"default\""),
            meaning: "`default`: sessions are spread over all healthy backends by weight.",
        },
        Key {
            name: "health",
            kind: Kind::Table(&HEALTH),
            presence: Presence::Default("{ type = \"tcp\" }"),
            meaning: "How the backends are checked.",
        },
        Key {
            name: "backend",
            kind: Kind::Tables(&BACKEND),
            presence: Presence::Absent("no backends: its listeners have nobody to send to"),
            meaning: "The backends.",
        },
    ],
    refused: &[],
};

/// `health` of a group.
pub static HEALTH: Section = Section {
    title: "health = { ... }",
    intro: "How the backends of a group are checked; also written as a table `[group.health]`. Every director checks every backend.",
    keys: &[
        Key {
            name: "type",
            kind: Kind::OneOf(
                &["tcp", "http", "none"],
                &[
                    Refused { name: "https", instead: "only `tcp`, `http` and `none` so far" },
                    Refused { name: "udp", instead: "only `tcp`, `http` and `none` so far" },
                    Refused { name: "icmp", instead: "only `tcp`, `http` and `none` so far" },
                ],
            ),
            presence: Presence::Required,
            meaning: "`tcp`: a connection can be opened. `http`: `GET path` gets the expected status. `none`: always healthy.",
        },
        Key {
            name: "interval",
            kind: Kind::Millis(limits::HEALTH_INTERVAL_MS),
            presence: Presence::Default("\"2s\""),
            meaning: "Time between two checks of a backend.",
        },
        Key {
            name: "timeout",
            kind: Kind::Millis(limits::HEALTH_TIMEOUT_MS),
            presence: Presence::Absent("`\"1s\"`, or `interval` if that is shorter"),
            meaning: "Time after which a check has failed; not longer than `interval`.",
        },
        Key {
            name: "rise",
            kind: Kind::Integer(limits::HEALTH_COUNT),
            presence: Presence::Default("2"),
            meaning: "Successes in a row that make a backend healthy.",
        },
        Key {
            name: "fall",
            kind: Kind::Integer(limits::HEALTH_COUNT),
            presence: Presence::Default("3"),
            meaning: "Failures in a row that make a backend unhealthy.",
        },
        Key {
            name: "port",
            kind: Kind::Integer(limits::PORT),
            presence: Presence::Absent("the backend's own port"),
            meaning: "The port to check (`tcp`, `http`).",
        },
        Key {
            name: "path",
            kind: Kind::Text,
            presence: Presence::Absent("`\"/\"`"),
            meaning: "What to ask for (`http`).",
        },
        Key {
            name: "host",
            kind: Kind::Text,
            presence: Presence::Absent("the backend's address"),
            meaning: "The `Host` header (`http`).",
        },
        Key {
            name: "status",
            kind: Kind::Integer(limits::HTTP_STATUS),
            presence: Presence::Absent("any 2xx or 3xx"),
            meaning: "The expected status (`http`).",
        },
    ],
    refused: &[],
};

/// `[[group.backend]]` of a cluster file.
pub static BACKEND: Section = Section {
    title: "[[group.backend]]",
    intro: "One real server of the group above it.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Name,
            presence: Presence::Required,
            meaning: "Unique within the group. A backend that changes its address is a new one.",
        },
        Key {
            name: "address",
            kind: Kind::Socket,
            presence: Presence::Required,
            meaning: "Where it listens.",
        },
        Key {
            name: "weight",
            kind: Kind::Integer(limits::WEIGHT),
            presence: Presence::Default("100"),
            meaning: "Its share of new sessions, relative to the other backends of the group. 0: none.",
        },
        Key {
            name: "drain",
            kind: Kind::Bool,
            presence: Presence::Default("false"),
            meaning: "No new sessions; existing ones go on.",
        },
    ],
    refused: &[Refused { name: "proxy-protocol", instead: NOT_YET_CLIENT_ADDRESS }],
};

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
