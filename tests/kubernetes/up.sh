#!/bin/bash
# A real Kubernetes of one node, with the Dask operator, in a network namespace of its own.
#
# Nothing listens outside of that namespace.  Run commands in it with inside.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/place.sh"
GPUS=2 # made up: the node says that it has them
mkdir -p "$LOGS" "$NODE"/{etcd,pki,kubelet,cni}
cd "$NODE"
say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
images() { ctr -a "$SOCKET" -n k8s.io images "$@"; }

network() {
    ip netns list | grep -qw "$NAMESPACE" || ip netns add "$NAMESPACE"
    ip -n "$NAMESPACE" link set lo up
    if ! ip -n "$NAMESPACE" link show d0 >/dev/null 2>&1; then
        ip -n "$NAMESPACE" link add d0 type bridge
        ip -n "$NAMESPACE" addr add "$ADDRESS/24" dev d0
        ip -n "$NAMESPACE" link set d0 up
        ip -n "$NAMESPACE" route add default dev d0
    fi
    printf 'nameserver %s\nsearch svc.cluster.local\noptions ndots:5 timeout:1 attempts:1\n' "$ADDRESS" \
        >"$STATE/resolv.conf"
}

containers() {
    cat >cni/10-bridge.conflist <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
    cat >containerd.toml <<END
version = 2
root = "$STATE/containerd/root"
state = "$STATE/containerd/state"
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true  # where root may not lower it
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$NODE/cni"
END
    start containerd containerd -c "$NODE/containerd.toml"
    until_true 20 ctr -a "$SOCKET" version
}

pause_image() {
    images ls -q | grep -qx localhost/pause:1 && return
    local root=$STATE/pause
    mkdir -p "$root/bin"
    cp /bin/busybox "$root/bin/sleep"
    "$PYTHON" "$HERE/image.py" pause localhost/pause:1 "$STATE/pause.tar" "$root"
    images import "$STATE/pause.tar" >/dev/null
}

dask_image() {
    local key rootfs=$STATE/rootfs
    key=$("$PYTHON" "$HERE/image.py" key)
    [ "$key" = "$(cat "$STATE/image.key" 2>/dev/null)" ] && images ls -q | grep -qx localhost/hepdask-ml:test && return
    [ -x "$rootfs/usr/bin/python3.11" ] || debootstrap --variant=minbase \
        --include=python3.11,libpython3.11-stdlib,libstdc++6,ca-certificates bookworm "$rootfs" \
        "$(apt-get indextargets --format '$(REPO_URI)' 'Release: bookworm' | head -1)" >"$LOGS/debootstrap.log" 2>&1
    "$PYTHON" "$HERE/image.py" dask localhost/hepdask-ml:test "$STATE/image.tar" "$rootfs"
    images import "$STATE/image.tar" >/dev/null
    rm "$STATE/image.tar"
    echo "$key" >"$STATE/image.key"
}

certificates() {
    [ -s pki/sa.key ] && return
    local token guest
    openssl genrsa -out pki/sa.key 2048 2>/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca.key -out pki/ca.crt -days 30 -subj /CN=test-ca 2>/dev/null
    openssl req -newkey rsa:2048 -nodes -keyout pki/api.key -out pki/api.csr -subj /CN=kube-apiserver 2>/dev/null
    echo 'subjectAltName=DNS:localhost,DNS:kubernetes.default,IP:127.0.0.1,IP:10.0.0.1' >pki/names
    openssl x509 -req -in pki/api.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 30 -extfile pki/names \
        -out pki/api.crt 2>/dev/null
    token=$(openssl rand -hex 16) guest=$(openssl rand -hex 16)
    printf '%s,admin,admin,system:masters\n%s,guest,guest,\n' "$token" "$guest" >pki/tokens.csv
    (umask 077; kubeconfig "$token" >kubeconfig; kubeconfig "$guest" >kubeconfig-guest)
}

