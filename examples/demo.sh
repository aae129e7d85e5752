#!/bin/sh
# The demo behind `make demo`: a shop in a lab, its policies, traffic that they allow and deny, and what the flows say.
# Only public commands are used, and each is shown: read it as a tour. It may be run again while the lab is up.
set -eu
examples=$(cd "$(dirname "$0")" && pwd)

if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); else bold='' dim='' plain=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
show() { # prints the command as a user would type it, then runs it
    printf '%s$ %s%s\n' "$dim" "$*" "$plain"
    "$@"
}

[ "$(id -u)" = 0 ] || { echo "Error: the demo makes network namespaces and loads eBPF programs: run it as root" >&2; exit 1; }

title "Two nodes, and a world outside them"
if cilium lab status >/dev/null 2>&1; then
    echo "The lab is up already."
else
    show cilium lab up --nodes 2
fi

title "Pods"
cilium apply -f "$examples/namespaces.yaml"
running=$(cilium lab pods -o json)
has_pod() { printf '%s' "$running" | python3 -c '
import json, sys
sys.exit(not any((pod["namespace"], pod["name"]) == tuple(sys.argv[1:]) for pod in json.load(sys.stdin)))' "$1" "$2"; }
add_pod() { # namespace, name, then the port it serves, if any
    has_pod "$1" "$2" && return
    show cilium lab pod add "$2" -n "$1" -l "app=$2"
    [ -z "${3:-}" ] || show cilium lab exec -d -n "$1" "$2" -- python3 "$examples/serve.py" "$2" "$3"
}
add_pod shop frontend 8080
add_pod shop backend 8080
add_pod shop database 5432
add_pod ops monitor
show cilium lab pods

title "Policies"
show cilium apply -f "$examples/shop.yaml" -f "$examples/guardrails.yaml"

address() { # namespace, name, family
    cilium lab pods -o json | python3 -c '
import json, sys
namespace, name, family = sys.argv[1:]
print(next(pod[family] for pod in json.load(sys.stdin) if (pod["namespace"], pod["name"]) == (namespace, name)))' "$@"
}
backend=$(address shop backend ipv4)
backend6=$(address shop backend ipv6)
database=$(address shop database ipv4)

# One attempt, and whether its end is what the policies say.
failures=0
attempt() { # allowed|denied, namespace, pod, URL
    expected=$1 namespace=$2 pod=$3 url=$4
    printf '  %-18s %-38s ' "$namespace/$pod" "$url"
    if answer=$(cilium lab exec -n "$namespace" "$pod" -- curl -gs --max-time 1 "$url" 2>/dev/null); then
        result=allowed
    else
        result=denied answer="no answer"
    fi
    printf '%-8s %s\n' "$result" "$answer"
    [ "$result" = "$expected" ] || { failures=$((failures + 1)); echo "  ^ unexpected: the policies say $expected"; }
}
title "Traffic"
attempt allowed shop frontend "http://$backend:8080/"
attempt allowed shop frontend "http://[$backend6]:8080/"
attempt denied shop frontend "http://$database:5432/"
attempt allowed shop backend "http://$database:5432/"
attempt allowed ops monitor "http://$backend:8080/"
attempt denied ops monitor "http://$database:5432/"
attempt allowed shop frontend http://1.1.1.1/
attempt allowed shop frontend "http://[2606:4700:4700::1111]/"
attempt denied shop backend http://1.1.1.1/
attempt allowed ops monitor http://1.1.1.1/
attempt denied ops monitor http://8.8.8.8/

title "What was dropped, and why"
show hubble observe --verdict DROPPED --last 12

title "Which rule allowed what"
show hubble observe --type policy-verdict --verdict FORWARDED --last 6

title "Every agent killed: traffic goes on, also between the nodes, and policy stays in force"
show cilium lab agent kill --all
attempt allowed shop frontend "http://$backend:8080/"
attempt denied ops monitor "http://$database:5432/"
show cilium lab agent start --all

title "Asking without sending anything"
show cilium policy explain --from shop/frontend --to shop/backend --port 8080/TCP
echo
show cilium policy explain --from shop/frontend --to shop/database --port 5432/TCP
echo
show cilium policy explain --from ops/monitor --to 8.8.8.8 --port 80/TCP

[ "$failures" = 0 ] || { echo "Error: $failures attempt(s) did not end as the policies say" >&2; exit 1; }

title "The lab is yours"
hint() { printf '%s  # %s%s\n  %s\n' "$dim" "$1" "$plain" "$2"; }
hint "first, so that the commands are found" "export PATH=$(dirname "$(command -v cilium)"):\$PATH${CILIUM_LAB:+ CILIUM_LAB=$CILIUM_LAB}"
hint "flows as they happen" "hubble observe --follow"
hint "take a right away: open connections are cut" "cilium apply -f $examples/steps/revoke.yaml"
hint "a command in a pod; its exit code is the command's" "cilium lab exec -n shop frontend -- curl http://$backend:8080/"
hint "another pod" "cilium lab pod add web -l app=web"
hint "how the nodes are" "cilium lab status"
hint "pull a node's cable, and plug it in again" "cilium lab node cut node2; cilium lab node heal node2"
hint "end it: nothing is left behind" "cilium lab down"
