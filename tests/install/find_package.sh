#!/usr/bin/env bash
# find_package.sh BUILD_FOLDER PYTHON: installs the library into a folder of its own and builds a project against
# it that knows nothing of this tree, and the example loop, which must train.
set -euo pipefail
build="$1"
python="$2"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >/dev/null
cmake -S "$here/consumer" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix" \
  -DPython3_EXECUTABLE="$python" -DCUSTOM_LOOP="$here/../../examples/custom_loop.cpp"
cmake --build "$work/build"
"$work/build/uses_library"
mkdir "$work/adapter"
"$work/build/custom_loop" "$here/../../examples/hawaiian/base" "$here/../../examples/hawaiian/lexicon.tsv" \
  "$work/adapter" 3
test -s "$work/adapter/adapters.safetensors"
"$work/prefix/bin/temper" --version
