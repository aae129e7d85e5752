#!/bin/sh
# Gets this machine ready, as far as a target needs it: system packages (Debian, Ubuntu; as root) and the virtual
# environment .venv. Does nothing, quickly, when everything is there. Used by the Makefile.
#
#   tools/prepare.sh packages [run|test|bench|image]   programs and libraries that the target uses
#   tools/prepare.sh venv                              .venv with the package (editable) and the development tools
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "Error: $*"; exit 1; }

# Installs Debian packages, refreshing the package lists only if the first try fails.
install() {
    [ "$(id -u)" = 0 ] || die "this machine lacks $*: run this as root, or install them with your package manager"
    command -v apt-get >/dev/null || die "this machine lacks $*: install them with your package manager"
    say "Installing $* ..."
    log=$(mktemp)
    for attempt in as-is refreshed; do
        if [ $attempt = refreshed ]; then apt-get update >"$log" 2>&1 || true; fi
        if DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
            rm -f "$log"
            return
        fi
    done
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "apt-get could not install $*: is the network there? Install them by hand and run this again"
}

has_library() { /sbin/ldconfig -p 2>/dev/null | grep -q "$1"; }

packages() {
    missing=""
    lacks() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing="$missing $2"; }
    has_library 'libbpf\.so\.1' || missing="$missing libbpf1"
    lacks ip iproute2
    lacks ping iputils-ping
    lacks curl curl
    case "$1" in
    test | bench)
        lacks iperf3 iperf3
        lacks nsenter util-linux
        lacks etcd etcd-server
        lacks etcdctl etcd-client
        lacks openssl openssl
        lacks iptables iptables
        lacks nft nftables
        lacks busybox busybox-static
        lacks podman podman
        lacks containerd containerd
        lacks runc runc
        ;;
    image)
        lacks mmdebstrap mmdebstrap
        lacks podman podman
        ;;
    esac
    if [ "$1" = test ] || [ "$1" = bench ]; then
        [ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
    fi
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || install $missing
}

# Python 3.11 or newer that can make virtual environments.
usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if usable "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

venv() {
    python=$(find_python)
    if [ -z "$python" ]; then
        if ! command -v python3 >/dev/null || new_enough python3; then
            install python3-venv
        else
            # An older release whose own Python is too old may carry a newer one beside it.
            for version in 3.13 3.12 3.11; do
                if apt-cache show "python$version-venv" >/dev/null 2>&1; then
                    install "python$version-venv"
                    break
                fi
            done
        fi
        python=$(find_python)
    fi
    [ -n "$python" ] || die "Python 3.11 or newer with its venv module is needed; set PYTHON to one that has it"

    .venv/bin/python -m pip --version >/dev/null 2>&1 || { rm -rf .venv && "$python" -m venv .venv; }
    say "Installing Python packages into .venv ..."
    wanted=$(.venv/bin/python -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print("\n".join([*project["dependencies"], *project["optional-dependencies"]["dev"]]))')
    list=$(mktemp)
    printf '%s\n' "$wanted" >"$list"
    pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore .venv/bin/python -m pip --quiet"
    $pip install -r "$list" </dev/null ||
        die "pip could not install the packages that pyproject.toml names: is the network (or your package index) there?"
    rm -f "$list"
    say "Compiling the eBPF programs ..."
    $pip install --no-deps --no-build-isolation --editable . </dev/null || die "the package could not be built; see above"
    touch .venv/.installed
}

case "${1:-}" in
packages) packages "${2:-run}" ;;
venv) venv ;;
*) die "usage: tools/prepare.sh packages [run|test|bench|image] | venv" ;;
esac
