"""The register of cases: what is wrong, the one line that must say so, and the exit code."""

from collections.abc import Callable
from dataclasses import dataclass

from box import Box

# Exit codes, as docs/formats/exit-codes.md has them.
OK, CONFIG, DATA, MODEL, IO, CHECKPOINT, NON_FINITE = 0, 2, 3, 4, 5, 6, 8
INTERRUPTED, TERMINATED = 130, 143


@dataclass
class Fault:
    name: str
    prepare: Callable[[Box], list[str] | None]  # spoils the box; the program's arguments, or None: a plain train
    code: int
    message: str  # regular expression for the whole line after "error: "
    leaves: str  # regular expression of the files that may be left


@dataclass
class Check:
    name: str
    check: Callable[[Box], None]  # raises AssertionError or ValueError


faults: list[Fault] = []
checks: list[Check] = []


def fault(code: int, message: str, leaves: str = "(?!)") -> Callable:
    """Registers a function that makes one kind of bad input."""
    def register(prepare: Callable[[Box], list[str] | None]) -> Callable:
        faults.append(Fault(prepare.__name__.replace("_", " "), prepare, code, message, leaves))
        return prepare
    return register


def check(function: Callable[[Box], None]) -> Callable:
    """Registers a case that runs the program itself."""
    checks.append(Check(function.__name__.replace("_", " "), function))
    return function
