"""Greedy generation and loss of `temper` beside mlx-lm's, live, on the fixture models.

Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx_lm.tuner.datasets import CacheDataset, load_dataset
from mlx_lm.tuner.trainer import evaluate
from mlx_lm.utils import load_model, load_tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from greedy import mlx_lm_greedy  # noqa: E402
from tiny_model import TEMPER, copy_fixture, word  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    mx.set_default_device(mx.cpu)


def write_older_config(folder):
    """mlx-lm passes over rope_parameters, transformers 5's name for rope_scaling with rope_theta."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if rope := config.pop("rope_parameters", None):
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        path.write_text(json.dumps(config))


@pytest.fixture
def fixture_model(tmp_path):
    return lambda name: copy_fixture(name, tmp_path)


def temper(*arguments):
    done = subprocess.run([TEMPER, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_float32(folder):
    model, _ = load_model(folder)
    model.apply(lambda a: a.astype(mx.float32))
    return model


# mlx-lm knows neither Mistral's window nor the length that dynamic rope depends on.
@pytest.mark.parametrize("name", ["llama2", "llama32", "linear", "yarn", "biases", "sharded", "fp16", "bf16"])
def test_greedy_tokens_are_those_of_mlx_lm(fixture_model, name):
    folder = fixture_model(name)
    rng = random.Random(name)
    for length in (1, 7, 30):
        prompt = [rng.randrange(3, 128) for _ in range(length)]
        found = temper("generate", "--model", folder, "--raw", "--max-tokens", 24, "--prefill-chunk", 8,
                       "--prompt", " ".join(map(word, prompt)))  # fmt: skip
        assert found["prompt_tokens"] == length
        assert found["token_ids"] == mlx_lm_greedy(in_float32(folder), prompt, 24)


def words(rng, count):
    return " ".join(word(rng.randrange(6, 128)) for _ in range(count))


def text_row(rng):
    return {"text": words(rng, rng.randint(1, 40))}


def chat_row(rng):
    turns = []
    for _ in range(rng.randint(1, 3)):
        turns.append({"role": "user", "content": words(rng, rng.randint(1, 9))})
        turns.append({"role": "assistant", "content": words(rng, rng.randint(1, 9))})
    return {"messages": turns}


@pytest.mark.parametrize("row, mask_prompt", [(text_row, False), (chat_row, False), (chat_row, True)])
def test_compat_loss_is_that_of_mlx_lm(fixture_model, tmp_path, row, mask_prompt):
    folder = fixture_model("llama32")
    rng = random.Random(5)
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("".join(json.dumps(row(rng)) + "\n" for _ in range(21)))

    model, _ = load_model(folder)
    model.apply(lambda a: a.astype(mx.float32))
    args = argparse.Namespace(data=str(data), train=False, test=True, mask_prompt=mask_prompt, hf_dataset=False)
    _, _, test = load_dataset(args, load_tokenizer(folder))
    expected = evaluate(model, CacheDataset(test), batch_size=4, num_batches=-1, max_seq_length=64)

    flags = ["--mask-prompt"] if mask_prompt else []
    found = temper("eval", "--model", folder, "--data", data, "--compat", "mlx-lm", "--max-seq-length", 64,
                   "--cache-dir", tmp_path / "cache", *flags)  # fmt: skip
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["split"] == "test"
