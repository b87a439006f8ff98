"""Checks that all C++ is formatted by the pinned clang-format; --fix formats it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ["src", "tests", "bench", "examples"]


def main() -> int:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".h", ".cpp")]
    tool = Path(sys.executable).parent / "clang-format"
    mode = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "--Werror"]
    return subprocess.run([tool, *mode, *sorted(files)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
