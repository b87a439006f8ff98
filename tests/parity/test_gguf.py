"""`temper export --to gguf` beside `gguf`, the package of llama.cpp's own: it reads each file, knows its tensors by
name, and packs and unpacks blocks itself.

Needs TEMPER_BINARY, the built program, and gguf (tests/requirements.txt).
"""

import json
import pathlib
import shutil
import subprocess
import sys

import gguf
import mlx.core as mx
import numpy as np
import pytest
import sentencepiece

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import ROOT, TEMPER  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
ARCHS = {
    "llama32": "llama", "biases": "llama", "linear": "llama", "yarn": "llama", "mistral": "llama", "mixtral": "llama",
    "qwen2": "qwen2", "qwen2_tied": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3": "gemma3",
    "gemma3_text": "gemma3", "phi3": "phi3", "phi3_plain": "phi3", "olmo2": "olmo2", "granite": "granite",
    "lfm2": "lfm2", "qwen3_5_text": "qwen35",
}  # fmt: skip
QUANTIZED = {"q8_0": 0.005, "q4_0": 0.11, "q4_1": 0.09, "q5_k_m": 0.04, "q4_k_m": 0.08, "q6_k": 0.03}


def model_folder(name, parent, tokenizer="bytelevel"):
    source = next(GOLDEN / part / name for part in ("llama", "families") if (GOLDEN / part / name).exists())
    skipped = shutil.ignore_patterns("expected*", "peft", "short*", "padded*", "saved_*")
    folder = shutil.copytree(source, parent / name, ignore=skipped)
    for file in (GOLDEN / "text" / tokenizer).iterdir():
        shutil.copy(file, folder)
    return folder


def export(folder, out, *flags):
    done = subprocess.run([TEMPER, "export", "--to", "gguf", "--model", folder, "--out", out, *flags, "--json"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), gguf.GGUFReader(out)


def values(tensor):
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def fields(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def stored(folder):
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(file)).items()}
    return weights


