//! Every metric: name, kind, labels, meaning.

use holdfast_state_store::peer::NetMetrics;

/// What kind of number it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// A metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: String,
}

use Kind::{Counter, Gauge, Histogram};

/// The metrics that have fixed names.
const FIXED: &[(&str, Kind, &[&str], &str)] = &[
    ("holdfast_build_info", Gauge, &["version"], "Always 1; the version of holdfastd."),
    ("holdfast_ready", Gauge, &[], "Whether this director is ready to attract traffic."),
    (
        "holdfast_local_problems",
        Gauge,
        &[],
        "What is wrong on this machine; it keeps a director from being ready, but does not withdraw \
         one that serves. `holdfast status` lists them.",
    ),
    (
        "holdfast_announcement",
        Gauge,
        &["state"],
        "1 for what BIRD shows of the VIPs: announced, worse or withdrawn; all 0: unknown.",
    ),
    (
        "holdfast_announced_routes",
        Gauge,
        &[],
        "Routes of VIPs and LIPs that this director wants announced now.",
    ),
    ("holdfast_route_changes_total", Counter, &[], "Routes added or deleted."),
    (
        "holdfast_bgp_sessions",
        Gauge,
        &["state"],
        "BGP sessions that BIRD has, by whether they are established.",
    ),
    (
        "holdfast_limit",
        Gauge,
        &["of"],
        "Limits of this director, to be held against what is used: holdfast_parked_packets, \
         holdfast_misses_total{result=\"asked\"} a second, holdfast_misses_pending, \
         holdfast_probes_total a second, requests to the admin API under way, changes queued a \
         shard, holdfast_young_sessions, new sessions queued a home.",
    ),
    ("holdfast_admin_under_way", Gauge, &[], "Requests to the admin API under way now."),
    ("holdfast_guard_holding", Gauge, &[], "Whether the guard holds the TUN device."),
    (
        "holdfast_guard_releases_total",
        Counter,
        &["reason"],
        "Times the guard let go of the routes, by reason: `command` (an orderly stop), and those that \
         deserve a look: `stalled` (the daemon found that it had not run), `daemon-died`, \
         `control-silent`, `worker-silent`, `guard-failed`.",
    ),
    (
        "holdfast_stalls_total",
        Counter,
        &[],
        "Times the control loop found that it had been stalled for more than 300 ms.",
    ),
    (
        "holdfast_packets_total",
        Counter,
        &["direction"],
        "Packets: received for VIPs and LIPs, forwarded to backends, forwarded to clients.",
    ),
    (
        "holdfast_bytes_total",
        Counter,
        &["direction"],
        "Bytes of these packets, Ethernet headers included.",
    ),
    (
        "holdfast_answered_packets_total",
        Counter,
        &["kind"],
        "Packets answered by the director itself: echo replies, TCP resets, ICMP errors; \"probe\": a client's \
         segment that may be of another connection, in whose place its backend was asked for its numbers.",
    ),
    (
        "holdfast_dropped_packets_total",
        Counter,
        &["reason"],
        "Packets dropped; each under exactly one reason. Reasons that begin with xdp_ are the XDP program's, with xsk_ the kernel's.",
    ),
    ("holdfast_core_events_total", Counter, &["event"], "Rarer events in the packet cores."),
    (
        "holdfast_parked_packets",
        Gauge,
        &[],
        "Packets that wait for an answer of other directors now.",
    ),
    (
        "holdfast_misses_total",
        Counter,
        &["result"],
        "Questions to other directors about the session of a packet, unknown here or in doubt: asked, repeated, found, denied (with authority), unknown, late, overflow (no room to ask).",
    ),
    ("holdfast_misses_pending", Gauge, &[], "Questions under way now."),
    ("holdfast_sessions_opened_total", Counter, &["protocol"], "Sessions opened by this director."),
    (
        "holdfast_sessions",
        Gauge,
        &["state"],
        "Sessions this director holds, replicas included: half_open, established, closing, expiring (kept \
         until their ends have been told).",
    ),
    ("holdfast_sessions_capacity", Gauge, &[], "Most sessions this director can hold."),
    ("holdfast_sessions_used", Gauge, &[], "Sessions this director holds now."),
    ("holdfast_sessions_owned", Gauge, &[], "Sessions whose client side this director forwards."),
    ("holdfast_sessions_replicated", Gauge, &[], "Sessions that the store has acknowledged."),
    (
        "holdfast_sessions_unreplicated",
        Gauge,
        &[],
        "Sessions here that the store has not acknowledged and that are not over, half-open and young ones \
         included; those that are never replicated are not. A flush waits for them. Young ones are also in the \
         memory of their homes.",
    ),
    (
        "holdfast_young_registrations_total",
        Counter,
        &["event"],
        "Young sessions told to their homes: `sent`; `dropped` (no room in a home's queue), `held` (the way \
         to a home became crowded: it is told later) and `tellings` (a home was told everything anew, which \
         makes up for what was dropped, lost, or never said); and what this director was told as a home: \
         `received`, `turned_away` (its limit is reached), `evicted` (gave way to another at a limit), `twins` \
         (another director had registered the connection before), `handed_over` (its director is gone: given \
         to its shard).",
    ),
    (
        "holdfast_young_registrations_queued",
        Gauge,
        &[],
        "New sessions that wait to be told to their homes, all homes together.",
    ),
    (
        "holdfast_young_sessions",
        Gauge,
        &[],
        "Young sessions of others that this director keeps as their home.",
    ),
    (
        "holdfast_young_half_open_sessions",
        Gauge,
        &[],
        "Half-open ones among them: they have at most a quarter of the room.",
    ),
    ("holdfast_young_half_open_capacity", Gauge, &[], "Most half-open ones that it keeps."),
    (
        "holdfast_young_orphans",
        Gauge,
        &[],
        "Established ones among them whose directors were found to be gone and which their shards do not have \
         yet. While there are any, or may be, this home denies nothing (holdfast_young_authority is 0).",
    ),
    (
        "holdfast_young_unsure_buckets",
        Gauge,
        &[],
        "Buckets (of 64) for which it has turned sessions away or dropped some for others, and says that it \
         cannot be sure.",
    ),
    (
        "holdfast_young_authority",
        Gauge,
        &[],
        "Whether every live director has told this home everything and no orphans wait or are looked for, so \
         that its no counts.",
    ),
    ("holdfast_half_open_sessions", Gauge, &[], "Half-open sessions of this director's own."),
    ("holdfast_half_open_capacity", Gauge, &[], "Most half-open sessions it opens."),
    (
        "holdfast_session_events_total",
        Counter,
        &["event"],
        "Events in the session table. Of the ends of an open TCP session, idle for its whole timeout: \
         expired (such sessions), vetoed (it was alive after all), ends_given_up (they answered no \
         probe), ends_unprobed (no room, or no turn).",
    ),
    (
        "holdfast_probes_total",
        Counter,
        &["to"],
        "Probes of the ends of expired TCP sessions, by end: client, backend; refused: a worker's queue \
         had no room. Ends at rest answer, and get a reset \
         (holdfast_answered_packets_total{kind=\"expired_client\"}, \"expired_backend\").",
    ),
    (
        "holdfast_local_ports",
        Gauge,
        &["state"],
        "Local ports of this director's own LIPs: total, free, and free in the class that has the fewest. \
         A class is a LIP, a backend and a bucket; with more than 65,536 of them several share a count, \
         and the free ones are understated.",
    ),
    (
        "holdfast_xdp_frames_total",
        Counter,
        &["verdict"],
        "Frames seen by the XDP program: passed to the kernel, redirected to a socket.",
    ),
    (
        "holdfast_xdp_native",
        Gauge,
        &[],
        "Whether the XDP program is attached natively (0: SKB mode, slower).",
    ),
    (
        "holdfast_worker_events_total",
        Counter,
        &["queue", "event"],
        "What a worker counted about its rings.",
    ),
    (
        "holdfast_socket_events_total",
        Counter,
        &["queue", "event"],
        "What the kernel counted for a worker's AF_XDP socket.",
    ),
    (
        "holdfast_answers_refused_total",
        Counter,
        &[],
        "Answers for which a worker's queue had no room.",
    ),
    ("holdfast_tables_installed_total", Counter, &[], "Forwarding tables installed."),
    (
        "holdfast_table_hash",
        Gauge,
        &[],
        "Hash of the forwarding tables (48 bits): must agree between directors of the same revision and health version.",
    ),
    ("holdfast_config_revision", Gauge, &[], "Configuration revision of the forwarding tables."),
    ("holdfast_health_version", Gauge, &[], "Health version of the forwarding tables."),
    (
        "holdfast_backend_healthy",
        Gauge,
        &["group", "backend"],
        "Whether the cluster takes a backend for healthy.",
    ),
    ("holdfast_planned_changes", Gauge, &[], "Planned changes under way."),
    (
        "holdfast_has_quorum",
        Gauge,
        &[],
        "Whether every Raft group has a leader that this director hears.",
    ),
    ("holdfast_peer_up", Gauge, &["peer"], "Whether a peer is heard of."),
    ("holdfast_peer_rtt_seconds", Gauge, &["peer"], "Round trip time to a peer."),
    ("holdfast_raft_leader", Gauge, &["group"], "Whether this director leads the group."),
    ("holdfast_raft_term", Gauge, &["group"], "Term of the group."),
    ("holdfast_raft_committed", Gauge, &["group"], "Committed index of the group."),
    ("holdfast_raft_applied", Gauge, &["group"], "Index applied here."),
    ("holdfast_raft_voters", Gauge, &["group"], "Voters of the group."),
    ("holdfast_raft_learners", Gauge, &["group"], "Learners of the group."),
    ("holdfast_raft_sessions", Gauge, &["group"], "Sessions in the group."),
    (
        "holdfast_store_commit_seconds",
        Histogram,
        &[],
        "Time from proposal to apply of entries that this director proposed as leader.",
    ),
    (
        "holdfast_proposals_refused_total",
        Counter,
        &[],
        "Session changes that the store's queue had no room for; they are said again.",
    ),
    (
        "holdfast_peer_messages_total",
        Counter,
        &["lane", "direction"],
        "Messages, requests and chunks of snapshots between directors: out, in.",
    ),
    ("holdfast_peer_bytes_total", Counter, &["lane", "direction"], "Bytes of these messages."),
    (
        "holdfast_peer_dropped_messages_total",
        Counter,
        &["lane", "reason"],
        "Messages to other directors that were not sent: full (the queue), stale (no connection for \
         too long), unsendable (too large, or for nobody).",
    ),
    (
        "holdfast_peer_handshakes_failed_total",
        Counter,
        &["reason"],
        "Connections between directors that did not come about, dialled or accepted, by reason.",
    ),
    ("holdfast_admin_requests_total", Counter, &[], "Requests to the admin API."),
    (
        "holdfast_admin_busy_total",
        Counter,
        &[],
        "Requests refused because too many were under way.",
    ),
];

