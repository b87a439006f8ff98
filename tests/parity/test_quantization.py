"""Quantized folders of `temper convert` beside mlx-lm's, both ways, live.

Needs TEMPER_BINARY, the built program, and mlx-lm (tests/requirements.txt).
"""

import json
import pathlib
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.convert import convert
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import ROOT, TEMPER, word, write_tokenizer  # noqa: E402

FAMILIES = ROOT / "tests" / "golden" / "families"
AFFINE = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMATS = [*AFFINE, ("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]
RECIPES = ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"]
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128, "hidden_size": 128,
         "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128, "hidden_act": "silu",
         "tie_word_embeddings": False}  # fmt: skip
OTHERS = {
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
                  "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True},
    "granite": {"logits_scaling": 2.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0,
                "residual_multiplier": 0.5, "attention_bias": False, "mlp_bias": False, "rope_scaling": None},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def on_cpu():
    mx.set_default_device(mx.cpu)


def write_model(folder, dtype=mx.float32, **changes):
    """A random model whose tensors are those that mlx-lm would make of this config."""
    from mlx_lm.utils import _get_classes

    config = LLAMA | {"torch_dtype": str(dtype).split(".")[-1]} | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, stops=False)
    model_class, args_class = _get_classes(config)
    mx.random.seed(3)
    model = model_class(args_class.from_dict(config))
    weights = {
        name: (mx.random.normal(array.shape) * 0.3 + ("norm" in name)).astype(dtype)
        for name, array in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def temper(*arguments):
    done = subprocess.run([TEMPER, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tensors_of(folder):
    return {name: array for file in sorted(folder.glob("*.safetensors")) for name, array in mx.load(str(file)).items()}


def formats_of(folder):
    """What mlx-lm packs each layer in."""
    model, _ = load_model(folder)
    return {name: (module.mode, module.bits, module.group_size)
            for name, module in model.named_modules() if hasattr(module, "scales")}  # fmt: skip


def dequantized(folder, dtype=None):
    """Each packed layer's weight, by MLX; from scales of `dtype`, if one is given."""
    tensors = tensors_of(folder)
    found = {}
    for name, (mode, bits, group) in formats_of(folder).items():
        scales, biases = tensors[f"{name}.scales"], tensors.get(f"{name}.biases")
        if dtype is not None and biases is not None:
            scales, biases = scales.astype(dtype), biases.astype(dtype)
        weight = tensors[f"{name}.weight"]
        found[name] = mx.dequantize(weight, scales, biases, group_size=group, bits=bits, mode=mode)
    return found


def greedy(folder, prompt, count=16):
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return [token for token, _ in generate_step(mx.array(prompt), model, max_tokens=count)]


def temper_greedy(folder, prompt, count=16):
    found = temper("generate", "--model", folder, "--raw", "--max-tokens", count, "--prompt", " ".join(map(word, prompt)))
    return found["token_ids"]


PROMPT = [17, 5, 99, 42, 8, 120, 3, 77, 31]


@pytest.mark.parametrize("mode,bits,group", FORMATS)
def test_what_temper_packs_mlx_lm_loads_with_equal_values(tmp_path, mode, bits, group):
    source = write_model(tmp_path / "m", mx.bfloat16)
    temper("convert", "--model", source, "--out", tmp_path / "q", "--mode", mode, "--bits", bits, "--group-size", group)
    stored = tensors_of(source)
    found = dequantized(tmp_path / "q")
    assert len(found) == 2 * 7 + 2
    for name, weight in found.items():
        packed = mx.quantize(stored[f"{name}.weight"], group_size=group, bits=bits, mode=mode)
        expected = mx.dequantize(*packed, group_size=group, bits=bits, mode=mode)
        assert weight.dtype == mx.bfloat16 and mx.array_equal(weight, expected), name
    assert set(formats_of(tmp_path / "q").values()) == {(mode, bits, group)}
    assert temper_greedy(tmp_path / "q", PROMPT) == greedy(tmp_path / "q", PROMPT)


@pytest.mark.parametrize("mode,bits,group", FORMATS)
def test_what_mlx_lm_packs_temper_loads_with_equal_values(tmp_path, mode, bits, group):
    source = write_model(tmp_path / "m", mx.bfloat16)
    folder = tmp_path / "q"
    convert(str(source), str(folder), quantize=True, q_bits=bits, q_group_size=group, q_mode=mode)
    for dtype in (mx.float32, mx.bfloat16):
        name = str(dtype).split(".")[-1]
        temper("convert", "--model", folder, "--out", tmp_path / name, "--dequantize", "--dtype", name)
        found = tensors_of(tmp_path / name)
        for layer, weight in dequantized(folder, dtype).items():
            assert mx.array_equal(found[f"{layer}.weight"], weight.astype(dtype)), layer
        assert not any(name.endswith(".scales") for name in found)
        assert "quantization" not in json.loads((tmp_path / name / "config.json").read_text())
    assert temper_greedy(folder, PROMPT) == greedy(folder, PROMPT)


def converted_by_both(tmp_path, source, flags, **options):
    temper("convert", "--model", source, "--out", tmp_path / "ours", *flags)
    convert(str(source), str(tmp_path / "theirs"), quantize=True, **options)
    ours, theirs = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "theirs")
    assert formats_of(tmp_path / "ours") == formats_of(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert array.dtype == ours[name].dtype and mx.array_equal(array, ours[name]), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_those_of_mlx_lm(tmp_path, recipe):
    source = write_model(tmp_path / "m", num_hidden_layers=9)
    converted_by_both(tmp_path, source, ["--recipe", recipe], quant_predicate=recipe, q_group_size=64)


@pytest.mark.parametrize("model_type", OTHERS)
@pytest.mark.parametrize("mode", ["affine", "nvfp4"])
def test_sensitive_layers_are_those_of_mlx_lm(tmp_path, model_type, mode):
    source = write_model(tmp_path / "m", model_type=model_type, **OTHERS[model_type])
    converted_by_both(tmp_path, source, ["--mode", mode], q_mode=mode)
    assert temper_greedy(tmp_path / "ours", PROMPT) == greedy(tmp_path / "ours", PROMPT)


def test_packed_layers_stay_when_the_rest_is_packed(tmp_path):
    """As mlx-lm does with gpt-oss: experts come in mxfp4, the rest is packed as asked."""
    source = tmp_path / "m"
    source.mkdir()
    for file in ("config.json", "model.safetensors"):
        (source / file).write_bytes((FAMILIES / "gpt_oss_mxfp4" / file).read_bytes())
    write_tokenizer(source, stops=False)
    temper("convert", "--model", source, "--out", tmp_path / "ours", "--bits", 4, "--group-size", 32)
    found = formats_of(tmp_path / "ours")
    experts = {name for name in found if ".experts." in name}
    assert len(experts) == 6 and {found[name] for name in experts} == {("mxfp4", 4, 32)}
    assert {found[name] for name in found if name.endswith("_proj") and name not in experts} == {("affine", 4, 32)}
    again = temper("convert", "--model", tmp_path / "ours", "--out", tmp_path / "again")
    assert again["bits_per_weight"] == again["bits_per_weight_before"]
    assert formats_of(tmp_path / "again") == found


UNPACKED = ["gemma2", "gemma3_text", "gpt_oss_mxfp4", "granite", "lfm2", "mixtral", "olmo2", "phi3", "qwen2_tied",
            "qwen3", "qwen3_moe", "smollm3"]  # fmt: skip


@pytest.mark.parametrize("name", UNPACKED)
def test_a_converted_family_computes_in_mlx_lm_as_the_original(tmp_path, name):
    temper("convert", "--model", FAMILIES / name, "--out", tmp_path / "q", "--dtype", "float32")
    tokens = mx.array([PROMPT]) % 96
    logits = []
    for folder in (FAMILIES / name, tmp_path / "q"):
        model, _ = load_model(folder)
        model.set_dtype(mx.float32)
        logits.append(model(tokens))
    assert mx.array_equal(*logits)
