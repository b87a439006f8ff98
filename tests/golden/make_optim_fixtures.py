"""Writes tests/golden/optim/torch.json and mlx.json: optimizers and schedules as their own libraries run them.

    python tests/golden/make_optim_fixtures.py torch    # torch 2.15.0, transformers 5.23.0
    python tests/golden/make_optim_fixtures.py mlx      # mlx 0.32.4, mlx-lm 0.32.2

Both files:
    parameters   NAME: nested list, at the start ("matrix.weight" [3, 4], "matrix.bias" [4])
    gradients    50 steps of {NAME: nested list}, the same for every optimizer, given and not computed
    optimizers   a list of {name, ...its settings, learning_rates (50), snapshots: {"10": {NAME: ...}, ... "50"}}
    schedules    a list of {name, ...its arguments, learning_rates: {"STEP": value}}; STEP counts steps done
Weight decay is for the matrix only. torch.json also has `clipping`: max_norm, norms and clipped gradients of step 0.
"""

import json
import pathlib
import random
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent / "optim"
STEPS = 50
SHAPES = {"matrix.weight": (3, 4), "matrix.bias": (4,)}
AT = [0, 1, 2, 5, 9, 10, 11, 12, 25, 50, 75, 99, 100, 101, 109, 110, 111, 150]


def single(value):
    """Rounded to what float32 holds, so that every library starts from the same numbers."""
    return struct.unpack("f", struct.pack("f", value))[0]


def random_values(rng, shape, scale):
    if not shape:
        return single(rng.gauss(0.0, scale))
    return [random_values(rng, shape[1:], scale) for _ in range(shape[0])]


def make_problem():
    rng = random.Random(11)
    parameters = {n: random_values(rng, s, 0.5) for n, s in SHAPES.items()}
    # Sizes over three decades, so that epsilon and bias correction both show.
    gradients = [{n: random_values(rng, s, 10 ** rng.uniform(-3, 0)) for n, s in SHAPES.items()} for _ in range(STEPS)]
    rates = [single(0.01 * (1 - step / 100)) for step in range(STEPS)]
    return parameters, gradients, rates


OPTIMIZERS = [
    dict(name="adam", betas=[0.9, 0.999], eps=1e-8),
    dict(name="adam", betas=[0.8, 0.95], eps=1e-4),
    dict(name="adamw", betas=[0.9, 0.999], eps=1e-8, weight_decay=0.1),
    dict(name="sgd", momentum=0.0, nesterov=False, weight_decay=0.0),
    dict(name="sgd", momentum=0.9, nesterov=False, weight_decay=0.0),
    dict(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.0),
    dict(name="sgd", momentum=0.9, nesterov=False, weight_decay=0.1),
]


def torch_optimizer(settings, tensors):
    import torch

    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[settings["name"]]
    options = {k: v for k, v in settings.items() if k not in ("name", "weight_decay")}
    decay = settings.get("weight_decay", 0.0)
    groups = [
        {"params": [tensors["matrix.weight"]], "weight_decay": decay},
        {"params": [tensors["matrix.bias"]], "weight_decay": 0.0},
    ]
    return kind(groups, lr=0.0, foreach=False, **options)


def run_torch(settings, parameters, gradients, rates):
    import torch

    tensors = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in parameters.items()}
    optimizer = torch_optimizer(settings, tensors)
    snapshots = {}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[step][name])
        optimizer.step()
        if (step + 1) % 10 == 0:
            snapshots[str(step + 1)] = {n: t.tolist() for n, t in tensors.items()}
    return {**settings, "learning_rates": rates, "snapshots": snapshots}


