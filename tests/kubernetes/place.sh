# Where everything is; sourced by the other scripts.
#
#   HEPDASK_ML_K8S_STATE     the folder below which all is kept (in the user's cache by default)
#   HEPDASK_ML_K8S_BINARIES  the folder of the Kubernetes binaries (in the state by default)
#   PYTHON                   an interpreter with hepdask-ml[kubernetes] and dnslib; Python 3.11, as Debian's
#
# shellcheck shell=bash disable=SC2034
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
STATE=${HEPDASK_ML_K8S_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/hepdask-ml/kubernetes}
BINARIES=${HEPDASK_ML_K8S_BINARIES:-$STATE/binaries}
PYTHON=${PYTHON:-python3}
NODE=$STATE/node      # of the running cluster: wiped by down.sh
LOGS=$STATE/logs
NAMESPACE=hepdask-k8s # of the network, in which everything listens
ADDRESS=10.99.0.1     # of the node in it
API=16443
SOCKET=$STATE/containerd.sock
export KUBECONFIG=$NODE/kubeconfig

inside() { nsenter --net="/run/netns/$NAMESPACE" "$@"; }

running() { # FILE that holds a process id
    local state
    [ -s "$1" ] && state=$(awk '{print $3}' "/proc/$(cat "$1")/stat" 2>/dev/null) && [ "$state" != Z ]
}

start() { # NAME COMMAND...: in the background, in the network of the cluster
    local name=$1
    shift
    running "$STATE/$name.pid" && return
    # Not by the function inside, for that would be a shell which waits.
    nsenter --net="/run/netns/$NAMESPACE" setsid "$@" >"$LOGS/$name.log" 2>&1 &
    echo $! >"$STATE/$name.pid"
}

stop() { # NAME
    local file=$STATE/$1.pid
    running "$file" && kill "$(cat "$file")"
    for _ in $(seq 40); do running "$file" || break; sleep 0.25; done
    running "$file" && kill -9 "$(cat "$file")"
    rm -f "$file"
}

until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "waited too long for: $*; see $LOGS" >&2; return 1; }
        sleep 0.1
    done
}