def side_by_side(rows, heads):
    """Feature k of a head beside feature k + half: what rotates neighbours wants of q and k."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def delta_net(name, array, config):
    """Norms with their 1, decays as rates, and value heads that go round the key heads instead of by them."""
    keys, heads, width = (config[f"linear_{k}"] for k in ("num_key_heads", "num_value_heads", "value_head_dim"))
    part = name.partition(".linear_attn.")[2]
    if name.endswith("norm.weight") and part != "norm.weight":
        return name, array + 1
    if not part or part == "norm.weight":
        return name, array
    rows = np.arange(heads if part.startswith(("A_log", "dt_bias", "in_proj_a", "in_proj_b")) else heads * width)
    order = rows.reshape(keys, heads // keys, -1).swapaxes(0, 1).reshape(-1)
    before = 2 * keys * config["linear_key_head_dim"] if part.startswith(("in_proj_qkv", "conv1d")) else 0
    if part.startswith("out_proj"):
        array = array[:, order]
    else:
        array = np.concatenate([array[:before], array[before:][order]])
    if part == "A_log":
        array = -np.exp(array)
    return name.replace("dt_bias", "dt_proj.bias"), array


def expected(folder, arch):
    """The folder's tensors by gguf's own table of names, ordered and shifted as its architecture wants them."""
    config = json.loads((folder / "config.json").read_text())
    config |= config.get("text_config", {})
    number = next(n for n, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    table = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    tensors, experts = {}, {}
    for name, array in stored(folder).items():
        if "rotary_emb" in name or "vision" in name or "multi_modal" in name:
            continue
        name = name.replace("model.language_model.", "model.").replace("language_model.", "")
        if ".experts." in name:
            before, _, after = name.partition(".experts.")
            index, _, leaf = after.partition(".")
            experts.setdefault(f"{before}.experts.{leaf}", {})[int(index)] = array
            continue
        for part, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if f"self_attn.{part}." in name and arch in ("llama", "granite"):
                array = side_by_side(array, config.get(key, config["num_attention_heads"]))
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        if arch == "qwen35":
            name, array = delta_net(name, array, config)
        tensors[name] = array.squeeze(1) if name.endswith(("conv.conv.weight", "conv1d.weight")) else array
    for name, parts in experts.items():
        tensors[name] = np.stack([parts[i] for i in range(len(parts))])
    named = {}
    for name, array in tensors.items():
        theirs = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs, name
        named[theirs] = array
    if arch == "olmo2" and "output.weight" not in named:
        named["output.weight"] = named["token_embd.weight"]
    if config.get("tie_word_embeddings") and arch != "olmo2":
        named.pop("output.weight", None)
    return config, named


@pytest.mark.parametrize("name", ARCHS)
def test_every_tensor_is_there_by_its_name_with_its_values(name, tmp_path):
    arch = ARCHS[name]
    folder = model_folder(name, tmp_path)
    report, reader = export(folder, tmp_path / "m.gguf", "--type", "f32")
    config, named = expected(folder, arch)
    tensors = {t.name: values(t) for t in reader.tensors}
    assert report["architecture"] == arch and report["tensors"] == len(tensors)
    assert {t for t in tensors if not t.startswith("rope_")} == set(named)
    for tensor, array in named.items():
        folded = arch == "gemma2" and "attn_q" in tensor or arch == "gemma3" and "attn_q_norm" in tensor
        if folded:  # llama.cpp's own scale of the scores is 1 / sqrt(head_dim)
            array = array * np.float32(np.sqrt(config["head_dim"] / config.get("query_pre_attn_scalar", 256)))
        rounded = folded or tensor.endswith("ssm_a")
        np.testing.assert_allclose(tensors[tensor], array, rtol=1e-6 if rounded else 0, atol=0, err_msg=tensor)
    metadata = fields(reader)
    assert metadata["general.architecture"] == arch
    for key, wanted in (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"),
                        ("attention.head_count", "num_attention_heads"), ("vocab_size", "vocab_size"),
                        ("context_length", "max_position_embeddings")):  # fmt: skip
        assert metadata[f"{arch}.{key}"] == config.get(wanted, metadata[f"{arch}.{key}"]), key


def test_rope_is_described(tmp_path):
    def export_of(name):
        _, reader = export(model_folder(name, tmp_path), tmp_path / f"{name}.gguf")
        return fields(reader), {t.name: values(t) for t in reader.tensors}

    metadata, _ = export_of("yarn")
    assert metadata["llama.rope.scaling.type"] == "yarn" and metadata["llama.rope.scaling.factor"] == 4.0
    metadata, _ = export_of("linear")
    assert metadata["llama.rope.scaling.type"] == "linear"
    metadata, tensors = export_of("llama32")
    factors = tensors.get("rope_freqs.weight")
    rope = json.loads((tmp_path / "llama32" / "config.json").read_text())
    rope = rope.get("rope_parameters") or rope.get("rope_scaling")
    if rope and (rope.get("rope_type") == "llama3"):
        assert factors[0] == 1.0 and np.isclose(factors[-1], rope["factor"])
    metadata, tensors = export_of("phi3")
    config = json.loads((tmp_path / "phi3" / "config.json").read_text())
    long = (config.get("rope_scaling") or config["rope_parameters"])["long_factor"]
    np.testing.assert_allclose(tensors["rope_factors_long.weight"], long, rtol=1e-6)
    metadata, _ = export_of("gemma3_text")
    assert metadata["gemma3.attention.sliding_window"] == 8
    assert metadata["gemma3.attention.sliding_window_pattern"].count(False) < 4


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A Llama of nine layers whose rows are whole blocks of 256."""
    folder = model_folder("llama2", tmp_path_factory.mktemp("wide"))
    config = json.loads((folder / "config.json").read_text())
    config |= dict(hidden_size=256, intermediate_size=512, num_hidden_layers=9, num_attention_heads=4,
                   num_key_value_heads=2, head_dim=64, tie_word_embeddings=False)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(3)
    weights = {"model.embed_tokens": (config["vocab_size"], 256), "lm_head": (config["vocab_size"], 256),
               "model.norm": (256,)}  # fmt: skip
    for i in range(9):
        p = f"model.layers.{i}."
        weights |= {p + "input_layernorm": (256,), p + "post_attention_layernorm": (256,),
                    p + "self_attn.q_proj": (256, 256), p + "self_attn.k_proj": (128, 256),
                    p + "self_attn.v_proj": (128, 256), p + "self_attn.o_proj": (256, 256),
                    p + "mlp.gate_proj": (512, 256), p + "mlp.up_proj": (512, 256),
                    p + "mlp.down_proj": (256, 512)}  # fmt: skip
    arrays = {f"{name}.weight": mx.random.normal(shape) for name, shape in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_are_those_of_ggml(kind, wide, tmp_path):
    _, whole = export(wide, tmp_path / "whole.gguf", "--type", "f32")
    _, packed = export(wide, tmp_path / "packed.gguf", "--type", kind)
    exact = {t.name: values(t) for t in whole.tensors}
    for tensor in packed.tensors:
        wanted = exact[tensor.name]
        error = np.abs(values(tensor).reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()
        assert error <= (0 if wanted.ndim == 1 else QUANTIZED[kind]), tensor.name
        try:
            blocks = gguf.quantize(wanted, tensor.tensor_type)
        except NotImplementedError:  # gguf has no quantizer of the K types
            continue
        assert blocks.tobytes() == tensor.data.tobytes(), tensor.name


def test_layers_get_the_bits_that_llama_quantize_gives(wide, tmp_path):
    _, reader = export(wide, tmp_path / "m.gguf", "--type", "q4_k_m")
    types = {t.name: t.tensor_type.name for t in reader.tensors}
    more = [0, 3, 6, 7, 8]  # of nine: the first and last eighth, and every third between
    for i in range(9):
        wanted = "Q6_K" if i in more else "Q4_K"
        assert types[f"blk.{i}.attn_v.weight"] == types[f"blk.{i}.ffn_down.weight"] == wanted, i
        assert types[f"blk.{i}.attn_q.weight"] == types[f"blk.{i}.ffn_up.weight"] == "Q4_K"
    assert types["output.weight"] == "Q6_K" and types["token_embd.weight"] == "Q4_K"
    assert types["output_norm.weight"] == "F32"


def test_rows_that_are_no_whole_blocks_fall_back_and_are_named(tmp_path):
    report, reader = export(model_folder("llama32", tmp_path), tmp_path / "m.gguf", "--type", "q4_k_m")
    types = {t.name: t.tensor_type.name for t in reader.tensors}
    # Rows of 64 are blocks of 32, rows of 48 no blocks at all.
    assert types["blk.0.attn_output.weight"] == "Q5_0" and types["blk.0.attn_q.weight"] == "F16"
    assert {"blk.0.attn_output.weight", "blk.0.attn_q.weight"} <= set(report["fell_back"])


def test_half_precisions_are_rounded_once(wide, tmp_path):
    weight = stored(wide)["model.layers.0.mlp.up_proj.weight"]
    for kind, dtype in (("f16", mx.float16), ("bf16", mx.bfloat16)):
        _, reader = export(wide, tmp_path / f"{kind}.gguf", "--type", kind)
        tensor = next(t for t in reader.tensors if t.name == "blk.0.ffn_up.weight")
        assert np.array_equal(values(tensor), np.array(mx.array(weight).astype(dtype).astype(mx.float32)))


def write_adapter(folder, model, rank=4, scale=3.0, **more):
    rng = np.random.default_rng(1)
    factors, keys = {}, []
    layers = ("self_attn.q_proj", "mlp.down_proj", "linear_attn.in_proj_qkv", "linear_attn.out_proj")
    for name, array in stored(model).items():
        if name.endswith(tuple(f".{layer}.weight" for layer in layers)):
            layer = name.removesuffix(".weight")
            keys.append(layer.partition(".layers.")[2].partition(".")[2])
            factors[f"{layer}.lora_a"] = rng.standard_normal((array.shape[1], rank)).astype(np.float32)
            factors[f"{layer}.lora_b"] = rng.standard_normal((rank, array.shape[0])).astype(np.float32)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), {n: mx.array(a) for n, a in factors.items()})
    config = {"fine_tune_type": "lora", "num_layers": -1,
              "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": sorted(set(keys))}} | more  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return factors


