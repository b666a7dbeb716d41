#!/usr/bin/env bash
# callgrind.sh BENCH SESSIONS: instructions a packet, from callgrind's count of the packet core.
# The set-up is taken out by the difference between two runs that differ only in their packets.
set -euo pipefail
bench=$1 sessions=$2
count() { # packets
    local out collected
    if ! out=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        "$bench" --sessions "$sessions" --callgrind "$1" 2>&1); then
        printf '%s\n' "$out" >&2
        return 1
    fi
    collected=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' <<<"$out")
    if [ -z "$collected" ]; then
        printf 'callgrind told no count:\n%s\n' "$out" >&2
        return 1
    fi
    echo "$collected"
}
few=20000 many=120000
a=$(count $few)
b=$(count $many)
echo "sessions=$sessions instructions_per_packet=$(((b - a) / (many - few)))"