kubeconfig() { # TOKEN
    cat <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$API", certificate-authority: "$NODE/pki/ca.crt"}}]
users: [{name: user, user: {token: "$1"}}]
contexts: [{name: test, context: {cluster: test, user: user, namespace: default}}]
current-context: test
END
}

control_plane() {
    start etcd etcd --name node --data-dir "$NODE/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
        --initial-cluster node=http://127.0.0.1:12380
    start apiserver "$BINARIES/kube-apiserver" --bind-address 127.0.0.1 --advertise-address "$ADDRESS" \
        --secure-port $API --etcd-servers http://127.0.0.1:12379 --tls-cert-file pki/api.crt \
        --tls-private-key-file pki/api.key --client-ca-file pki/ca.crt --token-auth-file pki/tokens.csv \
        --service-account-key-file pki/sa.key --service-account-signing-key-file pki/sa.key \
        --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.0.0.0/24 \
        --authorization-mode RBAC --allow-privileged=true --kubelet-preferred-address-types=InternalIP \
        --disable-admission-plugins ServiceAccount
    until_true 60 inside curl -sf --cacert pki/ca.crt "https://127.0.0.1:$API/readyz"
    start controllers "$BINARIES/kube-controller-manager" --kubeconfig kubeconfig --bind-address 127.0.0.1 \
        --secure-port 16257 --port 0 --leader-elect=false --service-account-private-key-file pki/sa.key \
        --root-ca-file pki/ca.crt --use-service-account-credentials=false
    start scheduler "$BINARIES/kube-scheduler" --kubeconfig kubeconfig --bind-address 127.0.0.1 --port 0 \
        --leader-elect=false
}

node() {
    cat >kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: [$ADDRESS]
clusterDomain: cluster.local
nodeStatusUpdateFrequency: 5s
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
maxPods: 60
END
    start kubelet "$BINARIES/kubelet" --config kubelet.yaml --kubeconfig kubeconfig --root-dir "$NODE/kubelet" \
        --cert-dir "$NODE/pki" --node-ip "$ADDRESS" --hostname-override node --container-runtime remote \
        --container-runtime-endpoint "unix://$SOCKET" --oom-score-adj=0 --register-node=true
    # Pods that ask a service of their own bridge need masquerading, without the kernel's br_netfilter.
    start proxy "$BINARIES/kube-proxy" --kubeconfig kubeconfig --hostname-override node --proxy-mode iptables \
        --bind-address "$ADDRESS" --healthz-bind-address 127.0.0.1:10256 --metrics-bind-address 127.0.0.1:10249 \
        --masquerade-all=true --conntrack-max-per-core=0 --oom-score-adj=0
    until_true 60 inside kubectl wait --for condition=ready node/node --timeout=5s
    inside curl -sf -o /dev/null --cacert pki/ca.crt -H "Authorization: Bearer $(cut -d, -f1 pki/tokens.csv | head -1)" \
        -H 'Content-Type: application/json-patch+json' -X PATCH "https://127.0.0.1:$API/api/v1/nodes/node/status" \
        -d "[{\"op\": \"add\", \"path\": \"/status/capacity/nvidia.com~1gpu\", \"value\": \"$GPUS\"}]"
}

operator() {
    local resources
    resources=$("$PYTHON" -c 'import dask_kubernetes.operator as o, pathlib
print(pathlib.Path(o.__file__).parent / "deployment/helm/dask-kubernetes-operator/crds")')
    inside kubectl apply --server-side -f "$resources" >/dev/null
    until_true 20 inside kubectl wait --for condition=established crd --all --timeout=5s
    start dns "$PYTHON" "$HERE/dns.py" "$ADDRESS"
    start operator "$HERE/inside.sh" "$PYTHON" -m kopf run "$HERE/operator_main.py" --all-namespaces
    until_true 30 grep -q 'Initial authentication has finished' "$LOGS/operator.log"
}

network
containers
pause_image
dask_image
say "images"
certificates
control_plane
node
say "the node is ready"
operator
say "the operator runs"
