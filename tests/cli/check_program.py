"""What every verb of the built program owes its user: help that is quick and whole, one-line errors, clean streams.

The program is $TEMPER_BINARY.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.path.abspath(os.environ["TEMPER_BINARY"])
COMMANDS = {"data": ["check", "preview", "prepare"], "bench": ["step", "data", "decode", "load"]}  # verbs that have verbs of their own
HELP_SECONDS = 0.05
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
failures: list[str] = []


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                          env=ENVIRONMENT)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def expect(holds: bool, what: str) -> None:
    if not holds:
        failures.append(what)


def check_help(*verb: str) -> None:
    name = " ".join(verb)
    result = run(*verb, "--help")
    expect(result.returncode == 0 and not result.stderr, f"`temper {name} --help` fails: {result.stderr}")
    for part in (f"usage: temper {name}", "(default: ", "Example:\n  temper "):
        expect(part in result.stdout, f"`temper {name} --help` does not show '{part.strip()}'")
    expect("--json" in result.stdout, f"`temper {name}` does not take --json")
    wide = [line for line in result.stdout.splitlines() if len(line) > 120]
    expect(not wide, f"`temper {name} --help` has lines beyond 120 columns: {wide[:1]}")
    expect(run("help", *verb).stdout == result.stdout, f"`temper help {name}` differs from `temper {name} --help`")


def check_error(code: int, pattern: str, *arguments: str) -> None:
    result = run(*arguments)
    shown = f"`temper {' '.join(arguments)}`"
    expect(result.returncode == code, f"{shown} exits with {result.returncode}, not {code}: {result.stderr}")
    expect(not result.stdout, f"{shown} writes to standard output: {result.stdout!r}")
    expect(re.fullmatch(rf"error: {pattern}\n", result.stderr) is not None, f"{shown} says {result.stderr!r}")


def check_print_config(folder: Path) -> None:
    printed = run("train", "--print-config", "--epochs", "2", "--lora-alpha", "16", "--compat", "mlx-lm")
    file = folder / "run.yaml"
    file.write_text(printed.stdout)
    again = run("train", "--config", str(file), "--print-config")
    expect(printed.returncode == 0 and printed.stdout.startswith("# "), f"--print-config fails: {printed.stderr}")
    expect(again.stdout == printed.stdout, "--print-config does not load again to the same configuration")
    as_json = json.loads(run("train", "--config", str(file), "--print-config", "--json").stdout)
    expect(as_json["lora_parameters"]["alpha"] == 16, "--print-config --json does not hold the configuration")


def main() -> int:
    overview = run("--help").stdout
    verbs = re.findall(r"^  (\w+)  ", overview.split("Verbs:\n")[-1].split("\n\n")[0], re.M)
    expect("train" in verbs, f"`temper --help` lists no train verb but {verbs}")
    times = []
    for _ in range(5):  # of the processor: other tests run beside this one
        start = processor_seconds()
        run("--help")
        times.append(processor_seconds() - start)
    expect(min(times) < HELP_SECONDS, f"`temper --help` takes {min(times) * 1000:.0f} ms")
    for verb in verbs:
        for command in COMMANDS.get(verb, []):
            check_help(verb, command)
        if verb not in COMMANDS:
            check_help(verb)
            check_error(2, r"unknown flag --no-such-flag.*", verb, "--no-such-flag")
    expect(re.fullmatch(r"temper \d+\.\d+\.\d+\n", run("--version").stdout) is not None, "--version")
    check_error(2, r"unknown verb 'trian'; did you mean 'train'\?", "trian")
    check_error(2, r"--lora-rank must be at least 1, got 0", "train", "--lora-rank", "0")
    check_error(5, r"cannot read nowhere\.yaml: .*", "train", "--config", "nowhere.yaml")
    before = set(Path.cwd().iterdir())
    check_error(2, r"no model: .*", "train", "--data", "x")
    expect(set(Path.cwd().iterdir()) == before, "a refused run leaves something behind")
    check_print_config(Path.cwd())
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        code = main()
        os.chdir("/")
    sys.exit(code)
