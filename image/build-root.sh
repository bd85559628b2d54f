#!/usr/bin/env bash
# The build root: a Debian 13 tree with the compilers and headers that our own
# binaries are built with, so that they link against the very libc, libvirt and
# librbd of the node image, whatever the build host runs; with what assembles the
# installation medium, which is newer there than on the build host; and with
# libvirt's schemas, which the tests of domain documents check against.
#
# usage: image/build-root.sh        prints the root's path, building it when its
#                                   inputs (this file) have changed
set -euo pipefail
cache=${FURROW_CACHE:-$HOME/.cache/furrow}
packages=(
  build-essential ca-certificates pkg-config git protobuf-compiler
  libvirt-dev librados-dev librbd-dev libclang-dev
  file iproute2 procps python3-minimal
  cpio cryptsetup-bin dosfstools erofs-utils faketime fdisk mtools openssl sbsigntool
  systemd-boot-efi systemd-ukify xorriso zstd
  libvirt-clients libxml2-utils
)
key=$(sha256sum "$0" | cut -c1-12)
root=$cache/build-root-$key
exec 9>"$cache/build-root.lock"
flock 9
if [ ! -e "$root/.complete" ]; then
  started=$SECONDS
  echo "build-root: installing ${#packages[@]} packages and what they need (about 2 minutes)" >&2
  rm -rf "$cache"/build-root-*/
  mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='APT::Install-Recommends "false"' trixie "$root" >&2
  touch "$root/.complete"
  echo "build-root: ready after $((SECONDS - started)) s" >&2
fi
echo "$root"
