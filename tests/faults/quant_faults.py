"""Quantized models that do not hold together, and conversions that cannot be made."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

from box import Box, tensor, tiny_config, tiny_tensors, write_safetensors
from disk_faults import limit_file_size, small_disk
from fault import CONFIG, IO, MODEL, OK, check, fault

Header = dict[str, dict]
UP = "model.layers.0.mlp.up_proj"


def convert(*flags: str, out: str = "out") -> list[str]:
    return ["convert", "--model", "m", "--out", out, *flags]


def quantize(box: Box) -> None:
    """The box's model, quantized in its place."""
    result = box.run(convert("--group-size", "32", out="q"))
    assert result.returncode == OK, result.stderr
    (box.root / "q").rename(box.root / "whole")
    for file in (box.root / "whole").iterdir():
        file.replace(box.model / file.name)
    (box.root / "whole").rmdir()
    (box.model / "model.safetensors.index.json").unlink()


def change_header(box: Box, change: Callable[[Header], object]) -> None:
    """Changes what the weights' header says of the tensors; their bytes are laid out anew."""
    path = box.model / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    content = {name: data[8 + length:][slice(*entry["data_offsets"])] for name, entry in header.items()
               if name != "__metadata__"}
    header.pop("__metadata__", None)
    change(header)
    offset, parts = 0, []
    for name, entry in header.items():
        size = {"F32": 4, "U32": 4}[entry["dtype"]]
        for dim in entry["shape"]:
            size *= dim
        parts.append(content[name][:size])
        entry["data_offsets"] = [offset, offset + size]
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def change_quantization(box: Box, **changes: object) -> None:
    config = json.loads((box.model / "config.json").read_text())
    box.change_config(quantization=config["quantization"] | changes)


@fault(MODEL, rf"m: {UP}\.scales has shape \[63, 1\], config\.json asks for \[64, 1\]")
def scales_cut_short(box: Box) -> None:
    quantize(box)
    change_header(box, lambda header: header[f"{UP}.scales"].update(shape=[63, 1]))


@fault(MODEL, rf"m: missing tensors: {UP}\.scales; .*")
def packed_weights_without_their_scales(box: Box) -> None:
    quantize(box)
    change_header(box, lambda header: header.pop(f"{UP}.scales"))


@fault(MODEL, rf"tensor {UP}\.weight is packed with 4 bits in groups of 32, float scales and no biases, .*")
def packed_weights_without_their_biases(box: Box) -> None:
    quantize(box)
    change_header(box, lambda header: header.pop(f"{UP}.biases"))


@fault(MODEL, rf"tensor {UP}\.weight is packed with 1 bits in groups of 32, float scales and biases, which is no mode .*")
def packed_weights_of_another_width(box: Box) -> None:
    quantize(box)
    change_header(box, lambda header: header[f"{UP}.weight"].update(shape=[64, 1]))


@fault(MODEL, r"m/config\.json: quantization: it says affine, 8 bits in groups of 32, but the tensors are otherwise: .*")
def a_config_with_the_wrong_bits(box: Box) -> None:
    quantize(box)
    change_quantization(box, bits=8)


@fault(MODEL, rf"m/config\.json: quantization: {UP} is said to be affine, 8 bits .*, but is affine, 4 bits .*")
def a_layer_with_the_wrong_bits(box: Box) -> None:
    quantize(box)
    change_quantization(box, **{UP: {"bits": 8, "group_size": 32}})


@fault(MODEL, r"m/config\.json: quantization: quantization mode nf4 is not one of affine, mxfp4, nvfp4, mxfp8")
def a_config_with_an_unknown_mode(box: Box) -> None:
    quantize(box)
    change_quantization(box, mode="nf4")


@fault(MODEL, r"m/config\.json: quantization: it is missing, but the weights are packed .*")
def a_config_that_does_not_tell_of_its_packed_weights(box: Box) -> None:
    quantize(box)
    box.change_config(quantization=None, quantization_config=None)


