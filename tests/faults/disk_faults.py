"""Folders that can't be written to, and disks that fill up."""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

from box import Box
from fault import IO, OK, check, fault
from model_faults import make_adapter


@fault(IO, r"cannot create folder d/train\.jsonl/run: Not a directory")
def a_run_folder_under_a_file(box: Box) -> list[str]:
    return box.train("--run-dir", "d/train.jsonl/run")


@fault(IO, r"cannot create folder d/train\.jsonl: .*")
def a_file_where_the_run_folder_should_be(box: Box) -> list[str]:
    return box.train("--run-dir", "d/train.jsonl")


@fault(IO, r"cannot (create folder|write to the run folder) (/proc/run|locked/run): .*")
def an_unwritable_run_folder(box: Box) -> list[str]:
    if os.geteuid() == 0:  # whom permissions don't stop
        return box.train("--run-dir", "/proc/run")
    (box.root / "locked").mkdir(mode=0o500)
    return box.train("--run-dir", "locked/run")


@check
def results_that_do_not_reach_their_file(box: Box) -> None:
    if not Path("/dev/full").exists():
        return
    with open("/dev/full", "w") as full:
        result = subprocess.run([box.binary, "train", "--print-config"], env=box.environment, stdout=full,
                                stderr=subprocess.PIPE, text=True)
    assert result.returncode == IO, result
    assert result.stderr.startswith("error: cannot write to standard output: "), result.stderr


@contextmanager
def small_disk(folder: Path, kilobytes: int):
    """Mounts a small file system at `folder`; yields whether that could be done."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    mounted = (os.geteuid() == 0 and shutil.which("mount") is not None
               and subprocess.run(mount, capture_output=True).returncode == 0)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def limit_file_size() -> None:
    """In place of a small disk. Python ignores the signal that goes with it, and so does the program started here."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def expect_full(result: subprocess.CompletedProcess) -> None:
    assert result.returncode == IO, f"exit code {result.returncode}: {result.stderr}"
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: cannot write disk/run/"), result.stderr
    assert "full" in last or "No space" in last or "too large" in last, last


@check
def a_full_disk(box: Box) -> None:
    """Fills up at a checkpoint after others, which stand: the run goes on from them once there is room."""
    with small_disk(box.root / "disk", 160) as mounted:
        flags = ["--run-dir", "disk/run", "--save-every", "1", "--keep-checkpoints", "0"]
        limits = {} if mounted else {"preexec_fn": limit_file_size, "restore_signals": False}
        expect_full(box.run(box.train(*flags, steps=30), **limits))
        box.check_run_folder("disk/run")
        if mounted:
            moved = box.root / "moved"
            shutil.copytree(box.root / "disk" / "run", moved)
            result = box.run(["train", "--resume", "moved", "--iters", "5"])
            assert result.returncode == OK, result.stderr
            box.check_run_folder("moved")


@check
def a_disk_full_from_the_start(box: Box) -> None:
    with small_disk(box.root / "disk", 4) as mounted:
        if not mounted:
            return
        (box.root / "disk" / "filler").write_bytes(b"x" * 4096)
        result = box.run(box.train("--run-dir", "disk/run"))
        assert result.returncode == IO, f"exit code {result.returncode}: {result.stderr}"
        assert result.stderr.splitlines()[-1].startswith("error: cannot "), result.stderr
        assert not (box.root / "disk" / "run").exists(), "a folder is left over"


@check
def a_token_cache_that_cannot_be_written(box: Box) -> None:
    """Is no reason not to train."""
    (box.root / "cache").write_text("a file")
    result = box.run(box.train())
    assert result.returncode == OK, result.stderr
    assert "warning: no token cache: " in result.stderr, result.stderr


@check
def a_disk_that_fills_up_while_fusing(box: Box) -> None:
    make_adapter(box)
    with small_disk(box.root / "disk", 160) as mounted:
        limits = {} if mounted else {"preexec_fn": limit_file_size, "restore_signals": False}
        result = box.run(["fuse", "--model", "m", "--adapter", "adapter", "--out", "disk/out"], **limits)
        assert result.returncode == IO, f"exit code {result.returncode}: {result.stderr}"
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: cannot write disk/out"), result.stderr
        assert "full" in last or "No space" in last or "too large" in last, last
        left = [path.name for path in (box.root / "disk").iterdir()]
        assert not left, f"leaves {left}"
