"""Writes tests/golden/families/: tiny random folders of every model family, with what transformers computes on them.

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0, on a CPU, in fp32, eager attention and experts:

    python tests/golden/make_family_fixtures.py [NAME ...]

Each folder has config.json and safetensors weights as the family's checkpoints on the hub have them (their keys,
tensor names, layouts: experts one by one or stacked, qkv fused, mxfp4 blocks), and `expected.safetensors`:
    input_ids [B, T] int32
    logits    [B, T, V] fp32
    loss      [1]: mean cross-entropy of the next token over B * (T - 1) targets
    grad.NAME: gradient of `loss` in the weight NAME, the checkpoint's name; one for each kind of tensor. (mxfp4:
               the dequantized experts' gradient has the name and layout of an unquantized checkpoint.)
`saved_config.json` is config.json as transformers 5 writes it again: what users' own fine-tuned models have.
`short.safetensors` (phi3) is a text within original_max_position_embeddings, where the short factors hold.
"""

import copy
import json
import pathlib
import re
import shutil
import sys

import torch
import transformers
from family_configs import MODELS
from make_llama_fixtures import forward, save
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent / "families"
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4 = torch.cat([FP4, -FP4])


def text_config(config):
    return config.get("text_config", config)


def find_class(config):
    return getattr(transformers, config["architectures"][0])


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def build(folder, config):
    """The model that transformers makes of `config`, in fp32, its weights to be filled in."""
    write_config(folder, config)
    read = transformers.AutoConfig.from_pretrained(folder)
    read._attn_implementation = "eager"
    read._experts_implementation = "eager"
    return find_class(config)(read).float().eval()


def stored_dtype(name, entry):
    if entry.get("dtype") == "float32" or name.endswith(("A_log", "linear_attn.norm.weight")):
        return torch.float32
    return torch.bfloat16


def fill(model, entry):
    """Random weights, such that what is stored is what is computed with."""
    for name, p in model.named_parameters():
        one_more = entry.get("ones") and "linear_attn.norm" not in name
        if "norm" in name:
            p.normal_(0.0 if one_more else 1.0, 0.2)
        elif name.endswith("A_log"):  # slow decay: what the state holds crosses chunks
            p.uniform_(0.01, 1.0).log_()
        elif name.endswith(("sinks", "dt_bias")):
            p.normal_(0.0, 1.0)
        elif name.endswith("bias"):
            p.normal_(0.0, 0.2)
        elif "conv" in name and p.dim() == 3 and p.shape[1] == 1:
            p.normal_(0.0, 0.5)
        else:
            p.normal_(0.0, entry.get("std", 0.25))
        p.copy_(p.to(stored_dtype(name, entry)).float())


