"""`temper fuse` beside mlx-lm, live: the fused folder answers there as base and adapter do, in the hub's layout.

Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import json
import random

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from test_families import (  # noqa: F401: family_model is a fixture
    family_model,
    load_mlx_lm,
    mlx_lm_loss,
    temper,
    temper_loss,
    words,
    write_data,
)
from tiny_model import FIXTURES, copy_fixture

pytestmark = pytest.mark.usefixtures("quick_mlx")

ATTENTION = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj"]
MLP = ["mlp.gate_proj", "mlp.down_proj"]
# name: (layers to adapt, whether by DoRA)
CASES = {
    "llama2": (["self_attn.q_proj", "self_attn.k_proj", *MLP], False),
    "llama2 dora": ([*ATTENTION, *MLP], True),
    "llama32": ([*ATTENTION, *MLP], False),
    "qwen2_tied": ([*ATTENTION, *MLP], False),
    "phi3": (["self_attn.qkv_proj", "mlp.gate_up_proj"], True),
    "gemma3": ([*ATTENTION, *MLP], False),
    "lfm2": (["conv.in_proj", "conv.out_proj", "feed_forward.w1"], False),
    "mixtral": ([*ATTENTION, "block_sparse_moe.switch_mlp.gate_proj", "block_sparse_moe.switch_mlp.down_proj"], False),
    "qwen3_moe": ([*ATTENTION, "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"], False),
    "qwen3_5": (["linear_attn.in_proj_qkv", "linear_attn.out_proj", "mlp.down_proj"], False),
    "qwen3_5_moe": (["linear_attn.out_proj", "mlp.switch_mlp.gate_proj", "mlp.shared_expert.up_proj"], False),
    "gpt_oss_mxfp4": (["self_attn.q_proj", "mlp.experts.gate_proj", "mlp.experts.down_proj"], False),
}
TOKENS = mx.array([[5, 17, 80, 33, 6, 9, 41, 60, 22, 7, 88, 12]])


@pytest.fixture
def base(family_model, tmp_path):  # noqa: F811
    def make(case):
        name = case.split()[0]
        return copy_fixture(name, tmp_path) if (FIXTURES / name).exists() else family_model(name)

    return make


def write_adapter(folder, model, keys, dora):
    """As mlx-lm lays it out, every factor alive; a magnitude near where DoRA starts."""
    folder.mkdir()
    parameters = {"keys": keys, "rank": 4, "scale": 4.0, "dropout": 0.0}
    model.freeze()
    mx.random.seed(5)
    linear_to_lora_layers(model, 2, parameters, use_dora=dora)
    factors = {}
    for name, array in tree_flatten(model.trainable_parameters()):
        noise = 0.1 * mx.random.normal(array.shape)
        factors[name] = array * (1.0 + noise) if name.endswith(".m") else noise
    mx.save_safetensors(str(folder / "adapters.safetensors"), factors)
    config = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def mlx_lm_logits(folder, adapter=None):
    model = load_mlx_lm(folder)
    if adapter is not None:
        load_adapters(model, str(adapter))
        model.eval()
    return model(TOKENS).astype(mx.float32)


def difference(a, b):
    return mx.max(mx.abs(a - b)).item()


@pytest.mark.parametrize("case", CASES)
def test_a_fused_folder_answers_as_base_and_adapter_do(base, tmp_path, case):
    folder = base(case)
    adapter = write_adapter(tmp_path / "adapter", load_mlx_lm(folder), *CASES[case])
    # mlx-lm reads no gpt-oss of the hub's layout but the quantized
    layout = "mlx" if case == "gpt_oss_mxfp4" else "hub"
    text = words(random.Random(1), 40)
    out = tmp_path / "fused"
    report = temper("fuse", "--model", folder, "--adapter", adapter, "--out", out, "--dtype", "float32",
                    "--layout", layout, "--text", text)  # fmt: skip
    assert report["adapter_difference"]["max"] > 1e-2
    assert report["fused_difference"]["max"] < 1e-4
    assert report["survival"] > 0.999

    expected = mlx_lm_logits(folder, adapter)
    assert difference(expected, mlx_lm_logits(folder)) > 1e-2
    assert difference(mlx_lm_logits(out), expected) < 1e-4

    data = write_data(tmp_path / "data")
    assert temper_loss(out, data) == pytest.approx(temper_loss(folder, data, "--adapter", adapter), rel=1e-5)


@pytest.mark.parametrize(("name", "keep"), [("qwen2_tied", "mlp.down_proj"), ("mixtral", "lm_head")])
def test_quantized_bases_are_fused_unpacked_or_packed_again(family_model, tmp_path, name, keep):  # noqa: F811
    folder, packed = family_model(name), tmp_path / "packed"
    temper("convert", "--model", folder, "--out", packed, "--bits", 4, "--group-size", 32, "--keep", keep)
    adapter = write_adapter(tmp_path / "adapter", load_mlx_lm(packed), *CASES[name])
    report = temper("fuse", "--model", packed, "--adapter", adapter, "--out", tmp_path / "dense", "--dtype", "float32")
    assert report["survival"] > 0.999
    assert "quantization" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert difference(mlx_lm_logits(tmp_path / "dense"), mlx_lm_logits(packed, adapter)) < 1e-4

    again = temper("fuse", "--model", packed, "--adapter", adapter, "--out", tmp_path / "again", "--quantize-again",
                   "--force")  # fmt: skip
    assert again["quantized"]
    assert again["fused_difference"]["max"] > 10 * report["fused_difference"]["max"]
    data = write_data(tmp_path / "data")
    expected = mlx_lm_loss(load_mlx_lm(tmp_path / "again"), data)
    assert temper_loss(tmp_path / "again", data) == pytest.approx(expected, rel=1e-5)
