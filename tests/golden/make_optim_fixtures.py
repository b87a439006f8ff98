"""Writes tests/golden/optim/torch.json and mlx.json: optimizers and schedules as their own libraries run them.

    python tests/golden/make_optim_fixtures.py torch    # torch 2.15.0, transformers 5.23.0
    python tests/golden/make_optim_fixtures.py mlx      # mlx 0.32.4, mlx-lm 0.32.2

Both files:
    parameters      NAME: nested list, at the start ("matrix.weight" [3, 4], "tall.weight" [6, 2], "matrix.bias" [4])
    gradients       50 steps of {NAME: nested list}, the same for every optimizer, given and not computed
    learning_rates  of the 50 steps
    optimizers      a list of {name, options: as in optimizer_config, compare: NAMEs, snapshots: {"10": {NAME: ...}, ...}}
    schedules       a list of {lr_schedule: as in a configuration, learning_rate, warmup_steps, total_steps,
                    learning_rates: {"STEP": value}}; STEP counts steps done
Weight decay is for matrices only. torch.json also has `clipping`: max_norm, norms and clipped gradients of step 0.
"""

import json
import pathlib
import random
import struct
import sys
import unittest.mock

HERE = pathlib.Path(__file__).resolve().parent / "optim"
STEPS = 50
SHAPES = {"matrix.weight": (3, 4), "tall.weight": (6, 2), "matrix.bias": (4,)}
MATRICES = ["matrix.weight", "tall.weight"]
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


# (name, options as Temper's configuration has them)
OPTIMIZERS = [
    ("adam", dict(betas=[0.9, 0.999], eps=1e-8)),
    ("adam", dict(betas=[0.8, 0.95], eps=1e-4)),
    ("adamw", dict(betas=[0.9, 0.999], eps=1e-8, weight_decay=0.1)),
    ("sgd", dict(momentum=0.0, nesterov=False, weight_decay=0.0)),
    ("sgd", dict(momentum=0.9, nesterov=False, weight_decay=0.0)),
    ("sgd", dict(momentum=0.9, nesterov=True, weight_decay=0.0)),
    ("sgd", dict(momentum=0.9, nesterov=False, weight_decay=0.1)),
    ("adafactor", dict()),
    ("adafactor", dict(beta_1=0.9, weight_decay=0.1, clip_threshold=0.5, decay_rate=-0.5)),
    ("adafactor", dict(scale_parameter=True, relative_step=True, eps=[1e-20, 0.3])),
    ("adafactor", dict(scale_parameter=True, relative_step=True, warmup_init=True)),
    ("muon", dict(weight_decay=0.0)),
    ("muon", dict(weight_decay=0.1, momentum=0.8, nesterov=False, ns_steps=3)),
    ("muon", dict(weight_decay=0.1, adjust_lr_fn="match_rms_adamw")),
]


def torch_optimizers(name, options, tensors):
    import torch
    from transformers.optimization import Adafactor

    options = dict(options)
    decay = options.pop("weight_decay", 0.0)
    matrices = {"params": [tensors[n] for n in MATRICES], "weight_decay": decay}
    rest = {"params": [tensors["matrix.bias"]], "weight_decay": 0.0}
    if name == "muon":
        return [torch.optim.Muon([matrices], lr=0.0, **options), torch.optim.AdamW([rest], lr=0.0, foreach=False)]
    if name == "adafactor":
        relative = options.setdefault("relative_step", False)
        options.setdefault("scale_parameter", False)
        options["beta1"] = options.pop("beta_1", None)
        return [Adafactor([matrices, rest], lr=None if relative else 0.0, **options)]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    return [kind([matrices, rest], lr=0.0, foreach=False, **options)]


