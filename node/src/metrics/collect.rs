//! Reads every value from the parts that count it.

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_director::core::{CoreConfig, Count, DropReason};
use holdfast_director::session::PROBES_PER_SECOND;
use holdfast_state_store::metrics::LATENCY_BOUNDS_US;
use holdfast_state_store::peer::{HandshakeFailure, NetMetrics};

use super::names;
use super::scrape::Scrape;
use crate::admin::server;
use crate::forward::Forwarder;
use crate::node::Node;
use crate::sessions::misses;

/// A scrape of this node.
pub fn scrape(node: &Node) -> Scrape {
    let mut to = Scrape::new(names::all());
    to.flag("holdfast_build_info", &[env!("CARGO_PKG_VERSION")], true);
    announcements(node, &mut to);
    own_counters(node, &mut to);
    limits(node, &mut to);
    if let Some(forwarder) = node.forwarder.get() {
        packets(forwarder, &mut to);
        sessions(forwarder, &mut to);
        tables(forwarder, &mut to);
    }
    cluster(node, &mut to);
    store(node, &mut to);
    to
}

fn announcements(node: &Node, to: &mut Scrape) {
    let announced = node.announced.lock().clone();
    to.flag("holdfast_ready", &[], announced.ready);
    to.count("holdfast_local_problems", &[], announced.local.len() as u64);
    for state in ["announced", "worse", "withdrawn"] {
        let now = announced.announcement.as_deref() == Some(state);
        to.flag("holdfast_announcement", &[state], now);
    }
    to.count("holdfast_announced_routes", &[], announced.routes as u64);
    if let Some(bird) = &node.bird
        && let Ok(exported) = &*bird.latest()
    {
        let up = exported.established.len();
        to.count("holdfast_bgp_sessions", &["established"], up as u64);
        to.count("holdfast_bgp_sessions", &["down"], exported.sessions.saturating_sub(up) as u64);
    }
    if let Some(guard) = &node.guard {
        to.flag("holdfast_guard_holding", &[], guard.holding());
        for (reason, n) in guard.releases() {
            to.count("holdfast_guard_releases_total", &[reason.label()], n);
        }
    }
}

fn own_counters(node: &Node, to: &mut Scrape) {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &node.counters;
    to.count("holdfast_stalls_total", &[], get(&counters.stalls));
    to.count("holdfast_route_changes_total", &[], get(&counters.route_changes));
    to.count("holdfast_tables_installed_total", &[], get(&counters.tables_installed));
    to.count("holdfast_misses_pending", &[], get(&counters.misses_pending));
    to.count("holdfast_misses_total", &["overflow"], get(&counters.misses_overflow));
    to.count("holdfast_proposals_refused_total", &[], get(&counters.proposals_refused));
    to.count("holdfast_admin_requests_total", &[], get(&counters.admin_requests));
    to.count("holdfast_admin_under_way", &[], get(&counters.admin_under_way));
    to.count("holdfast_admin_busy_total", &[], get(&counters.admin_busy));
}

fn limits(node: &Node, to: &mut Scrape) {
    let workers = u64::from(node.spec.workers);
    let core = CoreConfig::for_workers(node.spec.max_sessions, node.spec.workers);
    let queued = holdfast_state_store::Limits::default();
    for (of, limit) in [
        ("parked_packets", u64::from(core.waiting_packets) * workers),
        ("misses_asked_per_second", u64::from(node.spec.asks_per_second)),
        ("misses_asked_per_second_and_prefix", u64::from(node.spec.asks_per_second_and_prefix)),
        ("misses_pending", misses::CONCURRENT as u64),
        ("probes_per_second", PROBES_PER_SECOND),
        ("admin_under_way", server::CONCURRENT as u64),
        ("changes_queued_per_shard", queued.proposals_per_shard as u64),
        ("young_sessions", u64::from(node.spec.max_young_sessions)),
        ("registrations_queued_per_home", queued.registrations_per_home as u64),
    ] {
        to.count("holdfast_limit", &[of], limit);
    }
}

