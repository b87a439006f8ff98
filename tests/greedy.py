"""mlx-lm's greedy answer, for tests that compare with it."""

import mlx.core as mx
from mlx_lm.generate import generate_step
from tiny_model import EOS


def mlx_lm_greedy(model, prompt, count):
    """Ids up to EOS, which is left out, or `count` of them."""
    tokens = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
        if token == EOS:
            break
        tokens.append(token)
    return tokens
