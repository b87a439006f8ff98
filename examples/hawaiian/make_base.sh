#!/usr/bin/env bash
# Remakes examples/hawaiian/base from nothing: pairs, monolingual text, tokenizer, random weights, training by
# Temper. Needs a built Temper, and tokenizers 0.23.3 for Python, which it puts in a virtual environment of its own.
#   make_base.sh [WORK_FOLDER]        TEMPER names the program (default build/release/temper)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=examples/hawaiian
work=${1:-build/hawaiian}
temper=${TEMPER:-build/release/temper}

mkdir -p "$work"
if [[ ! -x $work/venv/bin/python ]]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet tokenizers==0.23.3 numpy
fi
python="$work/venv/bin/python"

"$python" -B $here/make_data.py --pairs $here --monolingual "$work/texts"
"$python" -B $here/make_tokenizer.py "$work/texts" "$work/start"
"$python" -B $here/init_base.py "$work/start"
rm -rf "$work/run"
"$temper" train --config $here/pretrain.yaml --model "$work/start" --data "$work/texts" --run-dir "$work/run"

mkdir -p $here/base
cp "$work"/start/*.json $here/base/
cp "$work/run/model/model.safetensors" $here/base/
ls -l $here/base