/// Counts with metrics of their own; all others are `holdfast_core_events_total`.
fn named(count: Count) -> Option<(&'static str, &'static str)> {
    Some(match count {
        Count::ReceivedPackets => ("holdfast_packets_total", "received"),
        Count::ReceivedBytes => ("holdfast_bytes_total", "received"),
        Count::ToBackendPackets => ("holdfast_packets_total", "to_backend"),
        Count::ToBackendBytes => ("holdfast_bytes_total", "to_backend"),
        Count::ToClientPackets => ("holdfast_packets_total", "to_client"),
        Count::ToClientBytes => ("holdfast_bytes_total", "to_client"),
        Count::AnsweredEcho => ("holdfast_answered_packets_total", "echo"),
        Count::AnsweredReset => ("holdfast_answered_packets_total", "reset"),
        Count::AnsweredProbe => ("holdfast_answered_packets_total", "probe"),
        Count::AnsweredTooBig => ("holdfast_answered_packets_total", "too_big"),
        Count::AnsweredTtl => ("holdfast_answered_packets_total", "ttl"),
        Count::ExpiredClientsReset => ("holdfast_answered_packets_total", "expired_client"),
        Count::ExpiredBackendsReset => ("holdfast_answered_packets_total", "expired_backend"),
        Count::ProbesToClient => ("holdfast_probes_total", "client"),
        Count::ProbesToBackend => ("holdfast_probes_total", "backend"),
        Count::SessionsOpenedTcp => ("holdfast_sessions_opened_total", "tcp"),
        Count::SessionsOpenedUdp => ("holdfast_sessions_opened_total", "udp"),
        Count::Questions => ("holdfast_misses_total", "asked"),
        Count::QuestionsRepeated => ("holdfast_misses_total", "repeated"),
        Count::AnswersFound => ("holdfast_misses_total", "found"),
        Count::AnswersDenied => ("holdfast_misses_total", "denied"),
        Count::AnswersUnknown => ("holdfast_misses_total", "unknown"),
        Count::AnswersLate => ("holdfast_misses_total", "late"),
        _ => return None,
    })
}

fn packets(forwarder: &Forwarder, to: &mut Scrape) {
    to.flag("holdfast_xdp_native", &[], forwarder.mode().0 == "native");
    let counted = match forwarder.counters() {
        Ok(counted) => counted,
        Err(error) => {
            tracing::warn!(%error, "the forwarder's counters cannot be read");
            return;
        }
    };
    for count in Count::ALL {
        let value = counted.packets.count(*count);
        match named(*count) {
            Some((name, label)) => to.count(name, &[label], value),
            None => to.count("holdfast_core_events_total", &[count.label()], value),
        }
    }
    for reason in DropReason::ALL {
        let value = counted.packets.dropped(*reason);
        to.count("holdfast_dropped_packets_total", &[reason.label()], value);
    }
    to.count("holdfast_parked_packets", &[], counted.packets.parked());
    to.count("holdfast_answers_refused_total", &[], counted.answers_refused);
    to.count("holdfast_probes_total", &["refused"], counted.probes_refused);

    let steer = &counted.steer;
    to.count("holdfast_xdp_frames_total", &["passed"], steer.passed);
    to.count("holdfast_xdp_frames_total", &["redirected"], steer.redirected);
    let (mut ring_full, mut fill_empty, mut rx_dropped) = (0, 0, 0);
    for (queue, counters) in counted.queues.iter().enumerate() {
        let queue = queue.to_string();
        let (io, kernel) = (&counters.io, &counters.kernel);
        for (event, value) in [
            ("received", io.received),
            ("transmitted", io.transmitted),
            ("tx_ring_full", io.tx_ring_full),
            ("no_free_chunk", io.no_free_chunk),
            ("bad_length", io.bad_length),
            ("stale", io.stale),
            ("bad_descriptor", io.bad_descriptor),
            ("stalls", io.stalls),
            ("kicks", io.kicks),
            ("kicks_busy", io.kicks_busy),
            ("kicks_failed", io.kicks_failed),
            ("rounds", io.rounds),
            ("waits", io.waits),
        ] {
            to.count("holdfast_worker_events_total", &[&queue, event], value);
        }
        for (event, value) in [
            ("rx_dropped", kernel.rx_dropped),
            ("rx_invalid", kernel.rx_invalid),
            ("tx_invalid", kernel.tx_invalid),
            ("rx_ring_full", kernel.rx_ring_full),
            ("fill_ring_empty", kernel.fill_ring_empty),
            ("tx_ring_empty", kernel.tx_ring_empty),
        ] {
            to.count("holdfast_socket_events_total", &[&queue, event], value);
        }
        ring_full += kernel.rx_ring_full;
        fill_empty += kernel.fill_ring_empty;
        rx_dropped += kernel.rx_dropped;
    }
    for (reason, value) in [
        ("xdp_no_socket", steer.dropped_no_socket),
        ("xdp_malformed", steer.dropped_malformed),
        ("xdp_vlan", steer.dropped_vlan),
        ("xsk_rx_ring_full", ring_full),
        ("xsk_fill_ring_empty", fill_empty),
        ("xsk_rx_dropped", rx_dropped),
    ] {
        to.count("holdfast_dropped_packets_total", &[reason], value);
    }
}

