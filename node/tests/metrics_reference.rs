//! docs/metrics.md is what the definitions say. Write it anew with
//! `holdfastd --print-metrics-reference > docs/metrics.md`.

#[test]
fn docs_metrics_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let there = std::fs::read_to_string(path).unwrap_or_default();
    let wanted = holdfast_node::metrics::reference::markdown();
    assert!(
        there == wanted,
        "docs/metrics.md has drifted: holdfastd --print-metrics-reference > docs/metrics.md"
    );
}
