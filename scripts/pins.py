"""Reads the MLX pin from pyproject.toml. `python pins.py` prints it as a requirement for this machine."""

import re
import sys
from pathlib import Path


def mlx_version() -> str:
    # No TOML parser before Python 3.11, hence the pattern.
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    return re.search(r'"mlx==([0-9.]+)"', text).group(1)


def mlx_requirement() -> str:
    flavour = "" if sys.platform == "darwin" else "[cpu]"
    return f"mlx{flavour}=={mlx_version()}"


if __name__ == "__main__":
    print(mlx_requirement())
