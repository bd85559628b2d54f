#!/usr/bin/env bash
# Builds the k3s binary into OUTDIR/bin. Called by recipes/build.
#
# usage: build.sh OUTDIR
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)

# The drivers that these tags leave out need libraries or kernels a node has not.
tags=no_btrfs,no_zfs,no_aufs,no_devmapper
version=$(sed -n 's/^kubernetes = "\(.*\)"/\1/p' "$here/recipe.toml")
containerd=$(sed -n 's/^containerd = "\(.*\)"/\1/p' "$here/recipe.toml")
component=k8s.io/component-base/version
stamp="-X $component.gitVersion=v$version+k3s.furrow1 -X $component.gitMajor=1 -X $component.gitMinor=36
  -X $component.gitTreeState=clean -X $component.buildDate=1970-01-01T00:00:00Z
  -X k8s.io/client-go/pkg/version.gitVersion=v$version+k3s.furrow1
  -X github.com/containerd/containerd/v2/version.Version=v$containerd"

# The shim is embedded by a file beside the sources, so build in a copy of them.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp -r "$here/." "$source"
cd "$source"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=readonly" GOTOOLCHAIN=local

echo "k3s: the container shim" >&2
go build -tags "$tags" -ldflags "-s -w -buildid=" -o "$source/shim" \
  github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
zstd -q -19 --no-progress "$source/shim" -o internal/shimbin/containerd-shim-runc-v2.zst
rm "$source/shim"

echo "k3s: Kubernetes, etcd and containerd in one binary (about 8 minutes from empty caches on 2 cores)" >&2
mkdir -p "$out/bin"
go build -tags "$tags,embedshim" -ldflags "-s -w -buildid= $(echo $stamp)" -o "$out/bin/k3s" .
