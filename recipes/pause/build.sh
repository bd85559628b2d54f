#!/usr/bin/env bash
# Builds the pause image into OUTDIR/images. Called by recipes/build.
#
# usage: build.sh OUTDIR
set -euo pipefail
cd "$(dirname "$0")"
program=$(mktemp -d)/pause
trap 'rm -rf "$(dirname "$program")"' EXIT
gcc -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-asynchronous-unwind-tables \
  -fno-stack-protector -fcf-protection=none -Wl,--build-id=none,-z,norelro -s -o "$program" pause.c
../image-tarball localhost/furrow/pause:1 "$program" "$1/images/pause.tar.zst"
