"""`temper data check`, `preview` and `prepare` as programs: what they print, where, and their exit codes."""

import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import TEMPER, copy_fixture  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return copy_fixture("llama2", tmp_path_factory.mktemp("model"), stops=True)


@pytest.fixture
def data(tmp_path):
    rows = [{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2}"} for i in range(10, 30)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps(rows[3]) + "\n")
    return folder


def run(*arguments):
    return subprocess.run([TEMPER, "data", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_check_counts_tokens_and_finds_the_test_row_in_the_training_data(model, data, tmp_path):
    result = run("check", "--data", data, "--model", model, "--cache-dir", tmp_path / "cache", "--json")
    assert result.returncode == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    train = found["splits"][0]
    assert (train["rows"], train["examples"], train["supervised_tokens"]) == (20, 20, 40)
    assert found["duplicates"][0]["earlier_split"] == "train"
    assert found["duplicates"][0]["first"] == [{"line": 1, "earlier_line": 4}]
    shown = run("check", "--data", data)
    assert "1 rows are in train as well" in shown.stdout and "20 rows" in shown.stdout


def test_check_lists_malformed_rows_and_fails(data):
    with (data / "train.jsonl").open("a") as file:
        file.write("oops\n")
    result = run("check", "--data", data)
    assert result.returncode == 3
    assert "train.jsonl:21: not JSON" in result.stdout


def test_check_knows_the_model_s_vocabulary(model, data, tmp_path):
    config = json.loads((model / "config.json").read_text())
    small = tmp_path / "small"
    small.mkdir()
    for file in model.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    (small / "config.json").write_text(json.dumps(config | {"vocab_size": 30}))
    result = run("check", "--data", data, "--model", small, "--cache-dir", tmp_path / "cache")
    assert result.returncode == 3
    assert "is beyond the model's vocabulary of 30" in result.stderr


def test_preview_marks_what_is_learned(model, data):
    result = run("preview", "--data", data, "--model", model, "--rows", 1)
    assert result.returncode == 0
    assert result.stdout.splitlines()[1] == " w4 w10 w11 w5« w12 </s>»"
    rows = json.loads(run("preview", "--data", data, "--model", model, "--rows", 2, "--json").stdout)["rows"]
    assert [row["line"] for row in rows] == [1, 2]
    assert rows[1]["supervised_tokens"] == 2


def test_prepare_writes_splits_once(data, tmp_path):
    out = tmp_path / "out"
    arguments = ("prepare", data, data / "test.jsonl", "--deduplicate", "--valid-fraction", 0.1, "--out", out)
    found = json.loads(run(*arguments, "--json").stdout)
    assert [output["rows"] for output in found["outputs"]] == [18, 2]
    assert (found["sources"][1]["duplicates"], found["sources"][1]["used"]) == (1, 0)
    assert len((out / "train.jsonl").read_text().splitlines()) == 18
    again = run(*arguments)
    assert again.returncode == 2 and "--overwrite" in again.stderr
