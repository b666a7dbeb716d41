//! docs/metrics.md, written from the definitions.

use std::fmt::Write;

use holdfast_director::core::{Count, DropReason};

use super::names::{self, Kind};

/// The whole document.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\nServed at `/metrics` on the `metrics-address` of the node file. Written by \
         `holdfastd --print-metrics-reference`; do not edit.\n\n| metric | kind | labels | meaning |\n\
         |---|---|---|---|\n",
    );
    for metric in names::all() {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            metric.help
        );
    }
    text.push_str(
        "\n`holdfast_process_*` are the usual metrics of the process: CPU, memory, descriptors.\n\n\
         ## Reasons of `holdfast_dropped_packets_total`\n\n| reason | meaning |\n|---|---|\n",
    );
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.label(), reason.help());
    }
    for (reason, help) in [
        ("xdp_no_socket", "A packet for a VIP or LIP arrived on a queue without a socket."),
        ("xdp_malformed", "A frame was too short for its own headers."),
        ("xdp_vlan", "A packet for a VIP or LIP had a VLAN tag."),
        ("xsk_rx_ring_full", "The receive ring was full: the worker is too slow."),
        ("xsk_fill_ring_empty", "No packet memory was free."),
        (
            "xsk_rx_dropped",
            "The kernel dropped a packet for another reason, for example its length.",
        ),
    ] {
        let _ = writeln!(text, "| `{reason}` | {help} |");
    }
    text.push_str(
        "\n## Events of `holdfast_core_events_total`\n\n(Events with a metric of their own are left \
         out there.)\n\n| event | meaning |\n|---|---|\n",
    );
    for count in Count::ALL {
        let _ = writeln!(text, "| `{}` | {} |", count.label(), count.help());
    }
    text
}