def test_an_adapter_is_merged_or_written_alone(tmp_path):
    model = model_folder("llama32", tmp_path)
    factors = write_adapter(tmp_path / "adapter", model)
    weights = stored(model)
    layer = "model.layers.1.self_attn.q_proj"
    delta = 3.0 * (factors[f"{layer}.lora_a"] @ factors[f"{layer}.lora_b"]).T

    _, merged = export(model, tmp_path / "m.gguf", "--type", "f32", "--adapter", tmp_path / "adapter")
    tensor = next(t for t in merged.tensors if t.name == "blk.1.attn_q.weight")
    wanted = side_by_side(weights[f"{layer}.weight"] + delta, 4)
    np.testing.assert_allclose(values(tensor), wanted, rtol=1e-5, atol=1e-5)

    _, alone = export(model, tmp_path / "a.gguf", "--type", "f32", "--adapter", tmp_path / "adapter",
                      "--adapter-only")  # fmt: skip
    metadata = fields(alone)
    assert metadata["general.type"] == "adapter" and metadata["adapter.type"] == "lora"
    assert metadata["adapter.lora.alpha"] == 12.0
    tensors = {t.name: values(t) for t in alone.tensors}
    assert len(tensors) == len(factors)
    a, b = tensors["blk.1.attn_q.weight.lora_a"], tensors["blk.1.attn_q.weight.lora_b"]
    scale = metadata["adapter.lora.alpha"] / b.shape[1]
    np.testing.assert_allclose(scale * b @ a, side_by_side(delta, 4), rtol=1e-4, atol=1e-4)


