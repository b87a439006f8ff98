"""Writes tests/golden/llama/: tiny random Llama and Mistral folders with what transformers computes on them.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, on a CPU, in fp32:

    python tests/golden/make_llama_fixtures.py

Each folder is a Hugging Face model folder (config.json, safetensors) with `expected.safetensors`:
    input_ids [B, T] int32
    logits    [B, T, V] fp32
    loss      [1]: mean cross-entropy of the next token over B * (T - 1) targets
    grad.NAME: gradient of `loss` in the weight NAME (transformers' names)
`padded.safetensors` (llama2) has right-padded rows: also attention_mask and labels [B, T] (-100: not a target;
labels are not shifted: labels[t] is the token at t), logits meaningful where attention_mask is 1.
`short.safetensors` (dynamic) is a text within max_position_embeddings, where dynamic rope changes nothing.
`peft/` (llama32) is a PEFT LoRA adapter with its own expected.safetensors (grad.NAME: PEFT's names).
"""

import json
import pathlib
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

HERE = pathlib.Path(__file__).resolve().parent / "llama"
GRADIENTS = [
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.1.mlp.gate_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.1.mlp.down_proj.bias",
]
BASE = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    attn_implementation="eager",
)


def rope(kind="default", theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
MODELS = {  # name: (class, config over BASE, text length)
    "llama2": (LlamaForCausalLM, dict(num_key_value_heads=4, rope_parameters=rope()), 24),
    "llama32": (
        LlamaForCausalLM,
        dict(
            hidden_size=48,
            head_dim=16,
            num_hidden_layers=3,
            tie_word_embeddings=True,
            max_position_embeddings=256,
            rope_parameters=rope("llama3", 500000.0, **LLAMA3),
        ),
        40,
    ),
    "mistral": (MistralForCausalLM, dict(sliding_window=8, rope_parameters=rope(theta=1000000.0)), 32),
    "linear": (LlamaForCausalLM, dict(rope_parameters=rope("linear", factor=2.0)), 24),
    "dynamic": (
        LlamaForCausalLM,
        dict(max_position_embeddings=32, rope_parameters=rope("dynamic", factor=2.0)),
        48,
    ),
    "yarn": (
        LlamaForCausalLM,
        dict(
            max_position_embeddings=128,
            rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32),
        ),
        40,
    ),
    "yarn_old": (
        LlamaForCausalLM,
        dict(
            max_position_embeddings=64,
            rope_parameters=rope(
                "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=16, beta_slow=2, attention_factor=1.3
            ),
        ),
        40,
    ),
    "biases": (
        LlamaForCausalLM,
        dict(attention_bias=True, mlp_bias=True, rms_norm_eps=0.05, rope_parameters=rope()),
        24,
    ),
    "sharded": (
        LlamaForCausalLM,
        dict(max_position_embeddings=256, rope_parameters=rope("llama3", 500000.0, **LLAMA3)),
        40,
    ),
    "fp16": (LlamaForCausalLM, dict(rope_parameters=rope()), 24),
    "bf16": (LlamaForCausalLM, dict(tie_word_embeddings=True, rope_parameters=rope()), 24),
}


def make_model(kind, overrides, dtype):
    config_class = MistralConfig if kind is MistralForCausalLM else LlamaConfig
    model = kind(config_class(**{**BASE, **overrides})).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.normal_(1.0, 0.2)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.2)
            else:
                p.normal_(0.0, 0.25)
            p.copy_(p.to(dtype).float())  # what is stored is what is computed with
    return model


def forward(model, input_ids, labels=None, attention_mask=None):
    model.zero_grad()
    out = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    targets = (input_ids if labels is None else labels)[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="mean"
    )
    loss.backward()
    found = {"input_ids": input_ids.int(), "logits": out.logits.detach(), "loss": loss.detach().reshape(1)}
    if labels is not None:
        found["labels"] = labels.int()
        found["attention_mask"] = attention_mask.int()
    return found


def gradients(model, names):
    parameters = dict(model.named_parameters())
    return {f"grad.{n}": parameters[n].grad.clone() for n in names if n in parameters}


def save(path, tensors):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def common_config(model, name):
    c = model.config.to_dict()
    keep = ["architectures", "model_type", *BASE, "hidden_act", "attention_bias", "mlp_bias", "sliding_window"]
    out = {k: c[k] for k in keep if k in c and k != "attn_implementation"}
    out["architectures"] = [type(model).__name__]
    if name in ("llama32", "mistral"):
        out["head_dim"] = c["head_dim"]
    return out


