#!/usr/bin/env bash
# test.sh [--all] [--only release|lint|asan|fuzz]: set-up, build, tests and checks. Ends with the line
# "N passed, N failed" over everything that ran; exits non-zero if anything failed.
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

exclude="slow"
only=""
while (($#)); do
  case "$1" in
    --all) exclude="nothing-is-excluded" ;;
    --only) only="$2" && shift ;;
    *) die "usage: scripts/test.sh [--all] [--only release|lint|asan|fuzz]" ;;
  esac
  shift
done
[[ -z $only || $only == release || $only == lint || $only == asan || $only == fuzz ]] || die "--only takes release, lint, asan or fuzz"

passed=0
failed=0

# run_ctest PRESET [ARGUMENT...]: runs, shows, and adds to the counts.
run_ctest() {
  local log="build/ctest-$1.log" summary
  say "testing $1"
  ctest --test-dir "build/$1" --parallel "$(cores)" --output-on-failure --no-tests=error --timeout 600 \
    "${@:2}" 2>&1 | tee "$log" || true
  summary="$(grep -E 'tests passed, [0-9]+ tests? failed out of' "$log")" || die "ctest ran no test in build/$1"
  [[ $summary =~ ([0-9]+)\ tests?\ failed\ out\ of\ ([0-9]+) ]]
  failed=$((failed + BASH_REMATCH[1]))
  passed=$((passed + BASH_REMATCH[2] - BASH_REMATCH[1]))
}

scripts/setup.sh test
if [[ $exclude != slow && -z ${TEMPER_ORACLE_PYTHON:-} ]]; then
  scripts/setup.sh oracle || say "without .venv-oracle: tests that need it are skipped"
fi
if [[ $only == lint ]]; then
  scripts/configure.sh release
  run_ctest release --label-regex lint
else
  if [[ -z $only || $only == release ]]; then
    scripts/build.sh release
    run_ctest release --label-exclude "$exclude"
  fi
  if [[ -z $only || $only == asan ]]; then
    scripts/build.sh asan
    run_ctest asan
  fi
fi

if [[ $only == fuzz || ($exclude != slow && -z $only) ]]; then
  if scripts/setup.sh fuzz && command -v clang++-16 >/dev/null; then
    scripts/build.sh fuzz fuzz_safetensors fuzz_gguf fuzz_chat_template fuzz_parquet
    run_ctest fuzz --tests-regex '^fuzz\.' --timeout 1200
  else
    say "without clang-16 and libclang-rt-16-dev: the fuzzers do not run"
  fi
fi

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
