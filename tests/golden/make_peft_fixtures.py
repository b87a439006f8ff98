"""Writes tests/golden/peft/: each training method as PEFT computes it, over the models of tests/golden/llama.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, on a CPU, in fp32:

    python tests/golden/make_peft_fixtures.py

cases.json says of each case: base (the model's folder in tests/golden/llama), PEFT's settings, and the
optimizer's settings. <case>.safetensors holds, with factors named and laid out as mlx-lm does (PEFT's transposed):
    input_ids      [B, T] int32
    start.NAME     the trained parameters before the first step
    logits         [B, T, V]: at the start
    grad.NAME      gradient of the first loss, the mean cross-entropy over B * (T - 1) targets
    losses         [6]: before each of five steps, and after the last
    end.NAME       the trained parameters after five steps (tensors of more than 2,000 elements: their first 2,000)
Cases of PiSSA also have `product.NAME`, B A of layer NAME at the start ([O, I]), and saved.NAME: the plain LoRA that
PEFT's save_pretrained makes of it after training, with rank and scale in cases.json.
"""

import json
import pathlib
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "peft"
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAM = dict(name="adamw", lr=1e-2, eps=1e-4, weight_decay=0.05)
SGD = dict(name="sgd", lr=0.2, weight_decay=0.0)
KEPT = 2000

