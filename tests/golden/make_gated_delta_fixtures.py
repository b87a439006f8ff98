"""Writes tests/golden/gated_delta.safetensors: the gated delta rule and gated norm as transformers computes them.

    python tests/golden/make_gated_delta_fixtures.py    # torch 2.15.0, transformers 5.23.0

Tensors, all fp32 (B 1, T 70, G 2, H 4, D 4, V 3):
    q, k [B, T, G, D]  v [B, T, H, V]  g, beta [B, T, H]  state [B, H, D, V]      the inputs, not normalized
    chunk.out, chunk.state            torch_chunk_gated_delta_rule's results
    recurrent.out, recurrent.state    torch_recurrent_gated_delta_rule's
    d_out, d_state                    cotangents, and grad.<input> what they give through the chunked one
    norm.x, norm.weight, norm.gate, norm.out    Qwen3_5RMSNormGated, eps 1e-6
"""

import pathlib

import torch
from safetensors.torch import save_file
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

TARGET = pathlib.Path(__file__).resolve().parent / "gated_delta.safetensors"
B, T, G, H, D, V = 1, 70, 2, 4, 4, 3


def make_inputs(rng):
    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    # Decays as A in (0, 16) makes them: a head that forgets within tokens beside ones that keep hundreds.
    rates = torch.tensor([0.002, 0.05, 0.8, 14.0])
    return {
        "q": normal(B, T, G, D),
        "k": normal(B, T, G, D),
        "v": normal(B, T, H, V),
        "g": -rates * torch.nn.functional.softplus(normal(B, T, H)),
        "beta": torch.sigmoid(2 * normal(B, T, H)),
        "state": normal(B, H, D, V),
    }


def run(rule, inputs):
    return rule(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        g=inputs["g"],
        beta=inputs["beta"],
        initial_state=inputs["state"],
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )


def main():
    rng = torch.Generator().manual_seed(5)
    inputs = make_inputs(rng)
    out = dict(inputs)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    y, state = run(qwen.torch_chunk_gated_delta_rule, leaves)
    out["d_out"] = torch.randn(y.shape, generator=rng)
    out["d_state"] = torch.randn(state.shape, generator=rng)
    torch.autograd.backward([y, state], [out["d_out"], out["d_state"]])
    out |= {f"grad.{name}": leaf.grad for name, leaf in leaves.items()}
    out |= {"chunk.out": y.detach(), "chunk.state": state.detach()}
    out["recurrent.out"], out["recurrent.state"] = run(qwen.torch_recurrent_gated_delta_rule, inputs)

    norm = qwen.Qwen3_5RMSNormGated(D, eps=1e-6)
    norm.weight.data = torch.randn(D, generator=rng)
    x, gate = torch.randn(5, D, generator=rng), torch.randn(5, D, generator=rng)
    out |= {"norm.x": x, "norm.weight": norm.weight.data, "norm.gate": gate, "norm.out": norm(x, gate).detach()}
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, TARGET)


if __name__ == "__main__":
    main()
