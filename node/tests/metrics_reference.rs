//! docs/metrics.md is what the definitions say. Write it anew with
//! `HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-node --test metrics_reference`, or with
//! `holdfastd --print-metrics-reference > docs/metrics.md`.

#[test]
fn docs_metrics_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let wanted = holdfast_node::metrics::reference::markdown();
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        std::fs::write(path, &wanted).expect("docs/metrics.md can be written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == wanted,
        "docs/metrics.md has drifted: holdfastd --print-metrics-reference > docs/metrics.md"
    );
}
