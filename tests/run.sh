#!/usr/bin/env bash
# Everything CI runs. Stages print their name and how long they took; the first failure ends it.
# STAGES="fmt clippy" runs only those.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
SUDO=${SUDO-$([ "$(id -u)" = 0 ] || echo sudo)}
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
# Tests that need namespaces run with privileges; everything is built without.
if [ -n "$SUDO" ]; then
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$SUDO --preserve-env"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$SUDO --preserve-env"
fi

stage_fmt() { $CARGO fmt --all --check; }

stage_build() { $CARGO build --release --locked --workspace --bins --tests --examples; }

stage_clippy() { $CARGO clippy --release --locked --workspace --all-targets -- -D warnings; }

stage_docs() { RUSTDOCFLAGS="-D warnings" $CARGO doc --release --locked --workspace --no-deps --quiet; }

stage_deny() {
    PATH="$PATH:$TARGET_DIR/tools/bin"
    if ! $CARGO deny --version >/dev/null 2>&1 &&
        ! $CARGO install --quiet --locked cargo-deny --root "$TARGET_DIR/tools"; then
        echo "skipped: cargo-deny is not installed and cannot be (offline)"
        return 0
    fi
    $CARGO deny --locked check bans licenses sources
    # The advisory database is fetched from the network; without one only that part is skipped.
    local log
    log=$(mktemp)
    if $CARGO deny --locked check advisories >"$log" 2>&1; then
        tail -n 1 "$log"
    elif grep -qiE 'failed to (fetch|connect|resolve|open)|could not (fetch|connect|resolve)|network|dns|unable to (fetch|update)' "$log"; then
        echo "skipped: the advisory database cannot be fetched (offline)"
    else
        cat "$log"
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# The packet core and the vocabulary once more with debug assertions on.
stage_assertions() { $CARGO test --locked --quiet -p holdfast-schema -p holdfast-director --lib --tests; }

stage_unit() { $CARGO test --release --locked --workspace --exclude holdfast-tests; }

stage_e2e() {
    HOLDFAST_BIN_DIR="$TARGET_DIR/release" $CARGO test --release --locked -p holdfast-tests -- --test-threads=1 --nocapture
}

for name in ${STAGES:-fmt build clippy docs deny assertions unit e2e}; do
    echo "== $name"
    started=$SECONDS
    "stage_$name"
    echo "== $name: ok, $((SECONDS - started)) s"
done
