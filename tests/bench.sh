#!/usr/bin/env bash
# The benchmarks (release build). Figures are medians or ratios measured in the same run: machines
# differ and are noisy, so an absolute figure alone says little.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
SUDO=${SUDO-$([ "$(id -u)" = 0 ] || echo sudo)}
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
EXAMPLES=$TARGET_DIR/release/examples

$CARGO build --release --locked --quiet --workspace --exclude holdfast-simulation --examples --bins

echo "== packet core: FullNAT, both directions, ns a packet (median) and instructions a packet"
for sessions in 1000 100000 1000000; do
    "$EXAMPLES/core_bench" --sessions "$sessions"
done
for sessions in 1000 100000 1000000; do
    tests/callgrind.sh "$EXAMPLES/core_bench" "$sessions"
done

echo
echo "== new sessions: told to their homes against not told, ns a session (medians of one run)"
"$EXAMPLES/new_session_bench"

echo
echo "== lab forwarding rate: Holdfast against a bare AF_XDP forwarder, alternating, median of 5"
$SUDO "$EXAMPLES/lab_rate"

echo
echo "== replication: session changes a second through three replicas in one process"
"$EXAMPLES/replicate_bench"

echo
echo "== takeover: through a new director, four daemons in the lab, against a bare forwarder"
$SUDO "$EXAMPLES/takeover"