def run_torch(name, options, parameters, gradients, rates):
    import torch

    tensors = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in parameters.items()}
    optimizers = torch_optimizers(name, options, tensors)
    snapshots = {}
    # torch's Muon rounds to bfloat16 before it iterates; this is about the formula
    with unittest.mock.patch.object(torch, "bfloat16", torch.float32):
        for step in range(STEPS):
            for tensor_name, tensor in tensors.items():
                tensor.grad = torch.tensor(gradients[step][tensor_name])
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rates[step]
                optimizer.step()
            if (step + 1) % 10 == 0:
                snapshots[str(step + 1)] = {n: t.tolist() for n, t in tensors.items()}
    return {"name": name, "options": options, "compare": list(SHAPES), "snapshots": snapshots}


RATE, TOTAL, LEAST = 0.002, 110, 2e-4


def schedule_entry(lr_schedule, warmup, values):
    return {
        "lr_schedule": lr_schedule,
        "learning_rate": RATE,
        "warmup_steps": warmup,
        "total_steps": TOTAL,
        "learning_rates": values,
    }


def transformers_schedules():
    import torch
    import transformers.optimization as o

    total = {"num_training_steps": TOTAL}
    least = {"min_learning_rate": LEAST}
    wsd = {"num_decay_steps": 22, "min_lr_ratio": LEAST / RATE, **total}
    decay = {"name": "wsd", "decay_share": 0.2, **least}
    made = []
    for lr_schedule, make, more in [
        ({"name": "constant"}, o.get_constant_schedule_with_warmup, {}),
        ({"name": "linear"}, o.get_linear_schedule_with_warmup, total),
        ({"name": "cosine"}, o.get_cosine_schedule_with_warmup, total),
        ({"name": "cosine", **least}, o.get_cosine_with_min_lr_schedule_with_warmup, {"min_lr": LEAST, **total}),
        ({"name": "cosine_restarts", "cycles": 3}, o.get_cosine_with_hard_restarts_schedule_with_warmup,
         {"num_cycles": 3, **total}),
        ({"name": "polynomial", "power": 2.5, **least}, o.get_polynomial_decay_schedule_with_warmup,
         {"power": 2.5, "lr_end": LEAST, **total}),
        ({**decay, "decay_shape": "linear"}, o.get_wsd_schedule, {"decay_type": "linear", **wsd}),
        ({**decay, "decay_shape": "cosine"}, o.get_wsd_schedule, {"decay_type": "cosine", **wsd}),
        ({**decay, "decay_shape": "1-sqrt"}, o.get_wsd_schedule, {"decay_type": "1-sqrt", **wsd}),
    ]:  # fmt: skip
        for warmup in (0, 10):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
            schedule = make(optimizer, num_warmup_steps=warmup, **more).lr_lambdas[0]
            start = {"warmup_init": LEAST} if lr_schedule["name"] == "wsd" else {}
            # past the end transformers' cosine rises again; a run ends there
            values = {str(s): RATE * schedule(s) for s in AT if s <= TOTAL}
            made.append(schedule_entry({**lr_schedule, **start}, warmup, values))
    return made


def torch_schedules():
    import torch

    k = torch.optim.lr_scheduler
    made = []
    for lr_schedule, make in [
        ({"name": "exponential", "decay_rate": 0.97}, lambda o: k.ExponentialLR(o, 0.97)),
        ({"name": "step", "decay_rate": 0.5, "decay_steps": 25}, lambda o: k.StepLR(o, 25, 0.5)),
        ({"name": "cosine_restarts", "period": 25}, lambda o: k.CosineAnnealingWarmRestarts(o, 25)),
        ({"name": "cosine_restarts", "period": 11, "period_multiplier": 2, "min_learning_rate": LEAST},
         lambda o: k.CosineAnnealingWarmRestarts(o, 11, 2, LEAST)),
    ]:  # fmt: skip
        for warmup in (0, 10):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
            schedule = make(optimizer)
            if warmup:
                lead = k.LinearLR(optimizer, 0.25, 1.0, warmup)
                schedule = k.SequentialLR(optimizer, [lead, schedule], [warmup])
            values = {}
            for step in range(max(AT) + 1):
                if step in AT:
                    values[str(step)] = optimizer.param_groups[0]["lr"]
                optimizer.step()
                schedule.step()
            start = {"warmup_init": 0.25 * RATE} if warmup else {}
            made.append(schedule_entry({**lr_schedule, **start}, warmup, values))
    return made


