"""What methods of Temper's own leave, as mlx-lm loads it: plain adapters, or a refusal rather than another model.

DoRA and adapters on embedding and head train beside mlx-lm live in test_training.py.
Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import json
import pathlib
import random
import shutil
import sys

import mlx.core as mx
import pytest
import yaml
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from test_training import (  # noqa: E402
    BASE_CONFIG,
    adapter,
    assert_same_with,
    completion_row,
    temper,
    write_data,
)
from tiny_model import ROOT, copy_fixture, word, write_tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_mlx")

LORA = {"keys": ["self_attn.q_proj", "mlp.down_proj"], "rank": 3, "alpha": 6, "dropout": 0.0}
METHODS = {
    "rslora": {"lora_parameters": {**LORA, "use_rslora": True}},
    "lora_plus": {"lora_parameters": {**LORA, "lr_ratio": 8}},
    "pissa": {"lora_parameters": {**LORA, "init": "pissa"}},
    "pissa_niter": {"lora_parameters": {**LORA, "init": "pissa_niter_4"}},
    "weights_by_layer": {"lora_parameters": {**LORA, "layers": [{"match": "*.q_proj", "scale": 7.5}]}},
    "neftune": {"lora_parameters": LORA, "neftune_alpha": 5},
}
BESIDE = {"train_norms": True, "trainable_modules": ["embed_tokens"], "lora_parameters": LORA}


def train(tmp_path, model, changes, row=completion_row):
    write_data(tmp_path / "data", row)
    config = {**BASE_CONFIG, "iters": 10, "learning_rate": 5e-3, "max_seq_length": 48, **changes}
    config |= {"model": str(model), "data": str(tmp_path / "data")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    temper("train", "--config", path, "--run-dir", run, "--cache-dir", tmp_path / "cache")
    losses = [e["loss"] for e in map(json.loads, (run / "events.jsonl").open()) if e["type"] == "eval"]
    assert losses[-1] < losses[0]
    theirs = {k: v for k, v in config.items() if k not in ("train_norms", "trainable_modules", "neftune_alpha")}
    theirs_path = tmp_path / "theirs.yaml"
    theirs_path.write_text(yaml.safe_dump(theirs))
    return run, theirs_path


@pytest.mark.parametrize("name", METHODS)
def test_mlx_lm_loads_what_the_method_leaves(tmp_path, name):
    run, config = train(tmp_path, copy_fixture("llama32", tmp_path), METHODS[name])
    assert_same_with(run, config, tmp_path)


def test_mlx_lm_refuses_weights_beside_an_adapter(tmp_path):
    """It would be another model without them."""
    folder = copy_fixture("llama32", tmp_path)
    run, _ = train(tmp_path, folder, BESIDE)
    model, _ = load_model(folder)
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight: not an adapter parameter"):
        load_adapters(model, str(run))


def test_adapters_of_experts_are_those_of_mlx_lm(tmp_path):
    folder = tmp_path / "qwen3_moe"
    shutil.copytree(ROOT / "tests" / "golden" / "families" / "qwen3_moe", folder)
    weights = mx.load(str(folder / "model.safetensors"))  # mlx-lm multiplies experts on a CPU in fp32 only
    mx.save_safetensors(
        str(folder / "model.safetensors"), {n: w.astype(mx.float32) for n, w in weights.items()}, {"format": "pt"}
    )
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    write_tokenizer(folder, stops=True, size=vocab)

    def row(rng: random.Random):
        return {key: " ".join(word(rng.randrange(6, vocab)) for _ in range(rng.randint(2, 12)))
                for key in ("prompt", "completion")}  # fmt: skip

    keys = adapter("self_attn.q_proj", "mlp.switch_mlp.gate_proj", "mlp.switch_mlp.down_proj")
    run, config = train(tmp_path, folder, {"lora_parameters": keys}, row)
    saved = mx.load(str(run / "adapters.safetensors"))
    assert any(name.endswith("switch_mlp.down_proj.lora_b") and array.ndim == 3 for name, array in saved.items())
    assert_same_with(run, config, tmp_path, vocab)
