"""Model folders, tokenizers and adapters that don't fit or are damaged."""

import json
import math

from box import HIDDEN, Box, tensor, tiny_tensors, write_safetensors
from fault import CHECKPOINT, CONFIG, IO, MODEL, NON_FINITE, OK, check, fault

Q = "model.layers.0.self_attn.q_proj.weight"


@fault(MODEL, r"\./nowhere/Llama-1B: there is no such model folder; download the model and name its folder")
def a_model_that_does_not_exist(box: Box) -> list[str]:
    return box.train("--model", "./nowhere/Llama-1B")


@fault(IO, r"nowhere/Llama-1B: not in .*, or not all of it, and HF_HUB_OFFLINE is set; .*")
def a_model_that_is_not_in_the_cache(box: Box) -> list[str]:
    return box.train("--model", "nowhere/Llama-1B")


@fault(MODEL, r"m/model\.safetensors: this is a file; name the model's folder")
def a_file_instead_of_a_model_folder(box: Box) -> list[str]:
    return box.train("--model", "m/model.safetensors")


@fault(MODEL, r"m: no model\*\.safetensors file; the folder holds no weights.*")
def a_model_folder_without_weights(box: Box) -> None:
    (box.model / "model.safetensors").unlink()


@fault(MODEL, r"m: no config\.json; this is not a Hugging Face model folder")
def a_model_folder_without_a_config(box: Box) -> None:
    (box.model / "config.json").unlink()


@fault(MODEL, r"m/config\.json: not valid JSON at line 1, column \d+.*")
def a_broken_config(box: Box) -> None:
    (box.model / "config.json").write_text('{"model_type": "llama",')


@fault(MODEL, r"m/config\.json: not a JSON object")
def a_config_that_is_a_list(box: Box) -> None:
    (box.model / "config.json").write_text("[]")


@fault(MODEL, r"m/config\.json: the key hidden_size is missing")
def a_config_without_a_needed_key(box: Box) -> None:
    box.change_config(hidden_size=None)


@fault(MODEL, r"m/config\.json: hidden_size must be a whole number, but is \"32\"")
def a_config_value_of_the_wrong_type(box: Box) -> None:
    box.change_config(hidden_size="32")


@fault(MODEL, r"m/config\.json: num_attention_heads must be at least 1, but is 0")
def a_config_without_heads(box: Box) -> None:
    box.change_config(num_attention_heads=0)


@fault(MODEL, r"m/config\.json: num_attention_heads \(3\) must be a multiple of num_key_value_heads \(2\)")
def heads_that_do_not_divide(box: Box) -> None:
    box.change_config(num_attention_heads=3, num_key_value_heads=2)


@fault(MODEL, r"m/config\.json: model_type mamba is not supported; supported are llama, mistral.*")
def an_unknown_model_type(box: Box) -> None:
    box.change_config(model_type="mamba")


@fault(MODEL, r"m/config\.json: quantization: it says affine, 4 bits in groups of 64, but no tensor is packed; .*")
def a_quantized_model(box: Box) -> None:
    box.change_config(quantization={"group_size": 64, "bits": 4})


@fault(MODEL, r"m/config\.json: quantization_config: quant_method gptq is not supported; take the unquantized .*")
def a_model_quantized_by_others(box: Box) -> None:
    box.change_config(quantization_config={"quant_method": "gptq", "bits": 4})


@fault(MODEL, r"m/config\.json: rope type .*magic.* is not supported; supported are .*")
def an_unknown_kind_of_rope(box: Box) -> None:
    box.change_config(rope_scaling={"rope_type": "magic", "factor": 2.0})


