# shellcheck shell=bash
# What every script here starts with: strict mode, the repository's root as the working folder, plain messages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Clones in other folders share what ccache holds.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

say() {
  printf '== %s\n' "$*" >&2
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

cores() {
  nproc 2>/dev/null || sysctl -n hw.ncpu
}