/// All metrics, in the order of the reference.
pub fn all() -> Vec<Definition> {
    let fixed = FIXED.iter().map(|(name, kind, labels, help)| Definition {
        name: (*name).to_owned(),
        kind: *kind,
        labels,
        help: (*help).to_owned(),
    });
    let mut all: Vec<Definition> = fixed.collect();
    holdfast_state_store::metrics::Metrics::default().each(|name, _| all.push(store_counter(name)));
    NetMetrics::default().each(|name, _| all.push(peer_counter(name)));
    all
}

/// The metric of one of the peer network's counters that have no labels.
pub fn peer_counter(name: &str) -> Definition {
    Definition {
        name: format!("holdfast_peer_{name}_total"),
        kind: Counter,
        labels: &[],
        help: format!("Peer network: {}.", name.replace('_', " ")),
    }
}

/// The metric of one of the store's counters.
pub fn store_counter(name: &str) -> Definition {
    Definition {
        name: format!("holdfast_store_{name}_total"),
        kind: Counter,
        labels: &[],
        help: format!("Store: {}.", name.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_conventions() {
        let all = all();
        let mut names: Vec<&str> = all.iter().map(|d| d.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len(), "no name twice");
        for metric in &all {
            let name = &metric.name;
            assert!(name.starts_with("holdfast_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Counter, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(!name.split('_').any(|w| w == "ms" || w == "us"), "{name}: base units");
        }
    }
}
