#!/usr/bin/env bash
# Everything CI runs. Stages print their name and how long they took; the first failure ends it.
# STAGES="fmt clippy" runs only those. Whatever way it ends, labs whose owner is gone are taken away.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
SUDO=${SUDO-$([ "$(id -u)" = 0 ] || echo sudo)}
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
take_labs_away() {
    local chaos=$TARGET_DIR/release/holdfast-chaos
    if [ -x "$chaos" ]; then
        $SUDO "$chaos" lab down --stale >/dev/null || echo "error: a lab could not be taken away" >&2
    fi
}
trap take_labs_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Tests that need namespaces run with privileges; everything is built without.
if [ -n "$SUDO" ]; then
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$SUDO --preserve-env"
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$SUDO --preserve-env"
fi

stage_fmt() { $CARGO fmt --all --check; }

# The simulation is built by itself (stage `simulation`): the parts that it switches off in the other
# crates must not get into the daemon, and cargo would build all of them with all of their features.
WORKSPACE="--workspace --exclude holdfast-simulation"

stage_build() { $CARGO build --release --locked $WORKSPACE --bins --tests --examples; }

stage_clippy() {
    $CARGO clippy --release --locked $WORKSPACE --all-targets -- -D warnings
    $CARGO clippy --release --locked -p holdfast-simulation --all-targets -- -D warnings
}

stage_docs() { RUSTDOCFLAGS="-D warnings" $CARGO doc --release --locked --workspace --no-deps --quiet; }

CARGO_DENY=0.20.2

stage_deny() {
    PATH="$TARGET_DIR/tools/bin:$PATH"
    if ! $CARGO deny --version >/dev/null 2>&1; then
        if ! (cd / && $CARGO info --quiet cargo-deny@$CARGO_DENY) >/dev/null 2>&1; then
            echo "skipped: cargo-deny is not installed, and the package registry cannot be reached (offline)"
            return 0
        fi
        $CARGO install --quiet --locked cargo-deny@$CARGO_DENY --root "$TARGET_DIR/tools"
    fi
    $CARGO deny --locked check bans licenses sources
    # The advisory database is fetched from the network; without it only this part is skipped.
    local why
    if why=$($CARGO deny --locked fetch db 2>&1); then
        $CARGO deny --offline check advisories
    else
        echo "skipped: the advisories, whose database cannot be fetched (offline): ${why##*$'\n'}"
    fi
}

# The packet core and the vocabulary once more with debug assertions on.
stage_assertions() { $CARGO test --locked --quiet -p holdfast-schema -p holdfast-director --lib --tests; }

stage_unit() { $CARGO test --release --locked $WORKSPACE --exclude holdfast-tests; }

# Every order in which loads and stores of slab, L1 and L2 may take effect, with a few preemptions.
stage_models() { $CARGO test --release --locked --quiet -p holdfast-director --lib --features loom -- models_; }

# Seeds of the simulation, in a minute or so, which have to reach all rare paths between them.
# `make soak SEEDS=10000` runs more of them.
stage_simulation() {
    $CARGO test --release --locked -p holdfast-simulation
    # As in the Makefile: a tree with changes is not the commit.
    HOLDFAST_COMMIT=$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown) \
        $CARGO run --release --locked --quiet -p holdfast-simulation -- soak --seeds 300 --marks
}

stage_e2e() {
    HOLDFAST_BIN_DIR="$TARGET_DIR/release" $CARGO test --release --locked -p holdfast-tests -- --test-threads=1 --nocapture
}

for name in ${STAGES:-fmt build clippy docs deny assertions unit models simulation e2e}; do
    echo "== $name"
    started=$SECONDS
    "stage_$name"
    echo "== $name: ok, $((SECONDS - started)) s"
done