@fault(CONFIG, r"fine_tune_type: full needs unquantized weights, and those of m are \(affine, .*\); train with lora, .*")
def full_training_of_a_quantized_model(box: Box) -> list[str]:
    quantize(box)
    return box.train("--fine-tune-type", "full")


@fault(MODEL, r"layer model\.embed_tokens: its rows of 32 weights are not whole groups of 64; group sizes that fit: 32")
def a_group_size_that_fits_no_layer(box: Box) -> list[str]:
    return convert("--bits", "4")


@fault(MODEL, r"layer mlp\.down_proj: its rows of 40 weights .*; mode mxfp8 has no group size that fits: .*--keep.*")
def a_layer_that_no_group_size_fits(box: Box) -> list[str]:
    tensors = tiny_tensors()
    for name in ("gate_proj", "up_proj"):
        tensors[f"model.layers.0.mlp.{name}.weight"] = tensor(40, 32)
    tensors["model.layers.0.mlp.down_proj.weight"] = tensor(32, 40)
    write_safetensors(box.model / "model.safetensors", tensors)
    box.write_config(box.model, tiny_config() | {"intermediate_size": 40})
    return convert("--mode", "mxfp8")


@fault(CONFIG, r"quantization mode affine has no bits 7; it has 4, 2, 3, 5, 6, 8")
def bits_that_the_mode_has_not(_: Box) -> list[str]:
    return convert("--bits", "7")


@fault(CONFIG, r"quantization mode nvfp4 has no group_size 64; it has 16")
def a_group_size_that_the_mode_has_not(_: Box) -> list[str]:
    return convert("--mode", "nvfp4", "--group-size", "64")


@fault(CONFIG, r"--mode must be one of affine, mxfp4, nvfp4, mxfp8, got 'gptq'")
def a_mode_that_there_is_not(_: Box) -> list[str]:
    return convert("--mode", "gptq")


@fault(CONFIG, r"--recipe mixed_4_6 brings its own bits, in mode affine: leave out --bits")
def a_recipe_with_bits(_: Box) -> list[str]:
    return convert("--recipe", "mixed_4_6", "--bits", "4")


@fault(CONFIG, r"keep: lm_haed matches no layer of this model; choose from .*")
def a_layer_to_keep_that_there_is_not(_: Box) -> list[str]:
    return convert("--bits", "4", "--group-size", "32", "--keep", "lm_haed")


@fault(CONFIG, r"m: every layer is quantized already; add --dequantize to pack them anew, at a loss")
def quantizing_what_is_quantized(box: Box) -> list[str]:
    quantize(box)
    return convert("--bits", "8", "--group-size", "32")


@fault(CONFIG, r"d: is there already; name another --out, or delete it, since nothing is overwritten")
def a_folder_that_holds_something(_: Box) -> list[str]:
    return convert(out="d")


@fault(CONFIG, r"m: is there already; .*")
def a_model_converted_onto_itself(_: Box) -> list[str]:
    return convert("--dtype", "bfloat16", out="m")


@fault(IO, r"cannot create folder d/train\.jsonl/out.*: Not a directory")
def a_converted_model_under_a_file(_: Box) -> list[str]:
    return convert(out="d/train.jsonl/out")


@fault(MODEL, r"m/config\.json: model_type mamba is not supported; .*")
def converting_an_unknown_family(box: Box) -> list[str]:
    box.change_config(model_type="mamba")
    return convert("--bits", "4")


@check
def a_conversion_on_a_full_disk(box: Box) -> None:
    """Leaves nothing of it."""
    with small_disk(box.root / "disk", 40) as mounted:
        limits = {} if mounted else {"preexec_fn": limit_file_size, "restore_signals": False}
        result = box.run(convert("--dtype", "float32", out="disk/out"), **limits)
        assert result.returncode == IO, f"exit code {result.returncode}: {result.stderr}"
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: cannot write disk/out"), last
        assert not os.listdir(Path(box.root) / "disk"), "a folder is left over"
