"""Writes tests/golden/data/mlx_lm.json: the batches that mlx-lm makes of small data sets.

    python tests/golden/make_data_fixtures.py    # mlx-lm 0.32.2, transformers, numpy, a MLX for the CPU

A list of {name, train, valid (rows), mask_prompt, max_seq_length, batch_size, seed, steps}. `steps` is what
mlx-lm's train() asks for, in its order: {split, batches}, where a batch is {tokens [B][T + 1], offsets [B],
lengths [B]}; "train" asks for one batch, "valid" is an evaluation of `val_batches`.
The tokenizer is tests/golden/text/bytelevel.
"""

import json
import pathlib
import random
from types import SimpleNamespace

import numpy as np
from mlx_lm.tokenizer_utils import load as load_tokenizer
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import iterate_batches

HERE = pathlib.Path(__file__).resolve().parent
WORDS = "the cat sat on a mat and two dogs ran over it while nobody looked at all".split()


def words(rng, low, high):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def chat(rng):
    messages = [{"role": "system", "content": words(rng, 1, 5)}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 2)):
        messages += [{"role": "user", "content": words(rng, 1, 9)}, {"role": "assistant", "content": words(rng, 1, 9)}]
    return {"messages": messages}


def completion(rng):
    row = {"prompt": words(rng, 1, 12), "completion": words(rng, 1, 12)}
    return row | ({"note": "one field more"} if rng.random() < 0.4 else {})


def text(rng):
    return {"text": words(rng, 1, 30)}


CASES = [
    dict(name="chats, masked", row=chat, rows=(11, 7), mask_prompt=True, max_seq_length=2048, batch_size=2, seed=0),
    dict(name="completions, masked, cut", row=completion, rows=(9, 5), mask_prompt=True, max_seq_length=40,
         batch_size=2, seed=7),
    dict(name="completions", row=completion, rows=(10, 4), mask_prompt=False, max_seq_length=2048, batch_size=3, seed=3),
    dict(name="text", row=text, rows=(8, 4), mask_prompt=False, max_seq_length=50, batch_size=4, seed=11),
]
VAL_BATCHES = 2
STEPS = 13
STEPS_PER_EVAL = 4


def as_json(batch):
    tokens, spans = batch
    return {"tokens": tokens.tolist(), "offsets": [s[0] for s in spans.tolist()],
            "lengths": [s[1] for s in spans.tolist()]}


def make(case, tokenizer):
    rng = random.Random(case["seed"])
    train, valid = ([case["row"](rng) for _ in range(n)] for n in case["rows"])
    config = SimpleNamespace(mask_prompt=case["mask_prompt"])
    sets = {name: CacheDataset(create_dataset(rows, tokenizer, config)) for name, rows in
            (("train", train), ("valid", valid))}
    size, limit = case["batch_size"], case["max_seq_length"]
    np.random.seed(case["seed"])
    steps = []
    batches = iterate_batches(sets["train"], size, limit, loop=True)
    for step in range(1, STEPS + 1):
        steps.append({"split": "train", "batches": [as_json(next(batches))]})
        if step == 1 or step % STEPS_PER_EVAL == 0 or step == STEPS:
            evaluation = zip(range(VAL_BATCHES), iterate_batches(sets["valid"], size, limit))
            steps.append({"split": "valid", "batches": [as_json(batch) for _, batch in evaluation]})
    kept = {k: v for k, v in case.items() if k not in ("row", "rows")}
    return kept | {"val_batches": VAL_BATCHES, "train": train, "valid": valid, "steps": steps}


def main():
    tokenizer = load_tokenizer(HERE / "text" / "bytelevel")
    (HERE / "data").mkdir(exist_ok=True)
    cases = [make(case, tokenizer) for case in CASES]
    (HERE / "data" / "mlx_lm.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
