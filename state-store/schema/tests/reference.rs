//! docs/configuration.md says what the key table says.

use std::path::Path;

use holdfast_schema::config::reference;

#[test]
fn the_reference_has_not_drifted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let wanted = reference::markdown();
    if std::env::var_os("HOLDFAST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/configuration.md can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/configuration.md is not what the key table says; write it anew with \
         HOLDFAST_WRITE_DOCS=1 cargo test -p holdfast-schema --test reference"
    );
}
