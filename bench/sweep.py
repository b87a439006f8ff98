#!/usr/bin/env python3
"""Speed and memory of a training step over row length and batch: one JSON line a size, for plot.py.

usage: sweep.py TEMPER SHAPE [--widths 512,1024,...] [--batches 1,2,...] [--tokens 16384] [-- ARGUMENT...]

By length: as many rows of each width as `--tokens` holds, at least one, so that until there the work but attention's is
the same. By batch: 1, 2, ... rows of 2,048. Arguments after -- go to `temper bench step`. A size that fails is
written with its error, and the sweep goes on.
"""
import argparse
import json
import subprocess
import sys


def run(temper: str, shape: str, width: int, rows: int, more: list[str]) -> dict:
    # Long rows take long, and have little noise.
    steps = ["--warmup", "2", "--steps", "6"] if width * rows <= 32768 else ["--warmup", "1", "--steps", "2"]
    command = [temper, "bench", "step", "--shape", shape, "--width", str(width), "--rows", str(rows), "--json"]
    done = subprocess.run([*command, *steps, *more], capture_output=True, text=True, check=False)
    found = {"shape": shape, "width": width, "rows": rows}
    if done.returncode != 0:
        return found | {"error": done.stderr.strip().splitlines()[-1:]}
    figures = json.loads(done.stdout)
    if not figures["grad_norm"] > 0:
        return found | {"error": "no gradient"}
    return found | {key: figures[key] for key in ("tokens_per_second", "step_ms", "peak_memory_gb", "loss", "grad_norm")}


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("temper")
    parser.add_argument("shape")
    parser.add_argument("--widths", default="512,1024,2048,4096,8192,16384,32768,65536,131072")
    parser.add_argument("--batches", default="1,2,4,8,16")
    parser.add_argument("--tokens", type=int, default=16384)
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    flags = parser.parse_args(own)
    numbers = lambda text: [int(number) for number in text.split(",") if number]
    for width in numbers(flags.widths):
        sized = run(flags.temper, flags.shape, width, max(1, flags.tokens // width), more)
        print(json.dumps({"by": "width"} | sized), flush=True)
    for rows in numbers(flags.batches):
        print(json.dumps({"by": "batch"} | run(flags.temper, flags.shape, 2048, rows, more)), flush=True)


if __name__ == "__main__":
    main()
