#!/bin/bash
# Test with a real Kubernetes: run.sh [words for pytest...].  Needs root, and Debian 12.
#
# Builds what is missing, brings the cluster up, runs the tests in it, takes it down.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/place.sh"
export HEPDASK_ML_K8S=$STATE
"$HERE/build.sh"
trap '"$HERE/down.sh"' EXIT
"$HERE/up.sh"
# kr8s 0.20 may forget a connection that it forwards to a pod that dies, which Python tells of at its end.
"$HERE/inside.sh" "$PYTHON" -m pytest -m k8s -W ignore:unclosed:ResourceWarning "$HERE" "$@"