# name: (base, LoraConfig's arguments or None for full, optimizer, LoRA+ ratio)
CASES = {
    "lora": ("llama2", dict(r=4, lora_alpha=8, target_modules=LINEARS), ADAM, None),
    "dora": ("llama2", dict(r=3, lora_alpha=6, target_modules=LINEARS, use_dora=True), ADAM, None),
    "dora_bias": ("biases", dict(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_dora=True), SGD, None),
    "rslora": ("llama2", dict(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], use_rslora=True), ADAM, None),
    "lora_plus": ("llama2", dict(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"]), ADAM, 4.0),
    "patterns": (
        "llama2",
        dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"],
             rank_pattern={"down_proj": 4}, alpha_pattern={"layers.1.self_attn.q_proj": 10}),
        ADAM, None,
    ),
    "pissa": ("llama2", dict(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa"),
              ADAM, None),
    "embed_head": (
        "llama2",
        dict(r=3, lora_alpha=6, target_modules=["q_proj", "embed_tokens", "lm_head"]),
        ADAM, None,
    ),
    "modules_to_save": (
        "llama2", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        ADAM, None,
    ),
    "norms_biases": (
        "biases",
        dict(r=2, lora_alpha=4, target_modules=["q_proj"], bias="all",
             modules_to_save=["input_layernorm", "post_attention_layernorm", "norm"]),
        ADAM, None,
    ),
    "last_1": ("llama32", dict(r=3, lora_alpha=6, target_modules=LINEARS, layers_to_transform=[2]), ADAM, None),
    "full": ("llama2", None, dict(ADAM, lr=1e-3), None),
}  # fmt: skip


def plain_name(name):
    """PEFT's parameter name -> (mlx-lm's, whether the tensor is transposed)."""
    name = name.removeprefix("base_model.model.")
    for theirs, ours, turned in (
        (".lora_A.default.weight", ".lora_a", True),
        (".lora_B.default.weight", ".lora_b", True),
        (".lora_embedding_A.default", ".lora_a", True),
        (".lora_embedding_B.default", ".lora_b", True),
        (".lora_magnitude_vector.default.weight", ".m", False),
    ):
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours, turned
    return name.replace(".modules_to_save.default", "").replace(".base_layer", ""), False


def as_plain(name, tensor):
    name, turned = plain_name(name)
    return name, (tensor.T if turned else tensor).detach().clone().contiguous()


def trained(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def perturb(parameters):
    """B is not zero and m not the weight's norm, so that every gradient and every part of the forward is alive."""
    with torch.no_grad():
        for name, p in parameters.items():
            if "lora_" in name and "magnitude" not in name:
                p.copy_(p + 0.15 * torch.randn_like(p))
            elif "magnitude" in name:
                p.copy_(p * (1.0 + 0.2 * torch.randn_like(p)))


def make_optimizer(model, parameters, settings, ratio):
    if ratio is not None:
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=settings["lr"], loraplus_lr_ratio=ratio, eps=settings["eps"],
            loraplus_weight_decay=settings["weight_decay"],
        )  # fmt: skip
    if settings["name"] == "sgd":
        return torch.optim.SGD(parameters.values(), lr=settings["lr"])
    decayed = [p for n, p in parameters.items() if p.ndim >= 2]
    others = [p for n, p in parameters.items() if p.ndim < 2]
    groups = [dict(params=decayed), dict(params=others, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=settings["lr"], eps=settings["eps"], weight_decay=settings["weight_decay"])


def forward(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits
    return logits, torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def pissa_start(model):
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight
            found["product." + name.removeprefix("base_model.model.")] = product.detach().clone().contiguous()
    return found


def pissa_saved(model, start):
    """What PEFT writes for other tools: the difference to the start as a LoRA over the original weights."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=start)
        tensors = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
        config = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())
    saved = {}
    for name, tensor in tensors.items():
        name, plain = as_plain(name.replace(".weight", ".default.weight"), tensor)
        saved["saved." + name] = plain
    return saved, dict(rank=config["r"], scale=config["lora_alpha"] / config["r"])


def make_case(name, seed):
    base, adapter, settings, ratio = CASES[name]
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(HERE / "llama" / base, dtype=torch.float32, attn_implementation="eager")
    ids = torch.randint(3, 128, (2, 16))
    tensors = {"input_ids": ids.int()}
    case = dict(base=base, optimizer=settings, lora_plus_ratio=ratio)
    pissa = adapter is not None and "init_lora_weights" in adapter
    if adapter is not None:
        config = LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **adapter)
        model = get_peft_model(model, config)
        case |= dict(
            rank=config.r, alpha=config.lora_alpha, use_rslora=config.use_rslora, pissa=pissa,
            rank_pattern=config.rank_pattern, alpha_pattern=config.alpha_pattern,
        )  # fmt: skip
    model.eval()
    parameters = trained(model)
    start_folder = tempfile.TemporaryDirectory()
    if pissa:
        tensors |= pissa_start(model)
        # PEFT's conversion wants the start saved as an adapter that starts again without the decomposition.
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(start_folder.name)
        model.peft_config["default"].init_lora_weights = "pissa"
    else:
        perturb(parameters)
    tensors |= {"start." + n: t for n, t in (as_plain(n, p) for n, p in parameters.items())}
    optimizer = make_optimizer(model, parameters, settings, ratio)
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        logits, loss = forward(model, ids)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            tensors["logits"] = logits.detach()
            tensors |= {"grad." + n: t.flatten()[:KEPT].clone() if t.numel() > KEPT else t
                        for n, t in (as_plain(n, p.grad) for n, p in parameters.items())}  # fmt: skip
        optimizer.step()
    losses.append(forward(model, ids)[1].item())
    tensors["losses"] = torch.tensor(losses)
    for n, p in parameters.items():
        plain, t = as_plain(n, p)
        tensors["end." + plain] = t.flatten()[:KEPT].clone() if t.numel() > KEPT else t
    if pissa:
        saved, case["saved"] = pissa_saved(model, start_folder.name)
        tensors |= saved
    start_folder.cleanup()
    if name == "full":  # the start is the model's own weights
        tensors = {n: t for n, t in tensors.items() if not n.startswith("start.")}
        tensors = {n: t for n, t in tensors.items() if n[:4] not in ("end.", "grad") or "layers.1" not in n}
    save_file(tensors, OUT / f"{name}.safetensors")
    print(name, losses)
    return case


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    cases = {name: make_case(name, 100 + i) for i, name in enumerate(CASES)}
    (OUT / "cases.json").write_text(json.dumps(cases, indent=2) + "\n")


if __name__ == "__main__":
    main()
