"""Data larger than memory: what a file of any size needs to be read and tokenized stays within bounds."""

import json
import os
import pathlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import TEMPER, copy_fixture  # noqa: E402

ROWS = 4000
TEXT = "w7 w8 w9 " * 1000  # 9 kB a row: 36 MB in all


def write_rows(path, rows):
    if path.suffix == ".parquet":
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as file:
            for start in range(0, rows, 500):
                file.write_table(pa.table({"text": [f"w{i % 99 + 3} {TEXT}" for i in range(start, start + 500)]}, schema=schema))
    else:
        with open(path, "w") as file:
            file.writelines(json.dumps({"text": f"w{i % 99 + 3} {TEXT}"}) + "\n" for i in range(rows))


def peak_mb(folder, *arguments):
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([TEMPER, *map(str, arguments)], cwd=folder, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)  # fmt: skip
    said = process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said.decode()
    return usage.ru_maxrss / 1024


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(kind, tmp_path):
    model = copy_fixture("llama32", tmp_path)
    write_rows(tmp_path / f"small.{kind}", 500)
    write_rows(tmp_path / f"large.{kind}", ROWS)
    peaks = [
        peak_mb(tmp_path, "train", "--model", model, "--data", f"{name}.{kind}", "--iters", 1, "--batch-size", 1,
                "--max-seq-length", 128, "--run-dir", name)
        for name in ("small", "large")
    ]  # fmt: skip
    assert peaks[1] < peaks[0] + 20, peaks  # eight times the rows, 36 MB of text
