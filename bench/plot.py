#!/usr/bin/env python3
"""Draws docs/images/*.svg from the figures in bench/results/.

usage: plot.py          (needs matplotlib: pip install matplotlib)

bench/results/step.json: tokens/s and GB of a training step by workload and program; sweep.jsonl: what sweep.py wrote.
"""
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
COLOURS = {"Temper": "#0b7285", "Unsloth": "#e67700", "PEFT + Liger": "#868e96", "mlx-lm": "#ced4da"}

plt.rcParams.update({"svg.hashsalt": "temper", "svg.fonttype": "none", "font.size": 10, "axes.spines.top": False,
                     "axes.spines.right": False})


def save(figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


def plot_peers() -> None:
    """Bars by workload; a program without a figure has no bar."""
    measured = json.loads((RESULTS / "step.json").read_text())
    workloads = measured["workloads"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.62 * len(workloads) + 1.6), sharey=True)
    for axis, (key, title) in zip(axes, [("tokens_per_second", "real tokens a second"), ("gb", "peak memory, GB")]):
        for i, (program, colour) in enumerate(COLOURS.items()):
            values = [(row, each[program][key]) for row, each in enumerate(workloads) if program in each]
            places = [row + (i - 1.5) * 0.2 for row, _ in values]
            axis.barh(places, [value for _, value in values], height=0.19, color=colour, label=program)
        axis.set_title(title, loc="left")
        axis.set_yticks(range(len(workloads)), [each["name"] for each in workloads])
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False, loc="upper right")
    figure.suptitle(measured["machine"], fontsize=9, x=0.99, ha="right")
    save(figure, "step_peers")


def plot_sweep() -> None:
    lines = [json.loads(line) for line in (RESULTS / "sweep.jsonl").read_text().splitlines()]
    sized = [line for line in lines if "tokens_per_second" in line]
    for by, label in [("width", "tokens a row"), ("batch", "rows of 2,048 a step")]:
        figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.2))
        size_of = {"width": "width", "batch": "rows"}[by]
        measured = [line for line in sized if line["by"] == by]
        for shape in dict.fromkeys(line["shape"] for line in measured):
            points = [line for line in measured if line["shape"] == shape]
            sizes = [line[size_of] for line in points]
            speed.plot(sizes, [line["tokens_per_second"] for line in points], marker="o", label=shape)
            memory.plot(sizes, [line["peak_memory_gb"] for line in points], marker="o", label=shape)
        for axis, title in [(speed, "tokens a second"), (memory, "peak memory, GB")]:
            axis.set_xscale("log", base=2)
            sizes = sorted({line[size_of] for line in measured if line[size_of] & (line[size_of] - 1) == 0})
            axis.set_xticks(sizes, [f"{size // 1024}k" if size >= 1024 else str(size) for size in sizes])
            axis.set_ylim(bottom=0)
            axis.set_title(title, loc="left")
            axis.set_xlabel(label)
        speed.legend(frameon=False)
        save(figure, f"step_by_{by}")


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot_peers()
    plot_sweep()