def round_to_mxfp4(model):
    """Replaces experts' weights by ones that mxfp4 holds; returns the blocks and scales by checkpoint name."""
    packed = {}
    for name, p in model.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        experts, inputs, outputs = p.shape
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32))
        scales = torch.randint(123, 126, (experts, outputs, inputs // 32))
        values = FP4[codes] * torch.exp2(scales.float() - 127.0)[..., None]
        p.copy_(values.flatten(-2).transpose(1, 2))
        packed[name + "_blocks"] = (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
        packed[name + "_scales"] = scales.to(torch.uint8)
    return packed


def unstack(prefix, stacked, names):
    """{prefix}{e}.{name}.weight of [E, ...], the second axis shared by `names`."""
    return {
        f"{prefix}{e}.{name}.weight": part.clone()
        for e, expert in enumerate(stacked)
        for name, part in zip(names, expert.chunk(len(names)))
    }


def hub_tensors(model_type, name, tensor):
    """transformers' parameter (or its gradient) as the hub's checkpoints name it and cut it up."""
    experts = re.fullmatch(r"(.*\.)mlp\.experts\.(gate_up_proj|down_proj)", name)
    if model_type == "mixtral":
        if experts:
            parts = {"gate_up_proj": ["w1", "w3"], "down_proj": ["w2"]}[experts[2]]
            return unstack(f"{experts[1]}block_sparse_moe.experts.", tensor, parts)
        return {name.replace(".mlp.", ".block_sparse_moe."): tensor}
    if model_type in ("qwen3_moe", "qwen3_5_moe_text") and experts:
        parts = {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]}[experts[2]]
        return unstack(f"{experts[1]}mlp.experts.", tensor, parts)
    if model_type == "gemma3":
        name = name.replace("model.language_model.", "language_model.model.")
        name = re.sub(r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model.", name)
        name = name.replace("model.multi_modal_projector.", "multi_modal_projector.")
    return {name: tensor}


def hub_state(model_type, named):
    out = {}
    for name, tensor in named:
        out |= hub_tensors(model_type, name, tensor.detach())
    return out


def next_token_predictor(config):
    """Qwen3.5's files carry a layer that predicts one more token; it is no part of the model."""
    width = text_config(config)["hidden_size"]
    vectors = ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden", "layers.0.input_layernorm"]
    return {f"mtp.{n}.weight": torch.randn(width).bfloat16() for n in vectors} | {
        "mtp.fc.weight": torch.randn(width, 2 * width).bfloat16()
    }


def write_weights(folder, model, entry, packed):
    config = entry["config"]
    state = hub_state(config["model_type"], model.named_parameters())
    state = {k: v.to(stored_dtype(k, entry)).contiguous() for k, v in state.items()}
    if packed:
        state = {k: v for k, v in state.items() if k + "_blocks" not in packed} | packed
    if config["model_type"] in ("qwen3_5", "qwen3_5_moe"):
        state |= next_token_predictor(config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def kind_of(name):
    return re.sub(r"(layers|experts)\.\d+\.", r"\1.", name)


def gradients(model, model_type):
    """One gradient for each kind of tensor, spread over the layers; of experts, one that tokens went to."""
    found = ((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)
    kinds = {}
    for name, gradient in hub_state(model_type, found).items():
        kinds.setdefault(kind_of(name), []).append((name, gradient))
    out = {}
    for i, choices in enumerate(kinds.values()):
        choices = [c for c in choices if c[1].abs().max() > 1e-6]
        if choices:
            name, gradient = choices[i % len(choices)]
            out["grad." + name] = gradient.clone()
    return out


def check_reload(folder, entry, expected):
    """The folder, as transformers itself reads it, has every weight and gives the same logits."""
    config = entry["config"]
    more = {}
    if "quantization_config" in config:
        more["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    model, info = find_class(config).from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
        **more,
    )
    assert not info["missing_keys"] and not info["mismatched_keys"], (folder.name, info)
    assert all(k.startswith("mtp.") for k in info["unexpected_keys"]), (folder.name, info)
    logits = model.eval().float()(input_ids=expected["input_ids"].long(), use_cache=False).logits
    difference = (logits - expected["logits"]).abs().max()
    assert difference < 2e-5, (folder.name, difference)


def changed(config, change):
    config = copy.deepcopy(config)
    for key, value in change.items():
        *parents, last = key.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    return config


def check_telling(folder, model, entry, expected):
    """Each feature moves the logits by far more than any test's tolerance."""
    for off in entry["off"]:
        weights = {k.removeprefix("weights: "): v for k, v in off.items() if k.startswith("weights: ")}
        keys = {k: v for k, v in off.items() if not k.startswith("weights: ")}
        other = build(folder, changed(entry["config"], keys))
        other.load_state_dict(model.state_dict())
        for pattern, value in weights.items():
            hit = [p for n, p in other.named_parameters() if re.search(pattern, n)]
            assert hit, (folder.name, pattern)
            for p in hit:
                p.data.fill_(value)
        logits = other(input_ids=expected["input_ids"].long(), use_cache=False).logits
        moved = (logits - expected["logits"]).abs().max().item()
        assert moved > 0.1, (folder.name, off, moved)


def make(name, entry):
    seed = list(MODELS).index(name)
    torch.manual_seed(entry.get("seed", 100 + seed))
    config = entry["config"]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build(folder, config)
    with torch.no_grad():
        fill(model, entry)
        packed = round_to_mxfp4(model) if "quantization_config" in config else {}
    write_weights(folder, model, entry, packed)
    model.config.architectures = config["architectures"]
    model.config.dtype = torch.float32
    (folder / "saved_config.json").write_text(model.config.to_json_string())
    input_ids = torch.randint(4, 92, (2, entry["length"]))
    expected = forward(model, input_ids)
    save(folder / "expected.safetensors", expected | gradients(model, config["model_type"]))
    check_reload(folder, entry, expected)
    check_telling(folder, model, entry, expected)
    write_config(folder, changed(config, entry.get("written", {})))
    if name == "phi3":
        save(folder / "short.safetensors", forward(model, input_ids[:, :20]))
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    spread = expected["logits"].std().item()
    print(f"{name}: loss {expected['loss'].item():.4f}, logits' spread {spread:.2f}, {size} KB")


def main():
    for name in sys.argv[1:] or MODELS:
        make(name, MODELS[name])


if __name__ == "__main__":
    main()
