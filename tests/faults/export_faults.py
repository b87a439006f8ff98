"""Models, tokenizers and adapters that a GGUF file cannot hold, and exports that cannot be written."""

import json
import math
import os
from collections.abc import Callable

from box import Box, tensor
from disk_faults import limit_file_size, small_disk
from fault import CONFIG, IO, MODEL, OK, check, fault
from model_faults import make_adapter

EXPORT = ["export", "--to", "gguf", "--model", "m", "--out", "m.gguf"]
ADAPTER = [*EXPORT, "--adapter", "adapter"]
ALONE = [*ADAPTER, "--adapter-only"]


def change_tokenizer(box: Box, change: Callable[[dict], object]) -> None:
    path = box.model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    path.write_text(json.dumps(tokenizer))


@fault(CONFIG, r"m\.gguf is there already: name another file, or write over it with --force")
def exporting_over_a_file(box: Box) -> list[str]:
    (box.root / "m.gguf").write_text("precious")
    return EXPORT


@fault(IO, r"cannot write m\.gguf: it is no ordinary file; name another")
def exporting_over_a_pipe(box: Box) -> list[str]:
    os.mkfifo(box.root / "m.gguf")
    return [*EXPORT, "--force"]


@fault(CONFIG, r"m\.Modelfile is there already: .*")
def exporting_over_a_modelfile(box: Box) -> list[str]:
    (box.root / "m.Modelfile").write_text("precious")
    return [*EXPORT, "--modelfile"]


@fault(CONFIG, r"m is a folder: name a file, as m/model\.gguf")
def exporting_into_a_folder(box: Box) -> list[str]:
    return [*EXPORT[:-1], "m"]


@fault(CONFIG, r"--type .*q9_9.*")
def exporting_in_an_unknown_type(box: Box) -> list[str]:
    return [*EXPORT, "--type", "q9_9"]


@fault(CONFIG, r"--model is missing")
def exporting_nothing(box: Box) -> list[str]:
    return ["export", "--to", "gguf", "--out", "m.gguf"]


@fault(CONFIG, r"--adapter-only: name the adapter with --adapter")
def exporting_an_adapter_without_its_name(box: Box) -> list[str]:
    return [*EXPORT, "--adapter-only"]


@fault(CONFIG, r"--adapter-only: an adapter is written as f32, f16 or bf16, not q4_0")
def exporting_a_quantized_adapter(box: Box) -> list[str]:
    make_adapter(box)
    return [*ALONE, "--type", "q4_0"]


@fault(CONFIG, r"--modelfile is for a whole model: leave out --adapter-only")
def exporting_an_adapter_with_a_modelfile(box: Box) -> list[str]:
    make_adapter(box)
    return [*ALONE, "--modelfile"]


@fault(MODEL, r"m: llama\.cpp's architecture llama does not know rope of type dynamic: .*")
def exporting_a_rope_that_llama_cpp_lacks(box: Box) -> list[str]:
    box.change_config(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    return EXPORT


@fault(MODEL, r"m: the tokenizer cuts text in a way that no known model does \(.*\); .* --pre .*")
def exporting_an_unknown_pretokenizer(box: Box) -> list[str]:
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    change_tokenizer(box, lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]}))
    return EXPORT


@fault(MODEL, r"m: llama\.cpp has no tokenizer of this kind: WordLevel")
def exporting_a_tokenizer_of_words(box: Box) -> list[str]:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "word": 3}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (box.model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (box.model / "tokenizer_config.json").unlink()
    return EXPORT


@fault(MODEL, r"blk\.0\.attn_q\.weight: some weights are too large for f16; use --type bf16 or f32")
def exporting_weights_beyond_half_precision(box: Box) -> list[str]:
    big = tensor(32, 32, value=1e5)
    box.change_tensors(lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.weight": big}))
    return [*EXPORT, "--type", "f16"]


@fault(MODEL, r"blk\.0\.attn_q\.weight: weight \[0, 0\] is nan, .*")
def quantizing_a_weight_that_is_no_number(box: Box) -> list[str]:
    bad = tensor(32, 32, value=math.nan)
    box.change_tensors(lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.weight": bad}))
    return [*EXPORT, "--type", "q8_0"]


@fault(MODEL, r"adapter/adapters\.safetensors: tensor .*q_proj\.lora_a has shape .*")
def exporting_with_an_adapter_of_another_model(box: Box) -> list[str]:
    make_adapter(box, hidden=48)
    return ADAPTER


@fault(MODEL, r"adapter: an adapter of type dora, .* leave out --adapter-only, and it is merged")
def exporting_dora_alone(box: Box) -> list[str]:
    box.run(box.train("--fine-tune-type", "dora"))
    (box.root / "run").rename(box.root / "adapter")
    return ALONE


@check
def an_export_over_a_file_by_force(box: Box) -> None:
    (box.root / "m.gguf").write_text("old")
    result = box.run([*EXPORT, "--force"])
    assert result.returncode == OK, result.stderr
    assert (box.root / "m.gguf").read_bytes()[:4] == b"GGUF"


@check
def a_disk_that_fills_up_while_exporting(box: Box) -> None:
    with small_disk(box.root / "disk", 160) as mounted:
        limits = {} if mounted else {"preexec_fn": limit_file_size, "restore_signals": False}
        result = box.run([*EXPORT[:-1], "disk/m.gguf"], **limits)
        assert result.returncode == IO, f"exit code {result.returncode}: {result.stderr}"
        assert result.stderr.splitlines()[-1].startswith("error: cannot write disk/m.gguf"), result.stderr
        left = [path.name for path in (box.root / "disk").iterdir()]
        assert not left, f"leaves {left}"
