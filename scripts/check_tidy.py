"""Runs clang-tidy (.clang-tidy) on src/**/*.cpp, on all cores. Usage: check_tidy.py BUILD_FOLDER

A file that passed is not looked at again until it, a header of ours that it includes, its flags or the checks
change: its key is then another. Keys live outside the tree, so that a fresh clone profits from an old one.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TOOL = Path(sys.executable).parent / "clang-tidy"
FLAGS = [
    "--extra-arg=-Wno-unknown-warning-option",  # the build uses g++, whose warnings have other names
    "--extra-arg=-Wno-deprecated-declarations",  # libstdc++ 12 uses what C++20 deprecates
]
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "temper" / "clang-tidy"


@cache
def includes_of(path: Path) -> frozenset[Path]:
    """The file and every header of ours that it includes, however deep."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for name in INCLUDE.findall(file.read_bytes()):
            for folder in (SOURCE, ROOT / "rust", file.parent):
                if (folder / name.decode()).is_file():
                    waiting.append((folder / name.decode()).resolve())
                    break
    return frozenset(found)


@cache
def contents_hash(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def key_of(entry: dict, common: bytes) -> str:
    digest = hashlib.sha256(common)
    flags = entry["command"].split(" -o ")[0].replace(str(ROOT), "")
    digest.update(flags.encode())
    for path in sorted(includes_of(Path(entry["file"]))):
        digest.update(str(path.relative_to(ROOT)).encode() + contents_hash(path))
    return digest.hexdigest()


def tidy(entry: dict, build: str) -> tuple[str, bool, str]:
    result = subprocess.run([TOOL, "--quiet", "-p", build, *FLAGS, entry["file"]], capture_output=True, text=True)
    return os.path.relpath(entry["file"], ROOT), result.returncode == 0, result.stdout


def main() -> int:
    build = sys.argv[1]
    entries = json.loads((Path(build) / "compile_commands.json").read_text())
    entries = [entry for entry in entries if Path(entry["file"]).is_relative_to(SOURCE)]
    version = subprocess.run([TOOL, "--version"], capture_output=True).stdout
    common = version + (ROOT / ".clang-tidy").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    todo = {key: entry for entry in entries if not (folder / (key := key_of(entry, common))).exists()}
    print(f"clang-tidy: {len(todo)} of {len(entries)} files to look at", flush=True)

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for key, (name, clean, output) in zip(todo, pool.map(lambda entry: tidy(entry, build), todo.values())):
            if clean:
                (folder / key).touch()
            else:
                failed += 1
                print(f"{name}:\n{output}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
