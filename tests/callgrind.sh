#!/usr/bin/env bash
# callgrind.sh BENCH SESSIONS: instructions a packet, from callgrind's count of the packet core.
# The set-up is taken out by the difference between two runs that differ only in their packets.
set -euo pipefail
bench=$1 sessions=$2
count() { # packets
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bench" --sessions "$sessions" --callgrind "$1" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
few=20000 many=120000
a=$(count $few)
b=$(count $many)
echo "sessions=$sessions instructions_per_packet=$(((b - a) / (many - few)))"
