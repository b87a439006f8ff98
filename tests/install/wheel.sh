#!/usr/bin/env bash
# wheel.sh PYTHON: `pip install .` into a fresh environment gives a `temper` that runs from anywhere, and that finds
# every library in the environment (or in the C++ and C runtimes).
set -euo pipefail
python="$1"
root="$(cd "$(dirname "$0")/../.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
extra="[cpu]"
[[ "$(uname -s)" != Darwin ]] || extra=""
# For ccache's sake as the release build has them: the compiler's name, its warnings, and MLX's headers, which pip
# would unpack anew elsewhere.
export CXX="${CXX:-c++}"
mlx="$("$python" -c "import importlib.util as u; print(u.find_spec('mlx').submodule_search_locations[0])")"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$root$extra" \
  --config-settings "cmake.define.TEMPER_MLX_ROOT=$mlx" \
  --config-settings cmake.define.TEMPER_WARNINGS_AS_ERRORS=ON
cd "$work"
venv/bin/temper --version
venv/bin/temper --help >/dev/null
[[ "$(uname -s)" != Darwin ]] || exit 0
binary="$(echo venv/lib/python*/site-packages/temper/bin/temper)"
outside="$(ldd "$binary" | grep -vE "$work|linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so" || true)"
if [[ -n $outside ]]; then
  printf 'not in the environment:\n%s\n' "$outside"
  exit 1
fi
