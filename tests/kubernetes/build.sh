#!/bin/bash
# Build Kubernetes 1.20 from Debian's own sources: five minutes on two processors, once.
#
# Debian 12 packages only kubectl of it, but its source package holds everything.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/place.sh"
mkdir -p "$STATE" "$BINARIES" "$LOGS"
export DEBIAN_FRONTEND=noninteractive

needs="etcd-server containerd runc containernetworking-plugins conntrack iptables iproute2 busybox-static
  debootstrap openssl curl"
missing=
for package in $needs; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >"$LOGS/apt.log"
fi

programs="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet"
built=yes
for program in $programs; do [ -x "$BINARIES/$program" ] || built=; done
[ -z "$built" ] || exit 0

echo "building Kubernetes: some minutes, once"
work=$STATE/build
mkdir -p "$work/lists/partial" "$work/home" "$work/source"
apt-get install -y -qq --no-install-recommends golang-1.19-go golang-github-modern-go-reflect2-dev make \
    rsync jq patch xz-utils gcc libc6-dev >>"$LOGS/apt.log"
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Release: bookworm' | head -1)
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive bookworm main" >"$work/sources.list"
only="-o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists
  -o APT::Sandbox::User=root"
cd "$work"
# shellcheck disable=SC2086
{ apt-get $only update -qq; apt-get $only source --download-only -qq kubernetes; }
tar -xzf kubernetes_*.orig.tar.gz -C source --strip-components=1
tar -xJf kubernetes_*.debian.tar.xz
cd source
while read -r name; do patch -p1 -s <"../debian/patches/$name"; done <../debian/patches/series
# The reflect2 that it brings crashes under Go 1.18 and later, minutes after the start.
ours=vendor/github.com/modern-go/reflect2
rm -f $ours/*.go $ours/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} $ours/
rm -f $ours/*_test.go
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
env GOPATH="$PWD/.go" GOROOT=/usr/lib/go-1.19 PATH=/usr/lib/go-1.19/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CGO_ENABLED=0 HOME="$work/home" GOCACHE="$work/cache" GOPROXY=off GOFLAGS="-p=$(nproc)" GOLDFLAGS="-s -w" \
    KUBE_GIT_TREE_STATE=clean KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_COMMIT=debian KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 \
    nice make WHAT="$(printf 'cmd/%s ' $programs)" >"$LOGS/build.log" 2>&1 || { tail -20 "$LOGS/build.log"; exit 1; }
for program in $programs; do install -m755 "_output/local/bin/linux/amd64/$program" "$BINARIES/"; done
cd "$STATE"
rm -rf "$work"
