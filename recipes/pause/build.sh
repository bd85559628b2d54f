#!/usr/bin/env bash
# usage: build.sh OUTDIR
set -euo pipefail
cd "$(dirname "$0")"
program=$(mktemp -d)/pause
trap 'rm -rf "$(dirname "$program")"' EXIT
CGO_ENABLED=0 GOTOOLCHAIN=local go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$program" .
../image-tarball localhost/furrow/pause:1 "$program" "$1/images/pause.tar.zst"
