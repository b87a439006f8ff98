"""`temper train --compat mlx-lm` beside mlx-lm's own trainer, live: same weights, batches and optimizer, same losses.

Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import json
import math
import os
import pathlib
import random
import subprocess
import sys
import types

import mlx.core as mx
import pytest
import yaml
from mlx.utils import tree_flatten
from mlx_lm import lora
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, load_dataset
from mlx_lm.tuner.trainer import evaluate
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model, load_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from greedy import mlx_lm_greedy  # noqa: E402
from tiny_model import TEMPER, copy_fixture, word  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_mlx")

ITERS = 30
MAX_SEQ_LENGTH = 48


def words(rng, count):
    return " ".join(word(rng.randrange(6, 128)) for _ in range(count))


def chat_row(rng):
    turns = [{"role": "system", "content": words(rng, 3)}] if rng.random() < 0.3 else []
    for _ in range(rng.randint(1, 3)):
        turns.append({"role": "user", "content": words(rng, rng.randint(1, 9))})
        turns.append({"role": "assistant", "content": words(rng, rng.randint(1, 9))})
    return {"messages": turns}


def completion_row(rng):
    return {"prompt": words(rng, rng.randint(1, 12)), "completion": words(rng, rng.randint(1, 12))}


def text_row(rng):
    return {"text": words(rng, rng.randint(1, 80))}  # some longer than MAX_SEQ_LENGTH


def write_data(folder, row):
    """Rows that are no multiple of the batch size, and so few that the passes begin anew."""
    rng = random.Random(7)
    folder.mkdir()
    for split, count in (("train", 43), ("valid", 13), ("test", 9)):
        text = "".join(json.dumps(row(rng)) + "\n" for _ in range(count))
        (folder / f"{split}.jsonl").write_text(text)


# The keys of mlx-lm's example file, with values for a small model.
BASE_CONFIG = {
    "train": True,
    "fine_tune_type": "lora",
    "optimizer": "adam",
    # Where a gradient is as good as zero, Adam turns rounding errors into whole steps; a larger eps does not.
    "optimizer_config": {"adam": {"eps": 1e-4}},
    "seed": 3,
    "num_layers": -1,
    "batch_size": 4,
    "iters": ITERS,
    "val_batches": 2,
    "learning_rate": 1e-3,
    "steps_per_report": 1,
    "steps_per_eval": 10,
    "save_every": 100,
    "test": False,
    "test_batches": 100,
    "max_seq_length": MAX_SEQ_LENGTH,
    "grad_checkpoint": False,
    "lora_parameters": {
        "keys": ["self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"],
        "rank": 4,
        "scale": 10.0,
        "dropout": 0.0,
    },
}


def adapter(*keys):
    return {"keys": list(keys), "rank": 3, "scale": 2.0, "dropout": 0.0}


CASES = {
    "chat": (chat_row, {}),
    "defaults": (chat_row, {"optimizer_config": {}, "learning_rate": 1e-4}),
    "chat_last_turn": (
        chat_row,
        {"mask_prompt": True, "grad_accumulation_steps": 2, "num_layers": 2,
         "lr_schedule": {"name": "cosine_decay", "warmup": 6, "warmup_init": 1e-6, "arguments": [2e-3, 9, 1e-5]}},
    ),  # fmt: skip
    "completion": (
        completion_row,
        {"optimizer": "adamw", "grad_accumulation_steps": 2, "val_batches": -1,
         "optimizer_config": {"adamw": {"betas": [0.9, 0.98], "eps": 1e-4, "weight_decay": 0.05,
                                        "bias_correction": True}, "muon": {"momentum": 0.9}}},
    ),  # fmt: skip
    "completion_masked": (
        completion_row,
        {"mask_prompt": True, "optimizer": "adamw", "optimizer_config": {"adamw": {"eps": 1e-5}},
         "lr_schedule": {"name": "linear_schedule", "arguments": [1e-3, 1e-5, 20]}},
    ),  # fmt: skip
    "text": (text_row, {"optimizer": "sgd", "optimizer_config": {"sgd": {"momentum": 0.9}}, "learning_rate": 3e-3}),
    "no_validation": (chat_row, {"val_batches": 0, "mask_prompt": True}),
    "full": (chat_row, {"fine_tune_type": "full", "learning_rate": 1e-4}),
    "full_last_layers": (text_row, {"fine_tune_type": "full", "num_layers": 2, "learning_rate": 1e-4}),
    "all_layers": (chat_row, {"lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}, "learning_rate": 1e-4}),
    "dora": (chat_row, {"fine_tune_type": "dora"}),
    "embedding": (completion_row, {"lora_parameters": adapter("self_attn.q_proj", "model.embed_tokens")}),
    "dora_embedding": (
        completion_row,
        {"fine_tune_type": "dora", "lora_parameters": adapter("self_attn.q_proj", "model.embed_tokens")},
    ),
    "dora_head": (
        text_row,
        {"fixture": "llama2", "fine_tune_type": "dora", "num_layers": 1,
         "lora_parameters": adapter("mlp.up_proj", "model.embed_tokens", "lm_head")},
    ),  # fmt: skip
}


def with_defaults(config):
    args = {**config}
    for key, value in lora.CONFIG_DEFAULTS.items():
        args.setdefault(key, value)
    return types.SimpleNamespace(**args)


def read_as_mlx_lm(path):
    return with_defaults(yaml.load(path.read_text(), lora.yaml_loader))


class Recorder(TrainingCallback):
    def __init__(self):
        self.steps, self.evals = [], []

    def on_train_loss_report(self, train_info):
        self.steps.append(train_info)

    def on_val_loss_report(self, val_info):
        if not math.isnan(val_info["val_loss"]):  # of no batches: val_batches 0
            self.evals.append(val_info)


def train_mlx_lm(config_file, adapter_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(lora, "get_reporting_callbacks", lambda *_, **__: recorder)
    args = read_as_mlx_lm(config_file)
    args.adapter_path = str(adapter_path)
    lora.run(args)
    return recorder


def temper(*arguments, compiled=False):
    environment = dict(os.environ) if compiled else {**os.environ, "MLX_DISABLE_COMPILE": "1"}
    done = subprocess.run(
        [TEMPER, *map(str, arguments), "--json"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train_temper(config_file, run_dir, compiled):
    temper("train", "--config", config_file, "--compat", "mlx-lm", "--run-dir", run_dir,
           "--cache-dir", run_dir.parent / "cache", compiled=compiled)  # fmt: skip
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [e for e in events if e["type"] == "step"], [e for e in events if e["type"] == "eval"]


def write_first_adapters(config, path):
    """Both factors random, so that both have a gradient from the first step on; magnitudes off the norms."""
    model, _ = load_model(pathlib.Path(config["model"]))
    model.freeze()
    mx.random.seed(11)
    linear_to_lora_layers(
        model, config["num_layers"], config["lora_parameters"], use_dora=config["fine_tune_type"] == "dora"
    )
    factors = dict(tree_flatten(model.trainable_parameters()))
    factors = {n: 0.02 * mx.random.normal(a.shape) if n.endswith("lora_b") else a for n, a in factors.items()}
    factors = {
        n: a * (1 + 0.1 * mx.random.normal(a.shape)) if n.endswith(".m") else a for n, a in factors.items()
    }
    mx.save_safetensors(str(path), factors)


@pytest.fixture
def write_case(tmp_path):
    def write(name):
        row, changes = CASES[name]
        write_data(tmp_path / "data", row)
        config = {"fixture": "llama32", **BASE_CONFIG, **changes}
        config["model"] = str(copy_fixture(config.pop("fixture"), tmp_path))
        config["data"] = str(tmp_path / "data")
        if config["fine_tune_type"] != "full":
            config["resume_adapter_file"] = str(tmp_path / "first.safetensors")
            write_first_adapters(config, config["resume_adapter_file"])
        path = tmp_path / "lora_config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def assert_same_with(adapter, config_file, tmp_path, vocab=128):
    """Both programs with the adapter of one: test loss and greedy answers."""
    args = read_as_mlx_lm(config_file)
    args.train, args.test = False, True
    model, _ = load_model(pathlib.Path(args.model))
    load_adapters(model, str(adapter))
    _, _, test = load_dataset(args, load_tokenizer(pathlib.Path(args.model)))
    expected = evaluate(model, CacheDataset(test), batch_size=4, num_batches=-1, max_seq_length=MAX_SEQ_LENGTH)

    flags = ["--mask-prompt"] if args.mask_prompt else []
    found = temper("eval", "--model", args.model, "--adapter", adapter, "--data", args.data, "--compat", "mlx-lm",
                   "--max-seq-length", MAX_SEQ_LENGTH, "--cache-dir", tmp_path / "cache", *flags)  # fmt: skip
    assert found["loss"] == pytest.approx(expected, rel=1e-5)

    rng = random.Random(1)
    prompt = [rng.randrange(3, vocab) for _ in range(9)]
    answer = temper("generate", "--model", args.model, "--adapter", adapter, "--raw", "--max-tokens", 16,
                    "--prompt", " ".join(map(word, prompt)))  # fmt: skip
    assert answer["token_ids"] == mlx_lm_greedy(model, prompt, 16)
    return expected


@pytest.mark.parametrize("name", CASES)
def test_compat_training_is_that_of_mlx_lm(write_case, tmp_path, monkeypatch, name):
    config_file = write_case(name)
    reports = train_mlx_lm(config_file, tmp_path / "theirs", monkeypatch)
    steps, evals = train_temper(config_file, tmp_path / "ours", compiled=name == "chat")

    assert [s["step"] for s in steps] == [s["iteration"] for s in reports.steps] == list(range(1, ITERS + 1))
    assert [s["loss"] for s in steps] == pytest.approx([s["train_loss"] for s in reports.steps], rel=1e-4)
    assert [s["tokens"] for s in steps] == [s["trained_tokens"] for s in reports.steps]
    assert [e["step"] for e in evals] == [e["iteration"] for e in reports.evals]
    assert [e["loss"] for e in evals] == pytest.approx([e["val_loss"] for e in reports.evals], rel=1e-4)
    args = read_as_mlx_lm(config_file)
    every = args.grad_accumulation_steps
    updates = slice(every - 1, None, every)  # mlx-lm reports the rate of the update before, in between
    assert [s["learning_rate"] for s in steps][updates] == pytest.approx(
        [s["learning_rate"] for s in reports.steps][updates], rel=1e-5
    )

    # It learned something: else equal losses would say little.
    losses = [s["loss"] for s in steps]
    assert sum(losses[-10:]) < sum(losses[:10])
    first = mx.load(args.resume_adapter_file or str(pathlib.Path(args.model) / "model.safetensors"))
    ours = mx.load(str(tmp_path / "ours" / "adapters.safetensors"))
    theirs = mx.load(str(tmp_path / "theirs" / "adapters.safetensors"))
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        moved = mx.abs(array - first[key]).max().item()
        assert mx.abs(array - ours[key]).max().item() <= 1e-3 * moved, key


@pytest.mark.parametrize("name", ["chat_last_turn", "all_layers", "dora", "embedding", "dora_embedding", "dora_head"])
def test_adapters_load_in_each_other(write_case, tmp_path, monkeypatch, name):
    config_file = write_case(name)
    train_mlx_lm(config_file, tmp_path / "theirs", monkeypatch)
    train_temper(config_file, tmp_path / "ours", compiled=False)
    theirs = assert_same_with(tmp_path / "theirs", config_file, tmp_path)
    ours = assert_same_with(tmp_path / "ours", config_file, tmp_path)
    assert ours == pytest.approx(theirs, rel=1e-4)