def spread_over_shards(box: Box) -> list[str]:
    """Rewrites the weights as two shards with an index; the shards' names."""
    tensors = list(tiny_tensors().items())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (box.model / "model.safetensors").unlink()
    where = {}
    for name, part in zip(names, (tensors[:3], tensors[3:])):
        write_safetensors(box.model / name, dict(part))
        where |= {tensor_name: name for tensor_name, _ in part}
    (box.model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return names


@fault(MODEL, r"m/model-00002-of-00002\.safetensors: tensor .* ends at byte \d+ of \d+; the file is damaged .*copy")
def a_truncated_shard(box: Box) -> None:
    shard = box.model / spread_over_shards(box)[1]
    shard.write_bytes(shard.read_bytes()[:-100])


@fault(MODEL, r"m/model-00001-of-00002\.safetensors: only 0 bytes long; the file is damaged .*")
def an_empty_shard(box: Box) -> None:
    (box.model / spread_over_shards(box)[0]).write_bytes(b"")


@fault(MODEL, r"m/model\.safetensors\.index\.json: names model-00002-of-00002\.safetensors, which is not .*")
def a_shard_that_is_not_there(box: Box) -> None:
    (box.model / spread_over_shards(box)[1]).unlink()


@fault(MODEL, r"m/model\.safetensors\.index\.json: not valid JSON.*")
def a_broken_index(box: Box) -> None:
    spread_over_shards(box)
    (box.model / "model.safetensors.index.json").write_text("{")


@fault(MODEL, r"m/model\.safetensors: the header claims \d+ bytes; the file is damaged .*")
def weights_that_are_no_safetensors(box: Box) -> None:
    (box.model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


@fault(MODEL, rf"m: {Q} has shape \[32, 31\], config\.json asks for \[32, 32\].*")
def a_tensor_of_the_wrong_shape(box: Box) -> None:
    box.change_tensors(lambda tensors: tensors.update({Q: tensor(HIDDEN, HIDDEN - 1)}))


@fault(MODEL, rf"m: missing tensors: {Q}.*")
def a_missing_tensor(box: Box) -> None:
    box.change_tensors(lambda tensors: tensors.pop(Q))


@fault(MODEL, r"m: tensors that config\.json has no place for: model\.layers\.1\.extra\.weight.*")
def an_extra_tensor(box: Box) -> None:
    box.change_tensors(lambda tensors: tensors.update({"model.layers.1.extra.weight": tensor(2)}))


@fault(NON_FINITE, r"step 3: loss or gradient is not finite for the 3\. time in a row, first in model\.layers\.0\..*",
       leaves=r"run(/(run\.json|events\.jsonl))?")
def weights_that_are_not_numbers(box: Box) -> list[str]:
    box.change_tensors(lambda tensors: tensors.update({Q: tensor(HIDDEN, HIDDEN, value=math.nan)}))
    return box.train(steps=5)


@fault(MODEL, r"m: no tokenizer\.json or tokenizer\.model; copy the tokenizer's files .*")
def a_missing_tokenizer(box: Box) -> None:
    (box.model / "tokenizer.json").unlink()


@fault(MODEL, r"m/tokenizer\.json: .*")
def a_broken_tokenizer(box: Box) -> None:
    path = box.model / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])


@fault(MODEL, r"m/tokenizer_config\.json: .*")
def a_broken_tokenizer_config(box: Box) -> None:
    (box.model / "tokenizer_config.json").write_text("{")


def make_adapter(box: Box, hidden: int = HIDDEN, rank: int = 4, value: float | None = None) -> None:
    """An adapter as a run leaves it, for q_proj of a model of this width; `value`: of every entry of B."""
    folder = box.root / "adapter"
    folder.mkdir()
    layer = "model.layers.0.self_attn.q_proj"
    write_safetensors(folder / "adapters.safetensors",
                      {f"{layer}.lora_a": tensor(hidden, rank), f"{layer}.lora_b": tensor(rank, hidden, value=value)})
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    (folder / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}))


EVAL = ["eval", "--model", "m", "--adapter", "adapter", "--data", "d/train.jsonl"]


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a has shape \[48, 4\], .* \[32, 4\]; was .*")
def an_adapter_of_another_model(box: Box) -> list[str]:
    make_adapter(box, hidden=48)
    return EVAL


def change_adapter(box: Box, tensors: dict | None = None, **config: object) -> None:
    """Keys of the adapter's configuration, and tensors beside its own; None removes one of these."""
    folder = box.root / "adapter"
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    layer = "model.layers.0.self_attn.q_proj"
    all_tensors = {f"{layer}.lora_a": tensor(HIDDEN, 4), f"{layer}.lora_b": tensor(4, HIDDEN)} | (tensors or {})
    write_safetensors(folder / "adapters.safetensors", {n: t for n, t in all_tensors.items() if t is not None})


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a has shape \[32, 4\], .* need \[32, 8\]; was .*")
def an_adapter_of_another_rank(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, lora_parameters={"rank": 8, "scale": 2.0})
    return EVAL


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a is there without .*q_proj\.lora_b")
def half_an_adapter(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, {"model.layers.0.self_attn.q_proj.lora_b": None})
    return EVAL


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.m is DoRA's, but adapter_config\.json says .* lora")
def a_DoRA_that_says_it_is_a_LoRA(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, {"model.layers.0.self_attn.q_proj.m": tensor(HIDDEN)})
    return EVAL


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a is there without .*q_proj\.m")
def a_LoRA_that_says_it_is_a_DoRA(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, fine_tune_type="dora")
    return EVAL


