#!/bin/bash
# Run a command in the network of the cluster, with its DNS.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/place.sh"
exec nsenter --net="/run/netns/$NAMESPACE" unshare --mount \
    bash -c 'mount --bind "$0" /etc/resolv.conf; exec "$@"' "$STATE/resolv.conf" "$@"
