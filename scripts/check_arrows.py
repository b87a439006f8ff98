"""Checks that `#include`s in src/ only follow the arrows of the design. Usage: check_arrows.py [ROOT]"""

import re
import sys
from pathlib import Path

# What each part may include directly; what those include is allowed too. Everything may include itself.
ARROWS = {
    "base": [],
    "config": ["base"],
    "net": ["base"],
    "text": ["base"],
    "data": ["config", "net", "text"],
    "quant": ["base"],
    "nn": ["quant"],
    "models": ["nn"],
    "io": ["models"],
    "optim": ["config", "nn"],  # its structs say what to optimize with (docs/decisions/0008)
    "dist": ["nn"],
    "infer": ["data", "io"],
    "eval": ["infer"],
    "train": ["eval", "optim", "dist"],
    "cli": ["train"],
    "http": ["base"],
    "server": ["base", "config", "http"],
}
# Data preparation and the server must build and run without MLX.
WITHOUT_MLX = {"base", "config", "net", "text", "data", "http", "server"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def reachable(part: str) -> set[str]:
    found = {part}
    for below in ARROWS[part]:
        found |= reachable(below)
    return found


def part_of(path: str) -> str | None:
    """The part that a path below src/, or an include, belongs to; None for a library's header."""
    names = path.split("/")
    if names[0] == "temper" and len(names) > 2:
        return names[1]
    return names[0] if len(names) > 1 and names[0] in ARROWS else None


def violations(root: Path) -> list[str]:
    source = root / "src"
    found = []
    for path in sorted(source.rglob("*")):
        if path.suffix not in (".h", ".cpp"):
            continue
        part = part_of(path.relative_to(source).as_posix())
        where = path.relative_to(root).as_posix()
        if part not in ARROWS:
            found.append(f"{where}: belongs to no part of the design (scripts/check_arrows.py lists them)")
            continue
        allowed = reachable(part)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            include = INCLUDE.match(line)
            if not include:
                continue
            target = part_of(include[1])
            if target and target not in allowed:
                found.append(f"{where}:{number}: {part} may not include {include[1]}; it may see {sorted(allowed)}")
            if include[1].startswith("mlx/") and part in WITHOUT_MLX:
                found.append(f"{where}:{number}: {part} may not know MLX ({include[1]})")
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    found = violations(root)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