fn sessions(forwarder: &Forwarder, to: &mut Scrape) {
    let stats = forwarder.sessions().stats();
    let pass = &stats.pass;
    for (state, value) in [
        ("half_open", pass.half_open),
        ("established", pass.established),
        ("closing", pass.closing),
        ("expiring", pass.expiring),
    ] {
        to.count("holdfast_sessions", &[state], value);
    }
    to.count("holdfast_sessions_capacity", &[], u64::from(stats.capacity));
    to.count("holdfast_sessions_used", &[], u64::from(stats.sessions));
    to.count("holdfast_sessions_owned", &[], pass.owned);
    to.count("holdfast_sessions_replicated", &[], pass.replicated);
    to.count("holdfast_sessions_unreplicated", &[], stats.unreplicated);
    to.count("holdfast_half_open_sessions", &[], u64::from(stats.half_open));
    to.count("holdfast_half_open_capacity", &[], u64::from(stats.max_half_open));
    for (event, value) in [
        ("received", stats.received),
        ("freed", stats.freed),
        ("contended", stats.contended),
        ("full", stats.full),
        ("half_open_full", stats.half_open_full),
        ("class_full", stats.class_full),
        ("refused", stats.refused),
        ("removed", stats.removed),
        ("superseded", stats.superseded),
        ("vetoed", stats.vetoed),
        ("expired", stats.expired),
        ("ends_given_up", stats.ends_given_up),
        ("ends_unprobed", stats.ends_unprobed),
        ("adopted", stats.adopted),
        ("twins_adopted", stats.twins_adopted),
        ("twins_kept", stats.twins_kept),
        ("passes", stats.passes),
    ] {
        to.count("holdfast_session_events_total", &[event], value);
    }
}

fn tables(forwarder: &Forwarder, to: &mut Scrape) {
    let tables = forwarder.tables();
    to.count("holdfast_table_hash", &[], tables.hash & 0xffff_ffff_ffff);
    to.count("holdfast_config_revision", &[], tables.revision);
    to.count("holdfast_health_version", &[], tables.health_version);
    let ports = tables.ports_free(forwarder.sessions());
    to.count("holdfast_local_ports", &["total"], ports.total);
    to.count("holdfast_local_ports", &["free"], ports.free);
    to.count("holdfast_local_ports", &["least_free_in_a_class"], ports.least);
}

fn cluster(node: &Node, to: &mut Scrape) {
    let Some(cluster) = node.cluster() else { return };
    to.count("holdfast_planned_changes", &[], cluster.planned.len() as u64);
    let judged = node.health.current();
    for (group, g) in &cluster.groups {
        for (name, backend) in &g.backends {
            let healthy = judged.healthy.get(&backend.id) == Some(&true);
            to.flag("holdfast_backend_healthy", &[group, name], healthy);
        }
    }
}

