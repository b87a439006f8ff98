#!/usr/bin/env bash
# build.sh PRESET [TARGET...]: configures where needed, then builds the targets, or everything.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset="${1:-release}"
targets=("${@:2}")
scripts/configure.sh "$preset"
say "building $preset"
nice cmake --build "build/$preset" --parallel "$(cores)" ${targets[@]+--target "${targets[@]}"}
