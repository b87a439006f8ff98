"""Every family beside mlx-lm, live, on the fixture models: loss, greedy tokens, adapters both ways.

Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.datasets import CacheDataset, load_dataset
from mlx_lm.tuner.trainer import evaluate
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model, load_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from greedy import mlx_lm_greedy  # noqa: E402
from tiny_model import ROOT, TEMPER, copy_fixture, word, write_tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_mlx")

TRUNCATED_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": True}
NO_WINDOW = {"sliding_window": None}
# What to change in config.json so that mlx-lm computes what transformers does. Left out altogether are
#   gemma3_text_new  mlx-lm reads neither layer_types nor rope_parameters
#   gpt_oss          nor experts that are not mxfp4
#   qwen3_5_text     nor this model_type
#   lfm2_bias        nor an LFM2 head that is not tied
CASES = {
    "qwen2": {},
    "qwen2_tied": {"use_sliding_window": False},  # no windows in mlx-lm
    "qwen3": {},
    "qwen3_yarn": {},
    "gemma2": {"sliding_window": 128},  # no windows
    "gemma3_text": {},
    "gemma3": {"vocab_size": 96},  # there, not in text_config, it looks for it
    "phi3": {"original_max_position_embeddings": 2},  # it takes the long factors for texts of any length
    "phi3_su": {"original_max_position_embeddings": 2, **NO_WINDOW},
    "phi3_plain": NO_WINDOW,
    "lfm2": {},
    "smollm3": {},
    "olmo2": {},
    "granite": {},
    "mixtral": {},
    "mixtral_window": NO_WINDOW,
    "qwen3_moe": {},
    "qwen3_moe_sparse": {},
    "gpt_oss_mxfp4": {"swiglu_limit": 7.0, "rope_scaling": TRUNCATED_YARN},  # the only limit, and yarn, that it has
    "qwen3_5": {},
    "qwen3_5_moe": {},
}
TOLERANCE = {name: 1e-3 for name in ("gemma2", "gemma3_text", "gemma3")}  # it rounds sqrt(hidden_size) to bf16
ADAPTED = {  # and the layers to adapt, beside attention's
    "mixtral": ["block_sparse_moe.switch_mlp.gate_proj", "block_sparse_moe.switch_mlp.down_proj"],
    "qwen3_moe": ["mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"],
    "lfm2": ["conv.in_proj", "conv.out_proj", "feed_forward.w1"],
    "gemma3": ["mlp.gate_proj"],
    "qwen3_5": ["linear_attn.in_proj_qkv", "linear_attn.out_proj", "mlp.down_proj"],
    "gpt_oss_mxfp4": ["mlp.experts.gate_proj", "mlp.experts.down_proj"],
}
MAX_SEQ_LENGTH = 64


def to_float32(array):
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


@pytest.fixture
def family_model(tmp_path):
    """In fp32: mlx-lm's loader adds 1 to Qwen3.5's norms in the dtype they are stored in."""

    def make(name):
        folder = copy_fixture(name, tmp_path, fixtures=ROOT / "tests" / "golden" / "families")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | CASES[name]))
        weights = mx.load(str(folder / "model.safetensors"))
        mx.save_safetensors(str(folder / "model.safetensors"), {k: to_float32(v) for k, v in weights.items()})
        return folder

    return make


def load_mlx_lm(folder):
    model, _ = load_model(folder)
    model.apply(to_float32)
    return model


def temper(*arguments):
    done = subprocess.run(
        [TEMPER, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MLX_DISABLE_COMPILE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def words(rng, count):
    return " ".join(word(rng.randrange(4, 92)) for _ in range(count))


def write_data(folder):
    rng = random.Random(3)
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 24), ("valid", 4), ("test", 13)):
        rows = ({"text": words(rng, rng.randint(3, 60))} for _ in range(count))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mlx_lm_loss(model, data):
    args = argparse.Namespace(data=str(data), train=False, test=True, mask_prompt=False, hf_dataset=False)
    tokenizer = data.parent / "tokenizer"  # beside no config.json: by model_type, transformers makes it another one
    tokenizer.mkdir(exist_ok=True)
    write_tokenizer(tokenizer, stops=True)
    _, _, test = load_dataset(args, load_tokenizer(tokenizer))
    return evaluate(model, CacheDataset(test), batch_size=4, num_batches=-1, max_seq_length=MAX_SEQ_LENGTH)


def temper_loss(folder, data, *flags):
    found = temper("eval", "--model", folder, "--data", data, "--compat", "mlx-lm", "--max-seq-length",
                   MAX_SEQ_LENGTH, "--cache-dir", data.parent / "cache", *flags)  # fmt: skip
    return found["loss"]


@pytest.mark.parametrize("name", CASES)
def test_loss_and_greedy_tokens_are_those_of_mlx_lm(family_model, tmp_path, name):
    folder = family_model(name)
    data = write_data(tmp_path / "data")
    model = load_mlx_lm(folder)
    assert temper_loss(folder, data) == pytest.approx(mlx_lm_loss(model, data), rel=TOLERANCE.get(name, 1e-5))

    rng = random.Random(name)
    for length in (3, 7, 30):
        prompt = [rng.randrange(4, 92) for _ in range(length)]
        found = temper("generate", "--model", folder, "--raw", "--max-tokens", 20, "--prefill-chunk", 8,
                       "--prompt", " ".join(map(word, prompt)))  # fmt: skip
        assert found["token_ids"] == mlx_lm_greedy(model, prompt, 20)


@pytest.mark.parametrize("name", CASES)
def test_folders_that_mlx_lm_wrote_load(family_model, tmp_path, name):
    folder = family_model(name)
    data = write_data(tmp_path / "data")
    before = temper_loss(folder, data)
    weights = dict(tree_flatten(load_mlx_lm(folder).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    assert temper_loss(folder, data) == pytest.approx(before, rel=1e-6)


def attention_keys(name):
    return ["self_attn.q_proj", "self_attn.v_proj", *ADAPTED[name]]


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_of_temper_load_in_mlx_lm(family_model, tmp_path, name):
    folder = family_model(name)
    data = write_data(tmp_path / "data")
    run = tmp_path / "run"
    parameters = json.dumps({"keys": attention_keys(name), "rank": 4, "scale": 4.0, "dropout": 0.0})
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {folder}\ndata: {data}\ntrain: true\nnum_layers: -1\nbatch_size: 4\niters: 12\n"
        f"learning_rate: 5.0e-3\nmax_seq_length: {MAX_SEQ_LENGTH}\nlora_parameters: {parameters}\n"
    )
    temper("train", "--config", config, "--run-dir", run, "--cache-dir", tmp_path / "cache")

    before = temper_loss(folder, data)
    after = temper_loss(folder, data, "--adapter", run)
    assert abs(after - before) > 1e-3  # a loss that the adapter does not move would say little
    model = load_mlx_lm(folder)
    load_adapters(model, str(run))
    model.eval()
    assert after == pytest.approx(mlx_lm_loss(model, data), rel=TOLERANCE.get(name, 1e-5))


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_of_mlx_lm_load_in_temper(family_model, tmp_path, name):
    folder = family_model(name)
    data = write_data(tmp_path / "data")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    parameters = {"keys": attention_keys(name), "rank": 4, "scale": 4.0, "dropout": 0.0}
    model = load_mlx_lm(folder)
    before = mlx_lm_loss(model, data)
    model.freeze()
    mx.random.seed(5)
    linear_to_lora_layers(model, 2, parameters)
    factors = {n: 0.1 * mx.random.normal(a.shape) for n, a in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(adapter / "adapters.safetensors"), factors)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    model = load_mlx_lm(folder)
    load_adapters(model, str(adapter))
    model.eval()
    expected = mlx_lm_loss(model, data)
    assert abs(expected - before) > 1e-3
    assert temper_loss(folder, data, "--adapter", adapter) == pytest.approx(expected, rel=TOLERANCE.get(name, 1e-5))
