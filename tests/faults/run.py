"""Bad input of every kind: each must give one clear line, the exit code of its category, and leave nothing behind.

    run.py [BINARY] [--only WORDS]      BINARY: default $TEMPER_BINARY
Cases whose name contains WORDS; all by default. Two at a time; ends with the line "N passed, N failed".
"""

import os
import re
import signal
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True

import adapter_faults  # noqa: E402, F401
import checkpoint_faults  # noqa: E402, F401
import config_faults  # noqa: E402, F401
import data_faults  # noqa: E402, F401
import disk_faults  # noqa: E402, F401
import export_faults  # noqa: E402, F401
import gguf_faults  # noqa: E402, F401
import model_faults  # noqa: E402, F401
import quant_faults  # noqa: E402, F401
import signal_faults  # noqa: E402, F401
from box import Box  # noqa: E402
from fault import Check, Fault, checks, faults  # noqa: E402

WORKERS = 2


def run_fault(case: Fault, box: Box) -> None:
    arguments = case.prepare(box) or box.train()
    before = box.files()
    result = box.run(arguments)
    shown = f"`temper {' '.join(arguments)}` says\n{result.stderr}"
    assert result.returncode == case.code, f"exit code {result.returncode}, not {case.code}; {shown}"
    assert not result.stdout, f"writes to standard output: {result.stdout!r}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, f"{len(errors)} error lines; {shown}"
    assert result.stderr.endswith(errors[0] + "\n"), f"the error is not the last line; {shown}"
    assert re.fullmatch("error: " + case.message, errors[0]), f"not what was expected, {case.message!r}; {shown}"
    left = {name for name in box.files() - before if not re.fullmatch(case.leaves, name)}
    assert not left, f"leaves {sorted(left)}; {shown}"


def run_case(case: Fault | Check, binary: str) -> str | None:
    """What is wrong, or None."""
    with tempfile.TemporaryDirectory(prefix="temper-fault-") as root:
        try:
            box = Box(Path(root), binary)
            run_fault(case, box) if isinstance(case, Fault) else case.check(box)
        except (AssertionError, ValueError) as error:
            return str(error)
        except Exception:  # a fault of the case itself
            return traceback.format_exc()
    return None


def main(arguments: list[str]) -> int:
    words = arguments.pop() if "--only" in arguments else ""
    arguments = [argument for argument in arguments if argument != "--only"]
    # Started in the background of a script, this ignores SIGINT, and so would the programs that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    binary = os.path.abspath(arguments[0] if arguments else os.environ["TEMPER_BINARY"])
    cases = [case for case in [*faults, *checks] if words in case.name]
    with ThreadPoolExecutor(WORKERS) as pool:
        outcomes = list(zip(cases, pool.map(lambda case: run_case(case, binary), cases)))
    failed = 0
    for case, wrong in outcomes:
        if wrong is not None:
            failed += 1
            print(f"FAILED {case.name}: {wrong}\n")
    print(f"{len(faults)} kinds of bad input, {len(checks)} further checks")
    print(f"{len(cases) - failed} passed, {failed} failed")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
