#!/usr/bin/env bash
# Installs what building (default) or testing (`setup.sh test`) needs and is not there yet: system packages, a
# Python environment in .venv with the pinned MLX, and checks for a Rust new enough. Quick when nothing is missing.
# `setup.sh oracle`: .venv-oracle alone, with what only the slow tests compare to (PyTorch: several GB).
# `setup.sh fuzz`: the clang that builds the fuzzers.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VENV="$PWD/.venv"
VENV_PYTHON="$VENV/bin/python"
purpose="${1:-build}"
case "$purpose" in
  build | test | oracle | fuzz) ;;
  *) die "usage: scripts/setup.sh [build|test|oracle|fuzz]" ;;
esac

DEBIAN_PACKAGES=(build-essential ca-certificates ccache cmake doctest-dev libcli11-dev libcurl4-openssl-dev libfmt-dev
  libopenblas-dev libsimdjson-dev libyaml-cpp-dev ninja-build nlohmann-json3-dev)
[[ $purpose != fuzz ]] || DEBIAN_PACKAGES+=(clang-16 libclang-rt-16-dev)
BREW_PACKAGES=(ccache cli11 cmake doctest fmt ninja nlohmann-json rust simdjson yaml-cpp python@3.12)

# version_at_least HAVE WANT: dotted numbers.
version_at_least() {
  [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]
}

rust_needed="$(sed -n 's/^rust-version = "\(.*\)"/\1/p' rust/Cargo.toml)"

cargo_found() {
  local cargo version
  for cargo in cargo "${HOME:-/root}/.cargo/bin/cargo"; do
    version="$("$cargo" --version 2>/dev/null | awk '{print $2}')" || continue
    if [[ -n $version ]] && version_at_least "$version" "$rust_needed"; then
      return 0
    fi
  done
  return 1
}

# Prints a Python 3.10 or newer that can make an environment, or nothing.
find_python() {
  local python
  for python in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

explain_rust() {
  die "Rust $rust_needed or newer is needed and this system has no package of it: install it with rustup" \
    "(https://rustup.rs), then run this again"
}

# Debian and its derivatives: everything missing in one apt-get call.
setup_debian() {
  local missing=() package
  for package in "${DEBIAN_PACKAGES[@]}"; do
    if [[ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" != "install ok installed" ]]; then
      missing+=("$package")
    fi
  done
  if [[ -z $(find_python) ]]; then
    missing+=(python3 python3-venv)
  fi
  local run=()
  if [[ $(id -u) != 0 ]]; then
    run=(sudo)
  fi
  if ! cargo_found; then
    missing+=(cargo-web rustc-web)
  fi
  ((${#missing[@]})) || return 0
  [[ ${missing[*]} != ccache || $(id -u) == 0 ]] || return 0 # only saves time

  local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
  if [[ $(id -u) != 0 ]] && ! { sudo -n true || { [[ -t 0 ]] && command -v sudo; }; } &>/dev/null; then
    die "these system packages are missing. As root, run this one command, then try again:
  apt-get update && ${install[*]}"
  fi
  say "installing system packages: ${missing[*]}"
  ${run[@]+"${run[@]}"} apt-get update -qq
  if [[ " ${missing[*]} " == *" cargo-web "* ]]; then
    local candidate
    candidate="$(apt-cache policy cargo-web | awk '/Candidate:/ {print $2}')"
    version_at_least "${candidate:-0}" "$rust_needed" || explain_rust
  fi
  ${run[@]+"${run[@]}"} env DEBIAN_FRONTEND=noninteractive "${install[@]}" -qq >/dev/null
}

setup_macos() {
  command -v brew >/dev/null || die "Homebrew is needed (https://brew.sh); install it, then run this again"
  xcode-select --print-path &>/dev/null || die "Apple's compiler is missing: run 'xcode-select --install'"
  local missing=() package
  for package in "${BREW_PACKAGES[@]}"; do
    if ! brew list --versions "$package" >/dev/null; then
      missing+=("$package")
    fi
  done
  if ((${#missing[@]})); then
    brew install "${missing[@]}"
  fi
}

setup_packages() {
  if [[ $(uname -s) == Darwin ]]; then
    setup_macos
  elif command -v apt-get >/dev/null; then
    setup_debian
  else
    # Another distribution: its names are unknown here, so only say what is missing.
    local tool
    for tool in c++ cmake ninja; do
      command -v "$tool" >/dev/null || die "'$tool' is missing. This script knows Debian, Ubuntu and Homebrew;" \
        "elsewhere install the equivalents of: ${DEBIAN_PACKAGES[*]}"
    done
    [[ -n $(find_python) ]] || die "Python 3.10 or newer with its venv module is needed"
  fi
  cargo_found || explain_rust
}

# .venv holds the pinned MLX, and for testing also what tests/requirements.txt names.
setup_python() {
  local requirements=(pyproject.toml) arguments=()
  if [[ $purpose == test ]]; then
    requirements+=(tests/requirements.txt)
    arguments=(-r tests/requirements.txt)
  fi
  local stamp="$VENV/temper-$purpose.stamp" inputs
  inputs="$(cat "${requirements[@]}" scripts/setup.sh | cksum)"
  if [[ -x $VENV_PYTHON && -f $stamp && "$(<"$stamp")" == "$inputs" ]]; then
    return
  fi
  if ! "$VENV_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    say "making .venv"
    "$(find_python)" -m venv --clear "$VENV"
  fi
  local mlx
  mlx="$("$VENV_PYTHON" scripts/pins.py)"
  say "installing $mlx ${arguments[*]+"${arguments[*]}"} into .venv"
  "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check "$mlx" ${arguments[@]+"${arguments[@]}"}
  printf '%s\n' "$inputs" >"$stamp"
}

setup_oracle() {
  local stamp=".venv-oracle/temper.stamp" inputs
  inputs="$(cksum <tests/oracle-requirements.txt)"
  if [[ -f $stamp && "$(<"$stamp")" == "$inputs" ]]; then
    return
  fi
  say "installing PyTorch, transformers and PEFT into .venv-oracle"
  "$(find_python)" -m venv --clear .venv-oracle
  .venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracle-requirements.txt
  printf '%s\n' "$inputs" >"$stamp"
}

if [[ $purpose == oracle ]]; then
  setup_oracle
else
  setup_packages
  [[ $purpose == fuzz ]] || setup_python
fi
