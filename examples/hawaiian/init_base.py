#!/usr/bin/env python3
"""Gives a Llama folder that has a config.json random weights, to be trained from scratch.

    init_base.py BASE_DIR [SEED]                needs numpy

Matrices are normal with the config's initializer_range, those that end a residual branch divided by
sqrt(2 * layers) as in GPT-2; norms are one. Stored as bfloat16, in the safetensors format.
"""

import json
import pathlib
import struct
import sys

import numpy as np


def shapes(c):
    hidden, inner, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for layer in range(c["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", (hidden,)
        yield f"{block}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{block}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{block}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{block}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{block}.post_attention_layernorm.weight", (hidden,)
        yield f"{block}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{block}.mlp.up_proj.weight", (inner, hidden)
        yield f"{block}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def random_weights(c, rng):
    for name, shape in shapes(c):
        if len(shape) == 1:
            yield name, np.ones(shape, np.float32)
            continue
        scale = c["initializer_range"]
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale /= (2 * c["num_hidden_layers"]) ** 0.5
        yield name, (rng.standard_normal(shape) * scale).astype(np.float32)


def to_bfloat16(value):
    """The upper halves of float32's bits, rounded to nearest even."""
    bits = value.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    tensors = [(name, to_bfloat16(value)) for name, value in tensors]
    for name, value in tensors:
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in tensors:
            file.write(value.tobytes())


def main():
    base = pathlib.Path(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    tensors = list(random_weights(config, np.random.default_rng(seed)))
    write_safetensors(base / "model.safetensors", tensors)
    print(f"{base}: {sum(v.size for _, v in tensors):,} parameters")


if __name__ == "__main__":
    main()