fn store(node: &Node, to: &mut Scrape) {
    to.flag("holdfast_has_quorum", &[], node.store.has_quorum());
    for peer in node.store.peers() {
        to.flag("holdfast_peer_up", &[&peer.name], peer.up);
        if let Some(rtt_us) = peer.rtt_us {
            to.put("holdfast_peer_rtt_seconds", &[&peer.name], rtt_us as f64 / 1e6);
        }
    }
    for group in node.store.groups() {
        let name = [group.name.as_str()];
        let leads = group.leader.is_some() && group.leader == node.me();
        to.flag("holdfast_raft_leader", &name, leads);
        to.count("holdfast_raft_term", &name, group.term);
        to.count("holdfast_raft_committed", &name, group.committed);
        to.count("holdfast_raft_applied", &name, group.applied);
        to.count("holdfast_raft_voters", &name, group.voters.len() as u64);
        to.count("holdfast_raft_learners", &name, group.learners.len() as u64);
        to.count("holdfast_raft_sessions", &name, group.sessions);
    }
    let metrics = node.store.metrics();
    metrics.each(|name, value| to.count(&names::store_counter(name).name, &[], value));
    if let Some(net) = node.store.net_metrics() {
        peer_network(&net, to);
    }
    if let Some((saying, keeping)) = node.store.young_stats() {
        for (event, value) in [
            ("sent", saying.sent),
            ("dropped", saying.dropped),
            ("held", saying.held),
            ("tellings", saying.tellings),
            ("received", keeping.received),
            ("turned_away", keeping.turned_away),
            ("evicted", keeping.evicted),
            ("handed_over", keeping.handed_over),
            ("twins", keeping.twins),
        ] {
            to.count("holdfast_young_registrations_total", &[event], value);
        }
        to.count("holdfast_young_registrations_queued", &[], saying.queued);
        to.count("holdfast_young_sessions", &[], keeping.kept);
        to.count("holdfast_young_half_open_sessions", &[], keeping.half_open);
        to.count("holdfast_young_half_open_capacity", &[], keeping.half_open_capacity);
        to.count("holdfast_young_orphans", &[], keeping.orphans);
        to.count("holdfast_young_unsure_buckets", &[], keeping.unsure_buckets);
        to.flag("holdfast_young_authority", &[], keeping.authority);
    }
    let (buckets, sum_us) = metrics.commit_latency.read();
    let bounds: Vec<f64> = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).collect();
    to.histogram("holdfast_store_commit_seconds", &bounds, &buckets, sum_us as f64 / 1e6);
}

/// What the connections to the other directors counted; every reason from the start, so that a rate
/// has something to begin with.
fn peer_network(net: &NetMetrics, to: &mut Scrape) {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (lane, counted) in net.lanes() {
        for (direction, messages, bytes) in [
            ("out", &counted.messages_out, &counted.bytes_out),
            ("in", &counted.messages_in, &counted.bytes_in),
        ] {
            to.count("holdfast_peer_messages_total", &[lane, direction], get(messages));
            to.count("holdfast_peer_bytes_total", &[lane, direction], get(bytes));
        }
        for (reason, dropped) in [
            ("full", &counted.dropped_full),
            ("stale", &counted.dropped_stale),
            ("unsendable", &counted.dropped_unsendable),
        ] {
            to.count("holdfast_peer_dropped_messages_total", &[lane, reason], get(dropped));
        }
    }
    for reason in HandshakeFailure::ALL {
        let failed = net.handshake_failures(reason);
        to.count("holdfast_peer_handshakes_failed_total", &[reason.label()], failed);
    }
    net.each(|name, value| to.count(&names::peer_counter(name).name, &[], value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drop_between_directors_is_shown_with_its_reason() {
        let mut scrape = Scrape::new(names::all());
        let net = NetMetrics::default();
        net.heartbeats_malformed.store(3, Ordering::Relaxed);
        peer_network(&net, &mut scrape);
        let text = scrape.text(Vec::new()).unwrap();
        for line in [
            "holdfast_peer_dropped_messages_total{lane=\"log\",reason=\"full\"} 0",
            "holdfast_peer_handshakes_failed_total{reason=\"not-a-member\"} 0",
            "holdfast_peer_heartbeats_malformed_total 3",
            "holdfast_peer_protocol_violations_total 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
