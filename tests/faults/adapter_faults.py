"""PEFT's folders that cannot be loaded, and conversions and sums of adapters that cannot be made."""

import json

from box import HIDDEN, Box, Tensors, tensor, write_safetensors
from fault import CHECKPOINT, CONFIG, MODEL, fault
from model_faults import change_adapter, make_adapter

Q = "base_model.model.model.layers.0.self_attn.q_proj"
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "m"}


def make_peft(box: Box, tensors: Tensors | None = None, **config: object) -> list[str]:
    """A PEFT folder with these settings changed and these tensors beside its own; the verb that converts it."""
    folder = box.root / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | config))
    factors = {f"{Q}.lora_A.weight": tensor(4, HIDDEN), f"{Q}.lora_B.weight": tensor(HIDDEN, 4)}
    write_safetensors(folder / "adapter_model.safetensors", factors | (tensors or {}))
    return adapter("--adapter", "peft")


def adapter(*flags: str) -> list[str]:
    return ["adapter", "--out", "out", *flags]


@fault(CHECKPOINT, r"peft/adapter_config\.json: peft_type \"IA3\" is not supported; .*")
def a_PEFT_method_that_is_no_LoRA(box: Box) -> list[str]:
    return make_peft(box, peft_type="IA3")


@fault(CHECKPOINT, r"peft/adapter_config\.json: trainable_token_indices: .*, which Temper does not compute; .*")
def a_PEFT_setting_that_changes_the_maths(box: Box) -> list[str]:
    return make_peft(box, trainable_token_indices=[3, 5])


@fault(CHECKPOINT, r"peft/adapter_config\.json: init_lora_weights \"pissa\" changes the base's weights .*")
def a_PEFT_start_that_changes_the_base(box: Box) -> list[str]:
    return make_peft(box, init_lora_weights="pissa")


@fault(CHECKPOINT, r"peft/adapter_config\.json: r is \"four\", which is of the wrong kind")
def a_PEFT_rank_in_words(box: Box) -> list[str]:
    return make_peft(box, r="four")


@fault(CHECKPOINT, r"peft/adapter_config\.json: \"\(\(q_proj\" is not a regular expression .*")
def a_PEFT_pattern_that_is_none(box: Box) -> list[str]:
    return make_peft(box, target_modules="((q_proj")


@fault(CHECKPOINT, r"peft/adapter_model\.bin: a pickled adapter can run any code .*")
def a_pickled_adapter(box: Box) -> list[str]:
    flags = make_peft(box)
    (box.root / "peft" / "adapter_model.safetensors").rename(box.root / "peft" / "adapter_model.bin")
    return flags


@fault(MODEL, r"peft/adapter_model\.safetensors: a factor of .*q_proj has shape \[3, 32\], .* rank 4")
def a_PEFT_factor_of_another_rank(box: Box) -> list[str]:
    return make_peft(box, {f"{Q}.lora_A.weight": tensor(3, HIDDEN)})


@fault(MODEL, r"peft/adapter_model\.safetensors: tensor .* has shape \[48, 4\], this model and rank need \[32, 4\]; .*")
def a_PEFT_adapter_of_another_model(box: Box) -> list[str]:
    return make_peft(box, {f"{Q}.lora_A.weight": tensor(4, 48)})


@fault(MODEL, r"peft/adapter_model\.safetensors: adapts the head, but .*")
def a_PEFT_adapter_on_the_head_of_a_tied_model(box: Box) -> list[str]:
    head = "base_model.model.lm_head"
    return make_peft(box, {f"{head}.lora_A.weight": tensor(4, HIDDEN), f"{head}.lora_B.weight": tensor(2048, 4)},
                     target_modules=["q_proj", "lm_head"])  # fmt: skip


@fault(MODEL, r"peft/adapter_model\.safetensors: .*; the file is damaged or not safetensors: .*")
def a_PEFT_file_cut_short(box: Box) -> list[str]:
    flags = make_peft(box)
    path = box.root / "peft" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    return flags


@fault(CONFIG, r"--model is missing, and adapter does not say whose adapter it is")
def an_adapter_of_nobody(box: Box) -> list[str]:
    make_adapter(box)
    return adapter("--adapter", "adapter")


@fault(CONFIG, r"--model is missing, and adapter does not say whose adapter it is")
def an_adapter_whose_model_is_a_number(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, model=3)
    return adapter("--adapter", "adapter")


@fault(CONFIG, r"the adapters are of different models, m and n; .*")
def adapters_of_different_models(box: Box) -> list[str]:
    make_adapter(box)
    change_adapter(box, model="n")
    return [*make_peft(box), "--adapter", "adapter"]


@fault(CONFIG, r"--weight: 1 given for 2 adapters; give one for each, or none")
def a_weight_too_few(box: Box) -> list[str]:
    return [*make_peft(box), "--adapter", "peft", "--weight", "0.5"]


@fault(CONFIG, r"peft: is DoRA, whose magnitudes rescale .*")
def a_sum_with_DoRA(box: Box) -> list[str]:
    flags = make_peft(box, {f"{Q}.lora_magnitude_vector": tensor(HIDDEN)}, use_dora=True)
    return [*flags, "--adapter", "peft", "--weight", "0.5", "--weight", "0.5"]


@fault(CONFIG, r"a model trained whole is no adapter that PEFT could load; .*")
def whole_weights_for_PEFT(box: Box) -> list[str]:
    make_adapter(box)
    norm = {"model.norm.weight": tensor(HIDDEN), "model.layers.0.self_attn.q_proj.lora_a": None,
            "model.layers.0.self_attn.q_proj.lora_b": None}  # fmt: skip
    change_adapter(box, norm, fine_tune_type="full", model="m")
    return adapter("--adapter", "adapter", "--to", "peft")


@fault(CONFIG, r"--to must be one of mlx-lm, peft, got 'gguf'")
def a_format_of_adapters_that_is_none(box: Box) -> list[str]:
    return [*make_peft(box), "--to", "gguf"]


@fault(CONFIG, r"out.* is there already.*")
def an_adapter_s_place_that_is_taken(box: Box) -> list[str]:
    (box.root / "out").mkdir()
    (box.root / "out" / "mine.txt").write_text("mine")
    return make_peft(box)