def test_a_byte_level_tokenizer(tmp_path):
    folder = model_folder("llama2", tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    _, reader = export(folder, tmp_path / "m.gguf")
    metadata = fields(reader)
    by_id = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    special = {token["id"] for token in tokenizer["added_tokens"]}
    rows = metadata["llama.vocab_size"]
    assert metadata["tokenizer.ggml.model"] == "gpt2" and metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert len(metadata["tokenizer.ggml.tokens"]) == rows
    assert all(metadata["tokenizer.ggml.tokens"][i] == token for token, i in by_id if i < rows)
    assert all((metadata["tokenizer.ggml.token_type"][i] == 3) == (i in special) for i in range(rows))
    assert metadata["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    assert metadata["tokenizer.ggml.add_bos_token"] is True and metadata["tokenizer.ggml.bos_token_id"] == 0
    assert "<|eot_id|>" in metadata["tokenizer.chat_template"]
    embedded = json.loads(metadata["tokenizer.huggingface.json"])
    assert embedded["model"]["vocab"] == tokenizer["model"]["vocab"]


def test_sentencepiece_merges_in_the_order_of_its_scores(tmp_path):
    folder = model_folder("llama2", tmp_path, tokenizer="spm_bpe")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    config = json.loads((folder / "config.json").read_text())
    size = pieces.GetPieceSize()
    config["vocab_size"] = size
    (folder / "config.json").write_text(json.dumps(config))
    weights = stored(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = np.resize(weights[name], (size, weights[name].shape[1]))
    mx.save_safetensors(str(folder / "model.safetensors"), {n: mx.array(a) for n, a in weights.items()})
    _, reader = export(folder, tmp_path / "m.gguf")
    metadata = fields(reader)
    assert metadata["tokenizer.ggml.model"] == "llama"
    ids = [i for i in range(size) if metadata["tokenizer.ggml.token_type"][i] == 1]
    assert all(metadata["tokenizer.ggml.tokens"][i] == pieces.IdToPiece(i) for i in ids)
    scores = metadata["tokenizer.ggml.scores"]
    merged = [i for i in ids if scores[i] > -1e8]
    assert len(merged) > 20
    assert sorted(merged, key=lambda i: -scores[i]) == sorted(merged, key=lambda i: -pieces.GetScore(i))
    types = metadata["tokenizer.ggml.token_type"]
    assert all((types[i] == 6) == pieces.IsByte(i) for i in range(size))


def test_a_modelfile_holds_the_template_and_the_stop_tokens(tmp_path):
    report, _ = export(model_folder("llama2", tmp_path), tmp_path / "m.gguf", "--modelfile")
    text = (tmp_path / "m.Modelfile").read_text()
    assert report["modelfile"] == str(tmp_path / "m.Modelfile")
    assert text.startswith("FROM ./m.gguf\n")
    assert 'PARAMETER stop "<|eot_id|>"' in text
    assert '{{ if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>\n\n{{ .Content }}<|eot_id|>' in text
