#!/usr/bin/env bash
# configure.sh PRESET: once; ninja repeats it when a CMake file changes.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset="$1"
[[ -f build/$preset/build.ninja ]] && exit 0
say "configuring $preset"
mkdir -p build
cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 || {
  cat "build/configure-$preset.log" >&2
  exit 1
}
