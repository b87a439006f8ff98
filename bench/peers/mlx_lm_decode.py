"""mlx-lm's generation speed on random weights of a config.json, in float32 on a CPU, bfloat16 elsewhere:
one text alone (generate_step), then many in its continuous batches (BatchGenerator).
usage: mlx_lm_decode.py CONFIG full|mixed ROWS PROMPTS PROMPT TOKENS"""
import importlib, json, sys, time
import numpy as np, mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.generate import BatchGenerator, generate_step

config, lengths, rows, count, prompt, tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
cfg = json.load(open(config))
arch = importlib.import_module("mlx_lm.models." + cfg["model_type"])
model = arch.Model(arch.ModelArgs.from_dict(cfg))
cpu = not mx.metal.is_available() and not getattr(mx, "cuda", mx.metal).is_available()
if cpu:
    mx.set_default_device(mx.cpu)
dtype = mx.float32 if cpu else mx.bfloat16
model.update(tree_map(lambda p: (mx.random.normal(p.shape, scale=0.02) if p.ndim > 1 else p).astype(dtype), model.parameters()))
mx.eval(model.parameters())
random = np.random.default_rng(0)

def length(most):
    return most if lengths == "full" else int(np.clip(random.lognormal(np.log(0.5), 0.75) * most, 2, most))

def texts(n):
    return [random.integers(0, cfg["vocab_size"], length(prompt)).tolist() for _ in range(n)], [length(tokens) for _ in range(n)]

def one():
    (text,), (most,) = texts(1)
    start, first, made = time.perf_counter(), None, 0
    for _ in generate_step(mx.array(text), model, max_tokens=most):
        first = first or time.perf_counter()
        made += 1
    return {"rows": 1, "prompt_tokens_per_second": len(text) / (first - start), "tokens_per_second": (made - 1) / (time.perf_counter() - first)}

def many():
    prompts, most = texts(max(rows, count))
    batch = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=rows, prefill_step_size=512)
    batch.insert(prompts, most)
    start, made, answered = time.perf_counter(), 0, 0
    while answered < len(prompts):
        _, responses = batch.next()
        made += len(responses)
        answered += sum(r.finish_reason is not None for r in responses)
    seconds = time.perf_counter() - start
    return {"rows": rows, "prompts": len(prompts), "seconds": seconds, "tokens_a_second_in_all": made / seconds}

one()
for run in (one, many):
    mx.reset_peak_memory()
    print("RESULT", json.dumps({k: round(v, 2) for k, v in (run() | {"peak_gb": mx.get_peak_memory() / 1e9}).items()}), flush=True)