def torch_schedules():
    import torch
    import transformers.optimization as o

    made = []
    for name, make, more in [
        ("constant", o.get_constant_schedule_with_warmup, {}),
        ("linear", o.get_linear_schedule_with_warmup, {"num_training_steps": 110}),
        ("cosine", o.get_cosine_schedule_with_warmup, {"num_training_steps": 110}),
        ("cosine", o.get_cosine_with_min_lr_schedule_with_warmup, {"num_training_steps": 110, "min_lr": 2e-4}),
    ]:
        for warmup in (0, 10):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
            schedule = make(optimizer, num_warmup_steps=warmup, **more).lr_lambdas[0]
            made.append(
                {
                    "name": name,
                    "learning_rate": 0.002,
                    "warmup_steps": warmup,
                    "min_learning_rate": more.get("min_lr", 0.0),
                    "total_steps": 110,
                    # past the end transformers' cosine rises again; a run ends there
                    "learning_rates": {str(s): 0.002 * schedule(s) for s in AT if s <= 110},
                }
            )
    return made


def torch_clipping(gradients):
    import torch

    out = []
    for max_norm in (0.1, 100.0):
        tensors = {n: torch.nn.Parameter(torch.zeros(SHAPES[n])) for n in SHAPES}
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[0][name])
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm)
        out.append({"max_norm": max_norm, "norm": norm.item(), "clipped": {n: t.grad.tolist() for n, t in tensors.items()}})
    return out


def run_mlx(settings, parameters, gradients, rates):
    import mlx.core as mx
    import mlx.optimizers as mo

    kind = {"adam": mo.Adam, "adamw": mo.AdamW, "sgd": mo.SGD}[settings["name"]]
    optimizer = kind(learning_rate=0.0, **{k: v for k, v in settings.items() if k != "name"})
    tensors = {n: mx.array(v) for n, v in parameters.items()}
    optimizer.init(tensors)
    snapshots = {}
    for step in range(STEPS):
        optimizer.learning_rate = mx.array(rates[step])
        tensors = optimizer.apply_gradients({n: mx.array(v) for n, v in gradients[step].items()}, tensors)
        if (step + 1) % 10 == 0:
            snapshots[str(step + 1)] = {n: t.tolist() for n, t in tensors.items()}
    return {**settings, "learning_rates": rates, "snapshots": snapshots}


MLX_OPTIMIZERS = [
    dict(name="adam", betas=[0.9, 0.999], eps=1e-8, bias_correction=False),
    dict(name="adam", betas=[0.9, 0.999], eps=1e-8, bias_correction=True),
    # mlx's AdamW decays biases too
    dict(name="adamw", betas=[0.9, 0.999], eps=1e-8, bias_correction=False, weight_decay=0.1),
    dict(name="sgd", momentum=0.9, weight_decay=0.0),
]
MLX_SCHEDULES = [
    dict(name="cosine_decay", arguments=[1e-3, 100]),
    dict(name="cosine_decay", arguments=[1e-3, 100, 1e-5]),
    dict(name="cosine_decay", arguments=[1e-3, 100, 1e-5], warmup=10),
    dict(name="cosine_decay", arguments=[1e-3, 100, 1e-5], warmup=10, warmup_init=1e-7),
    dict(name="linear_schedule", arguments=[1e-3, 1e-5, 100]),
    dict(name="linear_schedule", arguments=[1e-3, 1e-5, 100], warmup=10),
    dict(name="exponential_decay", arguments=[1e-3, 0.98], warmup=10),
    dict(name="step_decay", arguments=[1e-3, 0.5, 25]),
]


def mlx_schedules():
    import mlx.core as mx
    from mlx_lm.tuner.utils import build_schedule

    return [
        {**config, "learning_rates": {str(s): float(build_schedule(config)(mx.array(s))) for s in AT}}
        for config in MLX_SCHEDULES
    ]


def main():
    library = sys.argv[1]
    parameters, gradients, rates = make_problem()
    if library == "torch":
        run, optimizers, schedules = run_torch, OPTIMIZERS, torch_schedules()
    else:
        run, optimizers, schedules = run_mlx, MLX_OPTIMIZERS, mlx_schedules()
    out = {
        "parameters": parameters,
        "gradients": gradients,
        "optimizers": [run(settings, parameters, gradients, rates) for settings in optimizers],
        "schedules": schedules,
    }
    if library == "torch":
        out["clipping"] = torch_clipping(gradients)
    HERE.mkdir(exist_ok=True)
    (HERE / f"{library}.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