def numpy_schedules():
    import numpy

    points = [[10, 1e-4], [25, 2e-3], [100, 1e-3], [110, 0.0]]
    values = {str(s): numpy.interp(s, *zip(*points)) for s in AT}
    return [schedule_entry({"name": "points", "points": points}, 0, values)]


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


def run_mlx(name, options, compare, parameters, gradients, rates):
    import mlx.core as mx
    import mlx.optimizers as mo

    kinds = {"adam": mo.Adam, "adamw": mo.AdamW, "sgd": mo.SGD, "lion": mo.Lion, "adafactor": mo.Adafactor, "muon": mo.Muon}
    own = {k: v for k, v in options.items() if k not in ("decoupled", "adamw_for_rest")}
    optimizer = kinds[name](learning_rate=0.0, **own)
    tensors = {n: mx.array(v) for n, v in parameters.items()}
    optimizer.init(tensors)
    snapshots = {}
    for step in range(STEPS):
        optimizer.learning_rate = mx.array(rates[step])
        tensors = optimizer.apply_gradients({n: mx.array(v) for n, v in gradients[step].items()}, tensors)
        if (step + 1) % 10 == 0:
            snapshots[str(step + 1)] = {n: t.tolist() for n, t in tensors.items()}
    return {"name": name, "options": options, "compare": compare, "snapshots": snapshots}


# mlx's weight decay takes biases too
MLX_MUON = dict(decoupled=False, adamw_for_rest=False)
MLX_OPTIMIZERS = [
    ("adam", dict(betas=[0.9, 0.999], eps=1e-8, bias_correction=False), list(SHAPES)),
    ("adam", dict(betas=[0.9, 0.999], eps=1e-8, bias_correction=True), list(SHAPES)),
    ("adamw", dict(betas=[0.9, 0.999], eps=1e-8, bias_correction=False, weight_decay=0.1), MATRICES),
    ("sgd", dict(momentum=0.9, weight_decay=0.0), list(SHAPES)),
    ("sgd", dict(momentum=0.9, weight_decay=0.1, dampening=0.3), MATRICES),
    ("lion", dict(betas=[0.9, 0.99]), list(SHAPES)),
    ("lion", dict(betas=[0.8, 0.95], weight_decay=0.3), MATRICES),
    ("adafactor", dict(scale_parameter=True, relative_step=True), list(SHAPES)),
    ("adafactor", dict(scale_parameter=False, relative_step=False, beta_1=0.9), list(SHAPES)),
    ("adafactor", dict(scale_parameter=True, relative_step=False, weight_decay=0.1), MATRICES),
    ("muon", dict(weight_decay=0.0, **MLX_MUON), list(SHAPES)),
    ("muon", dict(weight_decay=0.1, momentum=0.8, nesterov=False, ns_steps=3, **MLX_MUON), MATRICES),
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
        schedule_entry(config, 0, {str(s): float(build_schedule(config)(mx.array(s))) for s in AT})
        for config in MLX_SCHEDULES
    ]


def main():
    library = sys.argv[1]
    parameters, gradients, rates = make_problem()
    problem = (parameters, gradients, rates)
    out = {"parameters": parameters, "gradients": gradients, "learning_rates": rates}
    if library == "torch":
        out["optimizers"] = [run_torch(*settings, *problem) for settings in OPTIMIZERS]
        out["schedules"] = transformers_schedules() + torch_schedules() + numpy_schedules()
        out["clipping"] = torch_clipping(gradients)
    else:
        out["optimizers"] = [run_mlx(*settings, *problem) for settings in MLX_OPTIMIZERS]
        out["schedules"] = mlx_schedules()
    HERE.mkdir(exist_ok=True)
    (HERE / f"{library}.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
