"""Ctrl-C and SIGTERM at any moment: what is there is whole, and the run goes on from it."""

import random
import re
import shutil
import signal
import subprocess
import time

from box import TIMEOUT, Box
from fault import INTERRUPTED, OK, TERMINATED, check

STEPS = 4000  # with a save after each: most moments are moments of a save
FLAGS = ("--save-every", "1", "--steps-per-report", "50")


def begun(box: Box) -> subprocess.Popen:
    """A run that has saved at least once."""
    process = box.start(box.train(*FLAGS, steps=STEPS))
    deadline = time.monotonic() + TIMEOUT
    while not list((box.root / "run").glob("checkpoints/*/state.json")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the run ended before its first save: {process.communicate()[1]}")
        time.sleep(0.005)
    return process


def expect_resume(box: Box) -> None:
    """Two steps more than the last checkpoint has."""
    last = max(int(path.name) for path in (box.root / "run" / "checkpoints").iterdir()
               if path.name.isdigit() and (path / "state.json").exists())
    result = box.run(["train", "--resume", "run", "--iters", str(last + 2)])
    assert result.returncode == OK, result.stderr
    assert f"at step {last}" in result.stderr, result.stderr
    box.check_run_folder()
    assert (box.root / "run" / "checkpoints" / f"{last + 2:07}" / "state.json").exists(), "nothing was saved"


def interrupt(box: Box, number: signal.Signals, code: int) -> None:
    random.seed(number)
    process = begun(box)
    time.sleep(random.uniform(0, 0.2))
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}: {err}"
    assert not out, out
    assert re.search(r"Stopped at step \d+; everything is saved\. To go on:\n  temper train --resume run\n$", err), err
    assert "error" not in err, err
    box.check_run_folder()
    expect_resume(box)


@check
def Ctrl_C_during_a_save(box: Box) -> None:
    interrupt(box, signal.SIGINT, INTERRUPTED)


@check
def SIGTERM_during_a_save(box: Box) -> None:
    interrupt(box, signal.SIGTERM, TERMINATED)


@check
def a_second_Ctrl_C_ends_at_once(box: Box) -> None:
    process = begun(box)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == INTERRUPTED, f"exit code {process.returncode}: {err}"
    assert not out and "error" not in err, err
    expect_resume(box)


@check
def killed_at_any_moment(box: Box) -> None:
    """No time to clean up: every file under its own name is whole all the same."""
    random.seed(1)
    for _ in range(4):
        shutil.rmtree(box.root / "run", ignore_errors=True)
        process = begun(box)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.communicate()
        expect_resume(box)


@check
def Ctrl_C_while_a_library_runs_a_command(box: Box) -> None:
    """MLX asks for the version of g++: this one presses Ctrl-C in its terminal, which reaches the program as well."""
    compiler = box.root / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\nkill -INT 0\n")
    compiler.chmod(0o755)
    path = box.environment["PATH"]
    box.environment["PATH"] = f"{compiler.parent}:{path}"
    process = box.start(box.train(steps=STEPS), start_new_session=True)
    box.environment["PATH"] = path
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == INTERRUPTED, f"exit code {process.returncode}: {err}"
    box.check_run_folder()
    expect_resume(box)


@check
def Ctrl_C_before_the_first_step(box: Box) -> None:
    """Ends at any moment with the exit code of an interrupt, and leaves no folder without a run in it."""
    for delay in (0.0, 0.02, 0.05, 0.1):
        shutil.rmtree(box.root / "run", ignore_errors=True)
        process = box.start(box.train(steps=STEPS))
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
        # Before the program has set up its handler, the system ends it.
        assert process.returncode in (INTERRUPTED, -signal.SIGINT), f"exit code {process.returncode}: {err}"
        assert "error" not in err, err
        run = box.root / "run"
        assert not run.exists() or (run / "run.json").exists(), "an empty run folder is left over"
        box.check_run_folder()
