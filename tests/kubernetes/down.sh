#!/bin/bash
# Take the cluster of up.sh down; binaries and images stay for the next time.
. "$(dirname "${BASH_SOURCE[0]}")/place.sh"
for kind in daskclusters deployments pods; do
    inside timeout 20 kubectl delete $kind --all --all-namespaces --grace-period=0 --force --timeout=15s >/dev/null 2>&1
done
for name in operator dns proxy kubelet scheduler controllers apiserver etcd; do stop $name; done
containers() { ctr -a "$SOCKET" -n k8s.io "$@" 2>/dev/null; }
for each in $(containers tasks ls -q); do containers tasks kill -s SIGKILL "$each"; done
sleep 1
for each in $(containers containers ls -q); do
    containers tasks rm -f "$each"
    containers containers rm "$each"
done >/dev/null 2>&1
stop containerd
awk -v node="$NODE/" 'index($2, node) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
awk -v state="$STATE/containerd/state/" 'index($2, state) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
rm -rf "$NODE" "$STATE/containerd/state"
ip netns del "$NAMESPACE" 2>/dev/null
exit 0