def write_config(folder, model, name, dtype):
    """Two key shapes are in the wild: rope_parameters + dtype, and rope_theta + rope_scaling + torch_dtype."""
    config = common_config(model, name)
    parameters = dict(model.config.rope_parameters)
    dtype_name = str(dtype).removeprefix("torch.")
    if name in ("llama32", "dynamic", "yarn", "bf16"):
        config["rope_parameters"] = parameters
        config["dtype"] = dtype_name
    else:
        config["torch_dtype"] = dtype_name
        config["rope_theta"] = parameters.pop("rope_theta")
        config["rope_scaling"] = None
        if name == "linear":  # the oldest spelling
            config["rope_scaling"] = {"type": "linear", "factor": parameters["factor"]}
        elif parameters["rope_type"] != "default":
            config["rope_scaling"] = parameters
    if name == "llama2":  # older files leave out what follows from the rest
        del config["num_key_value_heads"]
        del config["attention_bias"], config["mlp_bias"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_weights(folder, model, name, dtype):
    state = {k: v.to(dtype) for k, v in model.state_dict().items()}
    if name == "sharded":
        with tempfile.TemporaryDirectory() as temporary:
            model.save_pretrained(temporary, max_shard_size="40KB")
            for file in pathlib.Path(temporary).glob("model*"):
                shutil.copy(file, folder)
        assert (folder / "model.safetensors.index.json").exists()
        return
    if name == "llama2":  # the first Llama-2 conversions carry these buffers; loaders ignore them
        for layer in range(model.config.num_hidden_layers):
            inverse = 1.0 / 10000.0 ** (torch.arange(0, 8, 2) / 8)
            state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = inverse
    if name == "llama32":  # tied: transformers leaves the head out ...
        del state["lm_head.weight"]
    if name == "bf16":  # ... and others store it all the same
        state["lm_head.weight"] = state["lm_head.weight"].clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def check_reload(folder, kind, expected):
    """The folder as transformers itself reads it gives the same logits: both key shapes mean what we think."""
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    logits = model(input_ids=expected["input_ids"].long(), use_cache=False).logits
    assert (logits - expected["logits"]).abs().max() < 1e-5, folder


def check_telling(model, kind, name, expected):
    """The feature under test moves the logits by far more than any test's tolerance."""
    plain = dict(MODELS[name][1])
    if name == "mistral":
        plain["sliding_window"] = None
    elif plain["rope_parameters"]["rope_type"] != "default":
        plain["rope_parameters"] = rope(theta=plain["rope_parameters"]["rope_theta"])
    else:
        return
    config_class = MistralConfig if kind is MistralForCausalLM else LlamaConfig
    other = kind(config_class(**{**BASE, **plain})).eval()
    other.load_state_dict(model.state_dict())
    logits = other(input_ids=expected["input_ids"].long(), use_cache=False).logits
    assert (logits - expected["logits"]).abs().max() > 0.1, name


def write_padded(folder, model):
    lengths = [20, 7, 13]
    ids = torch.randint(3, 128, (3, 20))
    mask = torch.stack([(torch.arange(20) < n).long() for n in lengths])
    ids = ids * mask  # padding is token 0
    labels = ids.masked_fill(mask == 0, -100)
    for row, prompt in enumerate([6, 2, 9]):  # prompts are no targets
        labels[row, :prompt] = -100
    expected = forward(model, ids, labels, mask)
    save(folder / "padded.safetensors", {**expected, **gradients(model, GRADIENTS)})


def write_peft(folder, model, input_ids):
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    tuned = get_peft_model(model, config).eval()
    adapters = {n: p for n, p in tuned.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for p in adapters.values():
            p.normal_(0.0, 0.2)
    expected = forward(tuned, input_ids)
    strip = {f"grad.{n.replace('.default', '')}": p.grad.clone() for n, p in adapters.items()}
    base = load_file(folder / "expected.safetensors")["logits"]
    assert (expected["logits"] - base).abs().max() > 0.1
    out = folder / "peft"
    tuned.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    config_file = out / "adapter_config.json"
    written = json.loads(config_file.read_text())
    written["base_model_name_or_path"] = "llama32"
    written["target_modules"] = sorted(written["target_modules"])
    config_file.write_text(json.dumps(written, indent=2) + "\n")
    save(out / "expected.safetensors", {**expected, **strip})


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for seed, (name, (kind, overrides, length)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name, torch.float32)
        model = make_model(kind, overrides, dtype)
        folder = HERE / name
        folder.mkdir(parents=True)
        write_config(folder, model, name, dtype)
        write_weights(folder, model, name, dtype)
        input_ids = torch.randint(3, 128, (2, length))
        expected = forward(model, input_ids)
        save(folder / "expected.safetensors", {**expected, **gradients(model, GRADIENTS)})
        check_reload(folder, kind, expected)
        check_telling(model, kind, name, expected)
        print(f"{name}: loss {expected['loss'].item():.6f}")
        if name == "llama2":
            write_padded(folder, model)
        if name == "dynamic":  # last of this model's: transformers keeps the longest text's frequencies
            fresh = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            save(folder / "short.safetensors", forward(fresh, input_ids[:, :20]))
        if name == "llama32":
            write_peft(folder, model, input_ids)


if __name__ == "__main__":
    main()
