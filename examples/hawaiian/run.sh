#!/usr/bin/env bash
# The demonstration: LoRA teaches a small base model to translate English to Hawaiian, in a few minutes on a CPU.
#   run.sh [RUN_FOLDER]        TEMPER names the program (default build/release/temper)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=examples/hawaiian
run=${1:-runs/hawaiian}
temper=${TEMPER:-build/release/temper}

rm -rf "$run"
"$temper" train --config $here/lora.yaml --run-dir "$run"
measure=(eval --model $here/base --data $here --generate --metrics exact,chrf --json)
"$temper" "${measure[@]}" > "$run/before.json"
"$temper" "${measure[@]}" --adapter "$run" > "$run/after.json"
python3 $here/show.py "$run" "$run/before.json" "$run/after.json"