@fault(MODEL, r"adapter/adapters\.safetensors: tensor model\.layers\.0\.self_attn\.q_proj\.m is there without .*lora_a")
def a_magnitude_without_factors(box: Box) -> list[str]:
    make_adapter(box)
    q = "model.layers.0.self_attn.q_proj"
    change_adapter(box, {f"{q}.m": tensor(HIDDEN), f"{q}.lora_a": None, f"{q}.lora_b": None}, fine_tune_type="dora")
    return EVAL


@fault(CHECKPOINT, r"adapter/adapter_config\.json: fine_tune_type vera is not supported; use lora, dora or full")
def an_adapter_of_an_unknown_type(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, fine_tune_type="vera")
    return EVAL


@fault(CHECKPOINT, r"adapter: no adapter_config\.json; this is not an adapter folder")
def an_adapter_without_its_config(box: Box) -> list[str]:
    make_adapter(box)
    (box.root / "adapter" / "adapter_config.json").unlink()
    return EVAL


@fault(CHECKPOINT, r"adapter: there is no such adapter")
def an_adapter_that_does_not_exist(box: Box) -> list[str]:
    return ["generate", "--model", "m", "--adapter", "adapter", "--prompt", "Aloha"]


@fault(MODEL, r"adapter/adapters\.safetensors: .*; the file is damaged .*")
def a_truncated_adapter(box: Box) -> list[str]:
    make_adapter(box)
    path = box.root / "adapter" / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    return EVAL


@fault(MODEL, r"adapter/adapters\.safetensors: .*rank, keys and num_layers.*")
def an_adapter_file_of_other_settings_to_start_from(box: Box) -> list[str]:
    make_adapter(box)
    return box.train("--lora-rank", "4", "--resume-adapter-file", "adapter/adapters.safetensors")


FUSE = ["fuse", "--model", "m", "--adapter", "adapter", "--out", "out"]


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a has shape \[48, 4\], .* \[32, 4\]; was .*")
def an_adapter_of_another_model_to_fuse(box: Box) -> list[str]:
    make_adapter(box, hidden=48)
    return FUSE


@fault(CONFIG, r"m: is there already; name another --out, or delete it, since nothing is overwritten")
def fusing_into_a_folder_that_is_not_empty(box: Box) -> list[str]:
    make_adapter(box)
    return [*FUSE[:-1], "m"]


@fault(CONFIG, r"--quantize-again: m is not quantized")
def packing_a_fused_model_whose_base_is_dense(box: Box) -> list[str]:
    make_adapter(box)
    return [*FUSE, "--quantize-again"]


@fault(CONFIG, r"--model is missing, and adapter does not say whose adapter it is")
def fusing_an_adapter_of_an_unknown_model(box: Box) -> list[str]:
    make_adapter(box)
    return ["fuse", *FUSE[3:]]


@fault(MODEL, r"adapter: the fused model lost the adapter: \d+% of its effect on the logits survives, .*--force")
def a_fuse_that_rounds_the_adapter_away(box: Box) -> list[str]:
    """Beside weights of this size float16 has no room for what the adapter adds."""
    make_adapter(box, value=1e-4)
    big = tensor(HIDDEN, HIDDEN, value=2048.0)
    box.change_tensors(lambda tensors: tensors.update({Q: big}))
    return [*FUSE, "--dtype", "float16"]


@check
def an_adapter_without_effect(box: Box) -> None:
    make_adapter(box, value=0.0)
    result = box.run(FUSE)
    assert result.returncode == OK, result.stderr
    assert "warning: adapter: the adapter has no effect on the sampled text" in result.stderr, result.stderr
    assert (box.root / "out" / "model.safetensors").exists()
