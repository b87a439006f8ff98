"""Writes tests/golden/peft_adapters/: folders as PEFT's save_pretrained() leaves them, and what PEFT computes with them.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, on a CPU, in fp32:

    python tests/golden/make_peft_adapters.py

<case>/adapter_config.json and adapter_model.safetensors are PEFT's own; base_model_name_or_path is the base's folder in
tests/golden. <case>/logits.safetensors holds `tokens` [B, T] int32 and `logits` [B, T, V]. "experts" is named by hand
as transformers 4 had PEFT save the adapters of experts, one by one; its logits are what PEFT makes of that.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "peft_adapters"
sys.path.insert(0, str(HERE.parent))
from peft_oracle import TOKENS, load_adapter, logits, make_adapter  # noqa: E402

RANK = {"r": 2, "lora_alpha": 4}
TWO = {**RANK, "target_modules": ["q_proj", "down_proj"]}

# name: (base, LoraConfig's settings)
CASES = {
    "lora": ("llama/llama2", TWO),
    "dora": ("llama/llama2", {**TWO, "use_dora": True}),
    "rslora": ("llama/llama2", {**TWO, "use_rslora": True, "rank_pattern": {"down_proj": 3}}),
    "patterns": (
        "llama/llama2",
        {**TWO, "rank_pattern": {r"layers\.1\..*": 3, "q_proj": 1}, "alpha_pattern": {"^model.layers.0.*q_proj": 7}},
    ),
    "regex": ("llama/llama2", {**RANK, "target_modules": r".*\.1\.(self_attn|mlp)\.(?!k_)(q|k|gate)_proj"}),
    "layer": ("llama/llama32", {**TWO, "layers_to_transform": [1], "layers_pattern": "layers",
                                "exclude_modules": ["mlp.down_proj"]}),
    "embedding": ("llama/llama2", {**RANK, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "saved": ("llama/llama2", {**RANK, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
    "biases": ("llama/biases", {**RANK, "target_modules": ["q_proj"], "bias": "all"}),
    "tied": ("llama/llama32", {**RANK, "target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "tied_saved": (
        "llama/llama32",
        {**RANK, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "phi3": ("families/phi3", {**RANK, "target_modules": ["qkv_proj", "gate_up_proj"]}),
    "gemma3": ("families/gemma3", {**RANK, "target_modules": r".*language_model.*\.1\..*q_proj"}),
}  # fmt: skip
EXPERTS = "families/mixtral"


def write_experts(folder):
    base = HERE / EXPERTS
    config = json.loads((base / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    torch.manual_seed(3)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for expert in range(config["num_local_experts"]):
            for name, out, into in (("w1", inner, hidden), ("w2", hidden, inner), ("w3", inner, hidden)):
                stem = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(2, into)
                tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(out, 2)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": ["w1", "w2", "w3"], **RANK}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def make_case(name):
    folder = OUT / name
    folder.mkdir()
    base = EXPERTS if name == "experts" else CASES[name][0]
    if name == "experts":
        write_experts(folder)
        expected = logits(load_adapter(HERE / base, folder))
    else:
        expected = logits(make_adapter(HERE / base, folder, CASES[name][1]))
        (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base}
    path.write_text(json.dumps(config, indent=2) + "\n")
    stored = load_file(folder / "adapter_model.safetensors")
    save_file({"tokens": torch.tensor(TOKENS, dtype=torch.int32), "logits": expected}, folder / "logits.safetensors")
    print(name, len(stored), sum(file.stat().st_size for file in folder.iterdir()))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for name in [*CASES, "experts"]:
        make_case(name)


if __name__ == "__main__":
    main()
