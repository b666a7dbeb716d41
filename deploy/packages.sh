#!/usr/bin/env bash
# Installs the Debian packages that Holdfast needs to build, to run and to be tested.
#
# Says what is missing and why, leaves what is there alone, and neither starts nor enables any
# service of what it installs. Run as root.
set -euo pipefail

# package | what shows that it is there (a command, or a file) | why
needs='
clang|clang|compiles the BPF programs and RocksDB
libclang-dev|/usr/lib/llvm-*/lib/libclang*.so*|lets bindgen read the C headers of RocksDB
libbpf-dev|/usr/include/bpf/bpf_helpers.h|headers for the BPF programs
linux-libc-dev|/usr/include/linux/bpf.h|kernel headers for the BPF programs
make|make|runs this Makefile and builds bundled C code
pkg-config|pkg-config|finds C libraries
bird2|bird|speaks BGP and BFD to the routers
iproute2|ip|makes network namespaces, links, rules and routes
ethtool|ethtool|switches offloads of the lab'"'"'s links
nftables|nft|drops frames where the lab loses a machine
procps|ps|lists processes
e2fsprogs|/usr/sbin/mkfs.ext4|makes the small disk of one of the labs
nginx-light|nginx|serves the bulk downloads of the lab
curl|curl|fetches through the load balancer in the tests
iperf3|iperf3|streams through the load balancer in the tests
openssh-client|ssh|holds a session through a crash in the tests
openssh-server|/usr/sbin/sshd|is the other end of that session
prometheus|prometheus|scrapes the directors in the tests
valgrind|valgrind|counts instructions in the benchmarks
chromium|chromium|opens the HTML report in the tests
'

present() {
    case "$1" in
        /*) compgen -G "$1" >/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing=()
while IFS='|' read -r package probe why; do
    [ -n "$package" ] || continue
    present "$probe" && continue
    missing+=("$package")
    printf 'missing: %-16s %s\n' "$package" "$why"
done <<<"$needs"

[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" != 0 ]; then
    echo "error: installing packages needs root. Repeat as root, or install by hand: ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "error: this system has no apt-get. Install by hand what gives you: ${missing[*]}" >&2
    exit 1
fi

# policy-rc.d answers 101 ("action forbidden by policy") while packages are configured, so that
# none of their services starts. One that is there already comes back afterwards, also when an
# earlier run was killed before it could put it back.
policy=/usr/sbin/policy-rc.d
saved=$policy.before-holdfast
if [ -e "$policy" ] && [ ! -e "$saved" ]; then
    mv "$policy" "$saved"
fi
enabled() { find /etc/systemd/system -type l 2>/dev/null | sort; }
before=$(mktemp)
enabled >"$before"
cleanup() {
    # What was just installed is for us to start, in namespaces; at boot nobody asked for it. These
    # links are what `systemctl enable` makes.
    enabled | comm -13 "$before" - | while read -r link; do
        rm -f "$link"
    done
    rm -f "$policy" "$before"
    [ ! -e "$saved" ] || mv "$saved" "$policy"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
echo "installing: ${missing[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
