"""Starts the native program that this package carries; nothing of Temper itself is Python."""

import os
import sys
from pathlib import Path


def main() -> None:
    binary = Path(__file__).parent / "bin" / "temper"
    os.execv(binary, [str(binary), *sys.argv[1:]])
